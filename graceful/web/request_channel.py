"""The channel of a `twisted.web` request, for a request that is one exchange.

In stock Twisted a `Request` has a *channel*, which parses HTTP and frames answers.  Here the request is parsed
already.  So the channel is a thin layer over one exchange, as in Twisted's own HTTP/2.  The exchange frames, counts
and ends the answer by its own rules, and a drain treats it like any other exchange.

Everything here runs in the reactor thread.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import IO, Any, Final, Protocol

from twisted.internet._producer_helpers import _PullToPush
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from graceful.web.body_stream import BodyStream
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import Exchange

log = Logger(namespace="graceful")


#: Bytes that wait for the client; with more, the producer is paused.
HIGH: Final = 65536


class RequestTree(Protocol):
    """The tree of resources that answers a request, as its channel sees it."""

    site: Any

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function in the reactor thread, after the call that runs there now."""

    def forget(self, exchange: Exchange) -> None:
        """Forget an exchange that is answered, or that another handler answers."""


class RequestChannel:
    """The channel and transport of a `Request`, over one exchange.

    :ivar site: Twisted's site, which finds resources and keeps sessions.
    :ivar bad_request: the body claims to be a form, but cannot be parsed as one.
    """

    factory = None  # twisted.web would log through it, and graceful's access log has the request already

    def __init__(self, tree: RequestTree, exchange: Exchange) -> None:
        self.site = tree.site
        self.bad_request = False
        self._tree = tree
        self._exchange = exchange
        self._connection = exchange.connection
        self._producer: Any = None
        self._paused = False
        self._over = False  # the exchange is no longer this request's
        self._request: Any = None

    @property
    def transport(self) -> RequestChannel:
        """The request's `transport`, which is this channel."""
        return self

    def render(self) -> None:
        """Make the request, and have the tree answer it."""
        exchange = self._exchange
        request = self._request = self.site.requestFactory(self)
        request.requestHeaders = _headers(exchange)
        request.parseCookies()
        request.content = _content(exchange.body)
        self._connection.drained = self._drained
        version = b"HTTP/1.1" if exchange.version == "1.1" else b"HTTP/1.0"
        try:
            request.requestReceived(exchange.method.encode("ascii"), exchange.target, version)
        except Exception:
            log.failure("{exchange}: the resource failed", exchange=exchange)
            self.fail(500)

    def give_to(self, handler: Any, prefix: list[bytes], rest: list[bytes]) -> None:
        """Drop the request, and have a handler answer the exchange instead.

        :param prefix: the path segments above the handler.
        :param rest: the path segments below the handler.
        """
        self._leave()
        body = self._exchange.body
        if body is not None and not isinstance(body, list | BodyStream):
            body.seek(0)
        handler.take(self._exchange, prefix, rest)

    def parked(self) -> bool:
        """Whether nothing is on its way to the client, and no producer will make more."""
        return self._producer is None and not self._connection.write_token.held

    def lost(self) -> None:
        """Tell the request that its client is gone."""
        if self._over:
            return
        self._leave()
        reason = ConnectionDone() if self._connection.write_token.eof else ConnectionLost()
        self._tell(Failure(reason))
        self._exchange.release()

    def fail(self, status: int) -> None:
        """Answer with `status` for a request that cannot; if its answer has begun, cut it."""
        if self._over:
            return
        self._leave()
        self._connection.site.answer(self._exchange, status)
        self._tell(Failure(ConnectionLost("the answer could not be completed")))

    def _leave(self) -> None:
        """Separate the exchange from this request."""
        self._over = True
        self._connection.drained = None
        self._tree.forget(self._exchange)

    def _tell(self, reason: Failure) -> None:
        """Tell the request and its producer that the answer ends early.

        The resource's code runs here, and may fail.
        """
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.stopProducing()
            except Exception:
                log.failure("{exchange}: its producer could not be stopped", exchange=self._exchange)
        self._request.connectionLost(reason)

    # -- the methods that a Request calls on its channel --------------------------------------------------

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Begin the answer, with its head."""
        fields = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in headers.getAllRawHeaders()
            for value in values
        ]
        self._exchange.start(f"{code.decode('ascii')} {reason.decode('latin-1')}", fields)

    def flush(self) -> None:
        """Send the head, although there is no byte of the body yet."""
        self.write(b"")

    def write(self, data: bytes) -> None:
        """Send a piece of the body; pause a producer that is ahead of the client."""
        try:
            self._exchange.write(bytes(data))
        except Disconnected:
            return  # lost() tells the request
        if self._producer is not None and not self._paused and self._connection.write_token.held > HIGH:
            self._paused = True
            self._producer.pauseProducing()

    def writeSequence(self, pieces: list[bytes]) -> None:
        """Send pieces of the body."""
        self.write(b"".join(pieces))

    def requestDone(self, request: Any) -> None:
        """Complete the answer, since the request has finished."""
        if self._over:
            return
        self._leave()
        self._exchange.finish_and_release()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Note that the body cannot be parsed as a form."""
        self.bad_request = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let a producer write the answer; it is paused while the client is behind."""
        if not streaming:
            producer = _PullToPush(producer, SimpleNamespace(unregisterProducer=self._producer_failed))
        self._producer = producer
        self._paused = False
        if not streaming:
            producer.startStreaming()

    def unregisterProducer(self) -> None:
        """Forget the producer, which has written everything."""
        producer, self._producer = self._producer, None
        if isinstance(producer, _PullToPush):
            producer.stopStreaming()

    def _producer_failed(self) -> None:
        """Fail the request, since its pull producer has raised; Twisted has logged that."""
        self.unregisterProducer()
        self.fail(500)

    def _drained(self) -> None:
        """Resume the producer, since the client has taken everything.

        If the client has sent its EOF and nothing more is to come, close the connection: the client is gone.
        """
        if self._paused:
            self._paused = False
            if self._producer is not None:
                self._producer.resumeProducing()
        elif self._connection.write_token.eof and self.parked():
            self._connection.close()

    def loseConnection(self) -> None:
        """Close the connection once what was written has been sent, as a resource asks."""
        connection, exchange = self._connection, self._exchange
        if not self._over:
            exchange.cut()
            # Not at once: after this call the resource may still write to the request, or finish it.
            self._tree.call(self.lost)
        elif connection.write_token.current is exchange:
            exchange.keep = False  # the last bytes are being sent; then the connection closes
        elif connection.idle():
            self._tree.call(connection.half_close)  # not at once: this may be called while a request is parsed

    def abortConnection(self) -> None:
        """End the connection at once."""
        self._connection.abort()

    def getPeer(self) -> IAddress:
        """Returns the client's address; if a trusted proxy told it, the port is 0."""
        connection, peer = self._connection, self._exchange.peer
        return _address(peer, connection.port if peer == connection.peer else 0)

    def getHost(self) -> IAddress:
        """Returns the address that the client has connected to; behind a trusted proxy, with the proxy's port."""
        host, port = self._connection.server
        return _address(host, self._port_at_proxy() if self._connection.trusted else port)

    def _port_at_proxy(self) -> int:
        for name, value in self._exchange.headers:
            if name.lower() == b"host":
                port = value.rpartition(b":")[2]
                if port.isdigit() and len(port) <= len("65535"):
                    return int(port)
        return 443 if self.isSecure() else 80

    def isSecure(self) -> bool:
        """Whether the client speaks TLS, with this server or with a trusted proxy."""
        return self._exchange.scheme == "https"


def _address(host: str, port: int) -> IAddress:
    if not host:
        return UNIXAddress(None)
    return IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)


def _headers(exchange: Exchange) -> Headers:
    """Returns the request's fields; a body that came in chunks is complete, so a Content-Length replaces them."""
    headers = Headers()
    for name, value in exchange.headers:
        headers.addRawHeader(name, value)
    if headers.hasHeader(b"Transfer-Encoding"):
        headers.removeHeader(b"Transfer-Encoding")
        headers.setRawHeaders(b"Content-Length", [b"%d" % exchange.received])
    return headers


def _content(body: list[bytes] | IO[bytes] | BodyStream | None) -> IO[bytes]:
    """Returns the body as the file that a request reads."""
    if body is None:
        return io.BytesIO()
    assert not isinstance(body, BodyStream)  # which only a root that reads it gets
    return io.BytesIO(b"".join(body)) if isinstance(body, list) else body
