"""The server in somebody else's application, where it is one service of several."""

from __future__ import annotations

import signal

import pytest

from tests.support.clients import Connection, Failure, get
from tests.support.home import Home
from tests.support.server import APPLICATIONS, CLOSED, OPEN
from tests.support.tac import TacServer


def test_two_servers_with_one_root(home: Home) -> None:
    """Two servers may serve one tree; one is stopped and started again, while the other goes on."""
    with TacServer(home, APPLICATIONS / "two_servers.tac") as server:
        server.wait_line(OPEN, count=2)
        first, second = server.ports
        for port in (second, first):
            assert get(port, "/wsgi").body == b"served"
        for round_ in range(2):
            get(first, "/second/stop")
            server.wait_line(CLOSED, count=round_ + 1)
            server.wait_line("drained in", count=round_ + 1)
            with pytest.raises(Failure, match="refused"):
                Connection(second)
            assert get(first, "/wsgi").body == b"served"
            get(first, "/second/start")
            server.wait_line(OPEN, count=round_ + 3)
            second = server.ports[-1]
            assert get(second, "/wsgi").body == b"served"
        server.terminate()
        assert server.wait() == -signal.SIGTERM
