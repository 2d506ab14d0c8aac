"""Children that the application makes inherit nothing that is the server's."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.support.clients import Connection, get
from tests.support.home import Home
from tests.support.server import Server

FORKS = "forks:application"


@pytest.fixture(scope="module", params=["1", "2"], ids=["alone", "workers"])
def server(request: pytest.FixtureRequest, module_home: Home) -> Iterator[Server]:
    """A server with an application that makes children, under a service manager."""
    environment = {"NOTIFY_SOCKET": str(module_home.path / "notify"), "WATCHDOG_USEC": "60000000"}
    with Server(module_home, "--workers", request.param, application=FORKS, environment=environment) as server:
        server.tracebacks = None  # KeyboardInterrupt in a child has one
        yield server


def test_a_forked_child_can_be_terminated(server: Server) -> None:
    """Each signal has its default action in a child, also in one that was made while the application was imported."""
    numbers = [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM]
    interrupted, *others = (int(status) for status in get(server.port, "/terminate").body.split())
    assert others == [-number for number in numbers]
    assert interrupted == 1  # by KeyboardInterrupt


def test_a_pool_of_processes_ends(server: Server) -> None:
    """`multiprocessing.Pool` ends its processes by SIGTERM."""
    for _ in range(3):
        assert get(server.port, "/pool").body == b"[1, 2]"


def test_children_cannot_speak_for_the_service(server: Server) -> None:
    """What the service manager says to the server is in no child's environment."""
    assert get(server.port, "/environment").body == b"nothing\n"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_child_holds_no_socket_of_the_server(home: Home, workers: str) -> None:
    """With a child that lives on, the port is closed, and so is the connection, once the server has closed them."""
    options = ("--workers", workers, "--idle-grace", "0")
    with Server(home, *options, application=FORKS) as server, Connection(server.port) as idle:
        child = int(idle.get("/hold").body)
        try:
            server.terminate()
            assert server.wait() == 0
            idle.end()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", server.port))
        finally:
            os.kill(child, signal.SIGKILL)
