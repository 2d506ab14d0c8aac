"""Twisted's listening ports, and the connections that are accepted on them, counted.

What differs from the stock ones is little.  A set knows every port and every connection for as long as they live,
which is all that normal running pays for a drain, once a connection.  And a port that stops listening is closed
without `shutdown(2)`, which would end the listening of every process that holds the socket, a successor included.
"""

from __future__ import annotations

import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

from twisted.internet import tcp, unix
from twisted.python import context
from twisted.python.log import ILogContext

from graceful.sockets.endpoint_listener import name_of

if TYPE_CHECKING:
    from graceful.reactor.lingering import Lingering
    from graceful.reactor.tracking import Tracker


class _Accepted:
    """What both kinds of connections have in common.

    :ivar accepted: when it was, monotonic seconds.
    """

    reactor: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.accepted = monotonic()
        tracker: Tracker = self.reactor.tracker
        tracker.add(self)

    def connectionLost(self, reason: Any) -> None:
        """It is closed; its protocol is told first."""
        try:
            super().connectionLost(reason)  # type: ignore[misc]
        finally:
            self.reactor.tracker.lost(self)


class TCPServer(_Accepted, tcp.Server):
    """A connection that was accepted on a TCP port."""

    def _closeSocket(self, orderly: bool) -> None:
        lingering: Lingering | None = self.reactor.tracker.lingering
        if lingering is not None and orderly:
            lingering.hold(self.socket)
        super()._closeSocket(orderly)  # type: ignore[no-untyped-call]


class UNIXServer(_Accepted, unix.Server):
    """A connection that was accepted on a Unix socket."""


class _Listening:
    """What both kinds of ports have in common."""

    reactor: Any

    def startListening(self) -> None:
        """Listen, and be counted."""
        super().startListening()  # type: ignore[misc]
        self.reactor.tracker.ports[self] = _current_log_prefix()

    def connectionLost(self, reason: Any) -> None:
        """It listens no more."""
        self.reactor.tracker.ports.pop(self, None)
        super().connectionLost(reason)  # type: ignore[misc]


class TCPPort(_Listening, tcp.Port):
    """A TCP port that listens."""

    transport = TCPServer  # type: ignore[assignment]
    _shouldShutdown = False


class UNIXPort(_Listening, unix.Port):
    """A Unix socket that listens."""

    transport = UNIXServer
    _shouldShutdown = False


def name_of_port(port: Any) -> str:
    """What log and status call a port: by the endpoint that listens so."""
    kind = "unix" if port.addressFamily == socket.AF_UNIX else "ssl" if port._type == "TLS" else "tcp"
    return name_of(kind, port) or repr(port)


def _current_log_prefix() -> str:
    """The log prefix of whom the reactor has called just now: a connection's, for one; `-` for none.

    A port that a protocol opens while it reads is there for its connection, as in FTP's passive mode: it is no door
    of the service's, and outlives the doors.
    """
    return str((context.get(ILogContext) or {}).get("system", "-"))
