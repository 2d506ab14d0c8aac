"""A system that is short of what a stop could need: it comes all the same, and in time."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.real.conftest import UIDS, _home
from tests.support.clients import Connection, request
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import Server


@pytest.fixture
def limited_home() -> Iterator[Home]:
    """Directories for a server of a user whose processes a limit on threads holds for: not root's."""
    yield from _home(UIDS[-1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_needs_no_new_thread(limited_home: Home, number: signal.Signals) -> None:
    """At a limit on threads, as a container's pids limit sets it, each stopping signal is obeyed."""
    with (
        Server(limited_home, application="scarce:application") as server,
        Gate(limited_home.path / "gate") as gate,
        Connection(server.port) as connection,
    ):
        connection.send(request(gate.target()))
        gate.wait_reached()
        server.send_signal(number)
        server.wait_closed()
        if number != signal.SIGQUIT:
            gate.open()
        assert connection.answer().status == (503 if number == signal.SIGQUIT else 200)
        if number == signal.SIGQUIT:
            gate.open()
        assert server.wait() == (70 if number == signal.SIGQUIT else 0)


def test_a_start_without_threads_ends_in_one_line(limited_home: Home) -> None:
    """A server that cannot have its threads does not accept: it says what to raise, and ends."""
    environment = {"SCARCE_FROM_THE_START": "1"}
    with Server(limited_home, application="scarce:application", environment=environment, wait_open=False) as server:
        assert server.wait() == 1
        server.wait_line(r"can't start new thread")
