"""Connections that move: a deploy closes none, and the next request on each is answered by the new process."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clients import Connection, Failure, request
from tests.support.command import status_of
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import Server, become_subreaper
from tests.support.waiting import wait_for

SHORT = ("--idle-grace", "0.5")
MANY = 300
MOVED = r"drained in .* 0 abandoned, (\d+) connections moved$"


def replaced(stack: ExitStack, server: Server, home: Home, deploy: str) -> int:
    """Deploy; return the process that serves now."""
    if deploy == "takeover":
        stack.enter_context(Server(home, "--takeover", *SHORT, port=server.port, wait_open=False))
    return replaced_here(server, home, deploy)


def replaced_here(server: Server, home: Home, deploy: str) -> int:
    """Wait for a deploy that is under way, or begin it."""
    if deploy == "SIGHUP":
        become_subreaper()
        server.send_signal(signal.SIGHUP)
    server.wait_line(r"process \d+ has taken over")
    wait_for(lambda: pid_in(home) not in (0, server.pid))
    return pid_in(home)


def pid_in(home: Home) -> int:
    """Returns the process in the pid file."""
    return int((home.run / "twistd.pid").read_text() or "0")


def ended(server: Server, new: int, deploy: str) -> None:
    """Stop the new process, and see that both have ended well."""
    os.kill(new, signal.SIGTERM)
    assert server.wait() == 0
    if deploy == "SIGHUP":
        assert os.waitstatus_to_exitcode(os.waitpid(new, 0)[1]) == 0


def test_idle_connections_move(home: Home, stack: ExitStack, deploy: str) -> None:
    """Hundreds of them, fresh and used, on TCP and on a Unix socket; the old process ends at once."""
    listen = ["tcp:0:interface=127.0.0.1", f"unix:{home.run}/socket"]
    server = stack.enter_context(Server(home, *SHORT, listen=listen))
    clients = [stack.enter_context(Connection(server.port)) for _ in range(MANY)]
    clients += [stack.enter_context(Connection(f"{home.run}/socket")) for _ in range(5)]
    for client in clients[10:]:
        assert client.get("/pid").body == b"%d" % server.pid
    if deploy == "takeover":
        port = f"tcp:{server.port}:interface=127.0.0.1"
        stack.enter_context(Server(home, "--takeover", *SHORT, listen=[port, listen[1]], wait_open=False))
    new = replaced_here(server, home, deploy)
    assert int(server.wait_line(MOVED)[1]) == len(clients)
    # Those that are on their way when the old process ends are counted when they have arrived.
    wait_for(lambda: status_of(home)["moved"] == {"in": len(clients), "out": 0})
    for client in clients:
        assert client.get("/pid").body == b"%d" % new
    ended(server, new, deploy)


def test_a_busy_connection_moves_when_it_is_answered(home: Home, stack: ExitStack, deploy: str) -> None:
    """Its answer keeps it open, the old process ends, and the next request is answered by the new one."""
    server = stack.enter_context(Server(home, *SHORT))
    gate = stack.enter_context(Gate(home.path / "gate"))
    client = stack.enter_context(Connection(server.port))
    client.send(request(gate.target()))
    gate.wait_reached()
    new = replaced(stack, server, home, deploy)
    gate.open()
    answer = client.answer()
    assert (answer.status, answer.says_close) == (200, False)
    assert client.get("/pid").body == b"%d" % new
    assert server.drained() == (1, 0, 0)
    ended(server, new, deploy)


def test_requests_that_are_sent_during_the_move_are_answered_once(home: Home, stack: ExitStack, deploy: str) -> None:
    """Clients that never pause: each request on each connection has one answer, from either process."""
    server = stack.enter_context(Server(home, *SHORT))
    clients = [stack.enter_context(Connection(server.port)) for _ in range(20)]
    if deploy == "takeover":
        stack.enter_context(Server(home, "--takeover", *SHORT, port=server.port, wait_open=False))
    else:
        become_subreaper()
        server.send_signal(signal.SIGHUP)
    seen: set[bytes] = set()
    count = 0
    while len(seen) < 2 or count < 2000:
        for client in clients:
            seen.add(client.get("/pid").body)
            count += 1
        assert count < 200_000
    new = pid_in(home)
    for client in clients:
        assert client.get("/pid").body == b"%d" % new
    server.wait_line(MOVED)
    ended(server, new, deploy)


def test_a_successor_that_dies_costs_no_connection_that_it_has_not_taken(home: Home, stack: ExitStack) -> None:
    """A request in the application keeps its connection in the old process, which answers it."""
    server = stack.enter_context(Server(home, *SHORT))
    gate = stack.enter_context(Gate(home.path / "gate"))
    client = stack.enter_context(Connection(server.port))
    client.send(request(gate.target()))
    gate.wait_reached()
    successor = Server(home, "--takeover", *SHORT, port=server.port, wait_open=False)
    stack.callback(successor.kill)
    successor.start()
    server.wait_line(r"process \d+ has taken over")
    os.kill(successor.pid, signal.SIGKILL)
    home.disturbed = True
    gate.open()
    assert client.answer().status == 200
    assert server.wait(10) == 0
    with pytest.raises((Failure, OSError)):
        client.get("/pid")
    assert Path(home.run).exists()
