"""The body of an upstream's response: passed on piece by piece, or not wanted."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet import protocol
from twisted.python.failure import Failure

from graceful.downloads.reactor_answer import ReactorAnswer, run_or_fail


class BodyTaker(ReactorAnswer, Protocol):
    """An answer that a body is for (see :class:`graceful.downloads.relay.Relay`).  Reactor thread."""

    def data(self, data: bytes) -> None:
        """A piece has come."""

    def body_ended(self, reason: Failure) -> None:
        """The body is whole, or its connection has ended."""


class BodyReceiver(protocol.Protocol):
    """Passes one response's body to its relay."""

    def __init__(self, relay: BodyTaker) -> None:
        self._relay: BodyTaker | None = relay

    def dataReceived(self, data: bytes) -> None:
        """Pass a piece on."""
        if self._relay is not None:
            run_or_fail(self._relay, self._relay.data, data)

    def connectionLost(self, reason: Any = None) -> None:
        """Tell the relay that the body or the connection has ended."""
        relay, self._relay = self._relay, None
        if relay is not None:
            run_or_fail(relay, relay.body_ended, reason)

    def drop(self) -> None:
        """Close the connection: the rest is not wanted."""
        self._relay = None
        if self.transport is not None:
            self.transport.loseConnection()


class DiscardedBody(protocol.Protocol):
    """Closes the connection instead of receiving a body."""

    def connectionMade(self) -> None:
        """Close the connection before the body comes."""
        assert self.transport is not None
        self.transport.loseConnection()
