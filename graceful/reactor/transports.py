"""Twisted's listening ports and accepted connections, which the tracker knows.

A drain has to know what is open; Twisted keeps no such list.  So each port and each connection registers itself while
it is open, which is all that a drain costs before it begins.  And a port that stops listening is closed without
`shutdown(2)`, which would end the listening in every process that holds the socket, a successor included.
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
    """The part that both kinds of connections have in common.

    :ivar accepted: when the connection was accepted, monotonic seconds.
    """

    reactor: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.accepted = monotonic()
        tracker: Tracker = self.reactor.tracker
        tracker.add(self)

    def connectionLost(self, reason: Any) -> None:
        """Forget a connection that is closed, after its protocol was told."""
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
    """The part that both kinds of ports have in common."""

    reactor: Any

    def startListening(self) -> None:
        """Listen, and register with the tracker."""
        super().startListening()  # type: ignore[misc]
        self.reactor.tracker.ports[self] = _current_log_prefix()

    def connectionLost(self, reason: Any) -> None:
        """Forget a port that has stopped listening."""
        self.reactor.tracker.ports.pop(self, None)
        super().connectionLost(reason)  # type: ignore[misc]


class TCPPort(_Listening, tcp.Port):
    """A listening TCP port."""

    transport = TCPServer  # type: ignore[assignment]
    _shouldShutdown = False


class UNIXPort(_Listening, unix.Port):
    """A listening Unix socket."""

    transport = UNIXServer
    _shouldShutdown = False


def name_of_port(port: Any) -> str:
    """Returns what log and status call a port: the endpoint description that listens so."""
    kind = "unix" if port.addressFamily == socket.AF_UNIX else "ssl" if port._type == "TLS" else "tcp"
    return name_of(kind, port) or repr(port)


def _current_log_prefix() -> str:
    """Returns the log prefix of the connection that the reactor is calling; `-` for none.

    A port that a protocol opens while it reads belongs to its connection, as in FTP's passive mode: a drain
    does not close it with the listening ports of the service.
    """
    return str((context.get(ILogContext) or {}).get("system", "-"))
