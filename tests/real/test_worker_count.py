"""The number of workers changes while they serve: by the command and by signals, and no request is lost."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack, suppress

import pytest

from tests.real.test_workers import complete, served, supervisor
from tests.support.clients import get
from tests.support.command import graceful
from tests.support.home import UNPRIVILEGED, Home
from tests.support.load import Load
from tests.support.server import KEEPS_READING, Server
from tests.support.waiting import wait_for


def test_workers_come_and_go_under_load(home: Home) -> None:
    """`graceful workers` and both signals add and remove workers under load, and no request is lost."""
    with ExitStack() as stack:
        server = stack.enter_context(supervisor(home, "--threads", "30", "--spool", str(home.spool), workers=2))
        load = stack.enter_context(Load(server.port))
        load.mark()
        for count, before in ((4, 2), (1, 4), (2, 1)):
            told = graceful(home, "workers", str(count))
            assert told.returncode == 0, told
            assert told.stdout.startswith(f"{count} worker") and f"(were {before})" in told.stdout
            complete(home, count)
            load.mark()
        os.kill(server.pid, signal.SIGTTIN)
        complete(home, 3)
        os.kill(server.pid, signal.SIGTTOU)
        complete(home, 2)
        load.mark()
        load.stop().check()
        server.wait_line(r"worker 3, process \d+, is one too many, and drains", count=2)
        assert not server.log.find_all("another one starts")


def privileged_port() -> int:
    """A port that is free, and that only root can bind."""
    for port in range(1023, 512, -1):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port below 1024 is free")


def test_workers_are_added_where_only_root_can_bind(home: Home) -> None:
    """With --uid and a port below 1024, the command and SIGTTIN add workers, as far as root has bound sockets."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    home.disturbed = True  # who may not write there may not remove either
    user = str(UNPRIVILEGED)
    prefix = [word.replace("+setuid", "+setuid,+net_bind_service") for word in KEEPS_READING]
    with ExitStack() as stack:
        port, options = privileged_port(), ("--uid", user, "--gid", user)
        server = supervisor(home, workers=2, port=port, twistd_options=options, prefix=prefix)
        stack.enter_context(server)
        load = stack.enter_context(Load(port))
        load.mark()
        assert graceful(home, "workers", "4").stdout.startswith("4 workers (were 2)")
        complete(home, 4)
        os.kill(server.pid, signal.SIGTTIN)
        workers = complete(home, 5)
        load.mark()
        load.stop().check()
        assert {os.stat(f"/proc/{pid}").st_uid for pid in workers.values()} == {UNPRIVILEGED}
        wait_for(lambda: len(served(port, 60)) == 5)
        told = graceful(home, "workers", "65")
        assert told.returncode == 1
        assert told.stderr.endswith("sockets for 64 workers; restart with --workers 65 for more; workers: 5\n")
        assert told.stderr.count("\n") == 1
        assert graceful(home, "workers", "2").returncode == 0
        server.terminate()
        assert server.wait() == 0


def test_numbers_that_cannot_be_are_refused(home: Home) -> None:
    """A number below 1 is refused in one line, and so is every number by a server without workers."""
    told = graceful(home, "workers", "0")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == (
        "graceful: argument N: expected a number of workers, at least 1, not '0'; see graceful workers --help\n"
    )
    with Server(home) as server:
        told = graceful(home, "workers", "3")
        assert told.returncode == 1
        assert (
            "only a supervisor can start and stop workers: start the server with --workers 2, or more" in told.stderr
        )
        assert told.stderr.count("\n") == 1
        os.kill(server.pid, signal.SIGTTOU)
        server.wait_line("no change of workers: only a supervisor can start and stop workers")
        assert get(server.port, "/").status == 200
