"""Connections whose transport is Twisted's: TLS, proxies' protocols, whatever an endpoint plugin listens on.

Their bytes go through layers that live in the reactor thread, so no other thread may send on them.  The
connection is the same; only what it does with its bytes differs: a sender leaves everything to the reactor, which
writes as much as the transport's buffer likes and goes on when that is empty.

Such a transport closes in its own time.  It has a buffer, which it sends before; TLS says goodbye, and waits without
a limit for the other side to say so, too.  So the connection is in the register until the transport is really
closed, and what it holds back counts as unsent.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from fcntl import ioctl
from termios import TIOCOUTQ
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IAddress, IPushProducer, ISSLTransport, ITCPTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from graceful.web.connection import Address, Connection
from graceful.web.write_token import REACTOR, Piece

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange
    from graceful.web.hub import Hub
    from graceful.web.site import Site

#: Bytes given to the transport at once: it may ask for a pause after each.
SLICE: Final = 65536
#: The server's address, host and port, on a socket that has none.
UNIX: Final = ("localhost", 80)


class TransportConnection(Connection):
    """A connection on a transport of Twisted's."""

    movable = False  # its buffers, and the keys of TLS, are in this process

    __slots__ = ("_blocked", "_gone_already", "_heard", "_lowest", "_transport")

    def __init__(self, site: Site, hub: Hub, transport: Any) -> None:
        self.fd = -1
        self._transport = self._lowest = transport
        while (below := getattr(self._lowest, "transport", None)) is not None:
            self._lowest = below
        if ITCPTransport.providedBy(self._lowest):
            self._lowest.setTcpNoDelay(True)  # else each answer of several pieces waits for an acknowledgement
        self._blocked = self._heard = self._gone_already = False
        scheme = "https" if ISSLTransport.providedBy(transport) else "http"
        self._begin(site, hub, _address(transport.getPeer()), _address(transport.getHost()) or UNIX, scheme)

    # -- reading ------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """The transport has delivered bytes."""
        self.active = monotonic()
        if not self._heard:
            self._heard = True
            self._learn_addresses()
        if not self.parser.ignoring:
            self.parser.feed(data)
            if self.parser.unparsed:
                self.receiver.pause()

    def _learn_addresses(self) -> None:
        """Ask for the addresses again: a proxy's protocol tells them in front of the first byte."""
        peer = _address(self._transport.getPeer())
        self.peer, self.port = peer if peer is not None else ("", 0)
        self.server = _address(self._transport.getHost()) or UNIX
        self.trusted = self.site.trusts(peer)

    def readable(self) -> None:
        """Have the transport deliver at once what has come."""
        read = getattr(self._lowest, "doRead", None)
        if read is not None and not self._gone_already:
            read()  # the end, or an error, it will find again

    # -- sending ------------------------------------------------------------------------------------------

    def transmit(self, head: bytes, data: bytes) -> list[Piece]:
        """Leave it all to the reactor thread."""
        return [head, data]

    def push(self, piece: Piece) -> int:
        """Give a piece to the transport, until that has enough."""
        count, size = 0, len(piece)
        while count < size and not self._blocked:
            self._transport.write(bytes(piece[count : count + SLICE]))
            count += SLICE
        if not count:
            raise BlockingIOError
        return min(count, size)

    def _pull_again(self) -> None:
        if not self._blocked and not self.pull_paused:
            self._hub.call(self.writable)

    def push_file(self, fd: int, offset: int, count: int) -> int:
        """Give a part of a file to the transport, read through memory."""
        if self._blocked:
            raise BlockingIOError
        data = os.pread(fd, min(count, SLICE), offset)
        self._transport.write(data)
        return len(data)

    def keep_unsent_low(self, low: bool) -> None:
        """The transport's own buffer is what is bounded here."""

    def pause_pull(self, paused: bool) -> None:
        """What is to be sent is not there yet; or it is now."""
        self.pull_paused = paused
        self.active = monotonic()
        if not paused:
            self.writable()

    def block(self) -> None:
        """The transport's buffer is full."""
        self._blocked = True

    def unblock(self) -> None:
        """The transport's buffer is empty."""
        self._blocked = False
        self.writable()

    def _want_write(self) -> None:
        self.active = monotonic()
        with self.write_token.lock:
            if self.write_token.holder is not REACTOR:
                return
            self.site.budget.add(self.write_token)
        if self._hub.in_reactor_thread():
            self.writable()
        else:
            self._hub.call(self.writable)

    def _arm(self) -> None:
        if not self._transport.disconnecting:
            if self.reading:
                self._transport.resumeProducing()
            else:
                self._transport.pauseProducing()

    # -- ending -------------------------------------------------------------------------------------------

    def _shut(self) -> None:
        self._transport.unregisterProducer()  # with one, TLS would not close
        if not ISSLTransport.providedBy(self._transport) and hasattr(self._transport, "loseWriteConnection"):
            self._transport.loseWriteConnection()
        else:
            self._transport.loseConnection()

    def close(self, reset: bool = False, only: Exchange | None = None) -> bool:
        """Have the transport close, when it has sent what it has; it is gone when it says so.

        Asked a second time, it closes at once.

        :param reset: at once, and so that the client sees that it was cut.
        :param only: do so only if it is this exchange's turn, and not all of its answer was sent.  False: no.
        """
        closing = self.write_token.close(only)
        if closing is None:
            return False
        self._reset = self._reset or reset
        if closing:
            self.pull = None  # the transport would take the whole file, and keep what the client does not read
            self._end(self._reset or (self.write_token.lingering and self.unsent() > 0))
        elif self.write_token.closed and not self._gone_already:
            self._transport.abortConnection()
        return True

    def _end(self, reset: bool) -> None:
        if self._gone_already:
            self.lost()
        elif reset:
            self._transport.abortConnection()
        else:
            self._transport.unregisterProducer()
            self._transport.loseConnection()
            self._lowest.loseConnection()  # TLS has said goodbye, and need not hear it

    def gone(self) -> None:
        """The transport is closed, by whichever side."""
        self._gone_already = True
        if self.write_token.close() or self.write_token.closed:
            self.lost()
        # Else a sender is filling its list this moment; when it lets go, it has us called, to close.

    def unsent(self) -> int:
        """Bytes that the transport and the kernel hold and the client's kernel has not confirmed."""
        lowest = self._lowest
        try:
            held = len(lowest.dataBuffer) - lowest.offset + lowest._tempDataLen
            return int(held + struct.unpack("i", ioctl(lowest.fileno(), TIOCOUTQ, b"\0\0\0\0"))[0])
        except (AttributeError, OSError, ValueError):
            return 0  # it is closed, or of a kind that does not tell


def _address(address: IAddress) -> Address | None:
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    return (str(host), int(port)) if host is not None and port is not None else None


@implementer(IPushProducer)
class EndpointProtocol(Protocol):
    """Takes a transport's events to its connection.

    :param site: what is served.
    :param taken: called when the connection is in the register.
    """

    def __init__(self, site: Site, hub: Hub, taken: Callable[[], None]) -> None:
        self._site = site
        self._hub = hub
        self._taken = taken
        self._connection: TransportConnection | None = None

    def connectionMade(self) -> None:
        """A client has connected."""
        transport: Any = self.transport
        self._connection = TransportConnection(self._site, self._hub, transport)
        transport.registerProducer(self, True)
        self._taken()

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come."""
        if self._connection is not None:
            self._connection.received(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The transport is closed, by whichever side."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.gone()

    def pauseProducing(self) -> None:
        """The transport has enough for now."""
        if self._connection is not None:
            self._connection.block()

    def resumeProducing(self) -> None:
        """The transport takes more."""
        if self._connection is not None:
            self._connection.unblock()

    def stopProducing(self) -> None:
        """The transport is about to close."""


class EndpointFactory(Factory):
    """Makes the protocols of endpoints that are not ours; these may listen before there is a site."""

    noisy = False

    def __init__(self) -> None:
        self._served: tuple[Site, Hub, Callable[[], None]] | None = None

    def serve(self, site: Site, hub: Hub, taken: Callable[[], None]) -> None:
        """Connect clients to this site from now on.

        :param taken: called after each.
        """
        self._served = site, hub, taken

    def buildProtocol(self, addr: IAddress | None) -> EndpointProtocol | None:
        """A client connects."""
        return EndpointProtocol(*self._served) if self._served is not None else None
