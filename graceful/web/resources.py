"""Trees of Twisted resources: every one of them gets the real `twisted.web.server.Request` it was written for.

A site is seldom one WSGI application alone: there are static files, an API in klein, a proxied corner.  All of
Twisted's resources talk to a `Request`, and a `Request` talks to a *channel*, which in stock Twisted parses HTTP.
Here the parsing is done already, so the channel is a thin stream over one exchange, as Twisted's own HTTP/2 has
it.  It frames, counts and ends the answer by the exchange's rules; the drain knows it like any other.

The way down the tree is Twisted's.  If it ends at something that answers exchanges itself (a WSGI application),
the request steps aside and the exchange takes the fast way.

Everything here runs in the reactor thread.
"""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Any, Final

from twisted.internet._producer_helpers import _PullToPush
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from zope.interface import implementer

from graceful.web.exchange import APPLICATION, Disconnected, Exchange
from graceful.web.handler import IHandler

if TYPE_CHECKING:
    from graceful.web.hub import Hub

HIGH: Final = 65536


class Request(server.Request):
    """Twisted's request, whose answer is framed by the exchange, and which steps aside for a handler."""

    channel: Any

    def render(self, resource: Any) -> None:
        """Render the resource found for this request, or give the exchange to it."""
        handler = IHandler(resource, None)
        if handler is not None:
            self.channel.give_to(handler, self.prepath)
        else:
            super().render(resource)

    def write(self, data: bytes) -> None:
        """Write a piece of the body (see :meth:`twisted.web.http.Request.write`)."""
        if self.startedWriting:
            super().write(data)  # type: ignore[no-untyped-call]
            return
        # Twisted chunks by itself what it takes for HTTP/1.1; the exchange frames it better.
        protocol, self.clientproto = self.clientproto, b"HTTP/1.0"
        try:
            super().write(data)  # type: ignore[no-untyped-call]
        finally:
            self.clientproto = protocol


@implementer(IHandler)
class Tree:
    """Answers exchanges from a tree of resources.

    :param root: the tree.
    :param hub: calls into the reactor thread.
    """

    def __init__(self, root: IResource, hub: Hub) -> None:
        self.site = server.Site(root, requestFactory=Request)
        self._hub = hub
        self._streams: dict[Exchange, Stream] = {}

    def handle(self, exchange: Exchange) -> None:
        """Find the exchange's resource, and have it rendered."""
        if self._hub.in_reactor_thread():
            self._render(exchange)
        else:
            self._hub.call(self._render, exchange)

    def take(self, exchange: Exchange, prefix: list[bytes]) -> None:
        """A tree is always a root."""
        self.handle(exchange)

    def disconnected(self, exchange: Exchange) -> None:
        """Tell the request that its client is gone."""
        stream = self._streams.pop(exchange, None)
        if stream is not None:
            stream.lost()

    def _render(self, exchange: Exchange) -> None:
        if exchange.connection.turn.closed:
            exchange.flushed = True
            exchange.connection.site.through(exchange)
            return
        stream = self._streams[exchange] = Stream(self, exchange)
        exchange.phase = APPLICATION
        stream.render()

    def forget(self, exchange: Exchange) -> None:
        """The exchange is answered, or somebody else's."""
        self._streams.pop(exchange, None)


class Stream:
    """What a `Request` takes for its channel and its transport: one exchange.

    :ivar site: Twisted's site, which finds resources and keeps sessions.
    """

    log = Logger(namespace="graceful")
    factory = None  # twisted.web would log through it; our access log does

    def __init__(self, tree: Tree, exchange: Exchange) -> None:
        self._tree = tree
        self.site = tree.site
        self._exchange = exchange
        self._connection = exchange.connection
        self._producer: Any = None
        self._paused = False
        self._request: Any = None

    @property
    def transport(self) -> Stream:
        """A request's `transport` is its stream."""
        return self

    def render(self) -> None:
        """Make the request, and send it down the tree."""
        exchange = self._exchange
        request = self._request = self.site.requestFactory(self)
        headers = Headers()
        for name, value in exchange.headers:
            headers.addRawHeader(name, value)
        request.requestHeaders = headers
        request.parseCookies()
        request.content = _content(exchange.body)
        version = b"HTTP/1.1" if exchange.version == "1.1" else b"HTTP/1.0"
        try:
            request.requestReceived(exchange.method.encode("ascii"), exchange.target, version)
        except Exception:
            self.log.failure("{exchange}: the resource failed", exchange=exchange)
            self._tree.forget(exchange)
            exchange.connection.site.answer(exchange, 500)

    def give_to(self, handler: Any, prefix: list[bytes]) -> None:
        """Let a handler answer instead; the request is forgotten.

        :param prefix: the path segments above it.
        """
        exchange = self._exchange
        self._tree.forget(exchange)
        body = exchange.body
        if body is not None and not isinstance(body, list):
            body.seek(0)
        handler.take(exchange, prefix)

    def lost(self) -> None:
        """The client is gone."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        self._request.connectionLost(Failure(ConnectionLost("the client left")))
        self._end()

    def _end(self) -> None:
        self._connection.drained = None
        self._tree.forget(self._exchange)
        self._connection.site.through(self._exchange)

    # -- what a Request asks of its channel ---------------------------------------------------------------

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Begin the answer."""
        fields = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in headers.getAllRawHeaders()
            for value in values
        ]
        self._exchange.start(f"{code.decode('ascii')} {reason.decode('latin-1')}", fields)

    def write(self, data: bytes) -> None:
        """Send a piece of the body; a producer that is too fast is paused."""
        try:
            self._exchange.write(bytes(data))
        except Disconnected:
            return  # lost() tells the request
        if self._producer is not None and not self._paused and self._connection.turn.held > HIGH:
            self._paused = True
            self._producer.pauseProducing()

    def writeSequence(self, pieces: list[bytes]) -> None:
        """Send pieces of the body."""
        self.write(b"".join(pieces))

    def requestDone(self, request: Any) -> None:
        """The answer is complete."""
        try:
            self._exchange.finish()
        except Disconnected:
            self._exchange.flushed = True
        self._end()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """A producer takes over; it is asked to wait while the client is behind."""
        if not streaming:
            producer = _PullToPush(producer, self)
        self._producer = producer
        self._connection.drained = self._resume
        if not streaming:
            producer.startStreaming()

    def unregisterProducer(self) -> None:
        """The producer is through."""
        producer, self._producer = self._producer, None
        if isinstance(producer, _PullToPush):
            producer.stopStreaming()
        self._connection.drained = None

    def _resume(self) -> None:
        if self._paused and self._producer is not None:
            self._paused = False
            self._producer.resumeProducing()

    def loseConnection(self) -> None:
        """A resource wants no more of this connection: what has been said goes out, then it ends."""
        self._exchange.cut()

    def abortConnection(self) -> None:
        """End the connection at once."""
        self._connection.abort()

    def getPeer(self) -> IAddress:
        """The client's address."""
        return _address(self._exchange.peer, self._connection.port)

    def getHost(self) -> IAddress:
        """The address that the client has connected to."""
        host, port = self._connection.server
        return _address(host, port)

    def isSecure(self) -> bool:
        """Whether the client speaks TLS, with us or with a trusted proxy."""
        return self._exchange.scheme == "https"


def _address(host: str, port: int) -> IAddress:
    if not host:
        return UNIXAddress(None)
    return IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)


def _content(body: list[bytes] | IO[bytes] | None) -> IO[bytes]:
    """The body as the file that a request reads, positioned at its end as Twisted's own has it."""
    if body is None:
        return io.BytesIO()
    if isinstance(body, list):
        content = io.BytesIO()
        content.writelines(body)
        return content
    body.seek(0, io.SEEK_END)
    return body
