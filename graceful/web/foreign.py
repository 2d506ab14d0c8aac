"""Connections whose transport is Twisted's: TLS, proxies' protocols, whatever an endpoint plugin listens on.

Their bytes go through layers that live in the reactor thread, so no other thread may send on them.  The
connection is the same; only what it does with its bytes differs: a sender leaves everything to the reactor, which
writes as much as the transport's buffer likes and goes on when that is empty.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IAddress, IPushProducer, ISSLTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from graceful.web.connection import Address, Connection
from graceful.web.turn import Piece

if TYPE_CHECKING:
    from graceful.web.hub import Hub
    from graceful.web.site import Site


class TransportConnection(Connection):
    """A connection on a transport of Twisted's."""

    __slots__ = ("_blocked", "_transport")

    def __init__(self, site: Site, hub: Hub, transport: Any) -> None:
        self.fd = -1
        self._transport = transport
        self._blocked = False
        scheme = "https" if ISSLTransport.providedBy(transport) else "http"
        server = _address(transport.getHost()) or ("", 0)
        self._begin(site, hub, _address(transport.getPeer()), server, scheme)

    def received(self, data: bytes) -> None:
        """The transport has delivered bytes."""
        self.active = monotonic()
        self.receiver.received(data)

    def readable(self) -> None:
        """Nothing waits to be read: the reactor has delivered what came."""

    def transmit(self, head: bytes, data: bytes) -> list[Piece]:
        """Leave it all to the reactor thread."""
        return [head, data]

    def push(self, piece: Piece) -> int:
        """Give a piece to the transport, unless that has enough."""
        if self._blocked:
            raise BlockingIOError
        self._transport.write(bytes(piece))
        return len(piece)

    def unblock(self, blocked: bool) -> None:
        """The transport's buffer is full, or empty again."""
        self._blocked = blocked
        if not blocked:
            self.writable()

    def _want_write(self) -> None:
        self.site.budget.add(self)
        self._hub.call(self.writable)

    def _arm(self) -> None:
        if not self._transport.disconnecting:
            if self.reading:
                self._transport.resumeProducing()
            else:
                self._transport.pauseProducing()

    def _shut(self) -> None:
        self._hub.call(self._lose)

    def _lose(self) -> None:
        # TLS does not close while a producer is registered.
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def _disturb(self) -> None:
        """A sender here only fills a list; it lets go by itself."""

    def _release(self, reset: bool) -> None:
        if reset:
            self._transport.abortConnection()
        else:
            self._lose()

    def unsent(self) -> int:
        """The transport tells nobody; it closes when it has sent all."""
        return 0


def _address(address: IAddress) -> Address | None:
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    return (str(host), int(port)) if host is not None and port is not None else None


@implementer(IPushProducer)
class ForeignProtocol(Protocol):
    """Takes a transport's events to its connection.

    :param site: what is served.
    """

    def __init__(self, site: Site, hub: Hub) -> None:
        self._site = site
        self._hub = hub
        self._connection: TransportConnection | None = None

    def connectionMade(self) -> None:
        """A client has connected."""
        transport: Any = self.transport
        self._connection = TransportConnection(self._site, self._hub, transport)
        transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come."""
        if self._connection is not None:
            self._connection.received(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The transport is closed, by whichever side."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.turn.close():
            connection.lost()

    def pauseProducing(self) -> None:
        """The transport has enough for now."""
        if self._connection is not None:
            self._connection.unblock(True)

    def resumeProducing(self) -> None:
        """The transport takes more."""
        if self._connection is not None:
            self._connection.unblock(False)

    def stopProducing(self) -> None:
        """The transport is about to close."""


class ForeignFactory(Factory):
    """Makes the protocols of endpoints that are not ours."""

    noisy = False

    def __init__(self, site: Site, hub: Hub) -> None:
        self._site = site
        self._hub = hub

    def buildProtocol(self, addr: IAddress | None) -> ForeignProtocol:
        """A client connects."""
        return ForeignProtocol(self._site, self._hub)
