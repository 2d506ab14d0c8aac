"""Two servers behind a real HAProxy are replaced one after the other, and no client notices."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.support.haproxy import HAProxy
from tests.support.home import Home
from tests.support.load import Load
from tests.support.ports import free_port
from tests.support.server import Server

ROUNDS = 2


@pytest.mark.parametrize("reuse", ["", "http-reuse never"], ids=["default reuse", "never reuse"])
def test_swap_behind_haproxy(home: Home, reuse: str) -> None:
    """Under five kinds of clients, both servers are replaced twice; not a single request is lost or refused."""
    options = ("--idle-grace", "1", "--threads", "30", "--spool", str(home.spool))
    with ExitStack() as stack:

        def start(name: str) -> Server:
            pid_file = f"--pidfile={name}.pid"
            return stack.enter_context(Server(home, *options, port=ports[name], twistd_options=[pid_file]))

        ports = {name: free_port() for name in ("one", "two")}
        servers = {name: start(name) for name in ports}
        balancer = stack.enter_context(HAProxy(home.path, ports["one"], ports["two"], reuse))
        load = stack.enter_context(Load(balancer.port))
        for name in ("one", "two") * ROUNDS:
            load.mark()
            old = servers[name]
            balancer.leave(name, old.pid)
            old.wait_closed()
            servers[name] = start(name)
            assert old.wait() == 0
            assert old.drained()[1:] == (0, 0)
            balancer.enter(name)
        load.mark()
        report = load.stop()
        report.check()
