"""The server as process 1 of a container: it collects the processes that have lost their parent."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.clients import get
from tests.support.home import Home
from tests.support.processes import children_of, state_of
from tests.support.server import Server
from tests.support.waiting import wait_for

CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def zombies(pid: int) -> list[int]:
    """Returns those of them that have ended and were not collected."""
    return [child for child in children_of(pid) if state_of(child) == "Z"]


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_orphans_of_requests_are_collected(home: Home, options: tuple[str, ...]) -> None:
    """No zombie stays, and an exit status that a request waits for is not taken from it."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    server = Server(home, *options, application="orphans:application", prefix=CONTAINER, wait_open=False)
    with server:
        server.wait_open()
        (first,) = children_of(server.pid)
        for _ in range(5):
            assert get(server.port, "/orphan").body == b"3"
        wait_for(lambda: bool(zombies(first)))
        assert get(server.port, "/child").body == b"4"
        wait_for(lambda: not zombies(first))
        os.kill(first, signal.SIGTERM)
        assert server.wait() == 0
