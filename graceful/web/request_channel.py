"""What a `twisted.web` request takes for its connection: one exchange.

A `Request` talks to a *channel*, which in stock Twisted parses HTTP and frames answers.  Here the parsing is done
already, so the channel is a thin stream over one exchange, as Twisted's own HTTP/2 has it.  The exchange frames,
counts and ends the answer by its own rules; the drain knows it like any other.

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

from graceful.web.exchange import Disconnected, Exchange

log = Logger(namespace="graceful")


#: Bytes waiting for the client at which a producer is paused.
HIGH: Final = 65536


class RequestTree(Protocol):
    """What a channel asks of the tree that answers its request."""

    site: Any

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function in the reactor thread, after what runs there now."""

    def forget(self, exchange: Exchange) -> None:
        """The exchange is answered, or another handler answers it."""


class RequestChannel:
    """What a `Request` takes for its channel and its transport: one exchange.

    :ivar site: Twisted's site, which finds resources and keeps sessions.
    :ivar bad_request: the form in the request's body is none.
    """

    factory = None  # twisted.web would log through it; our access log does

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
        """A request's `transport` is its stream."""
        return self

    def render(self) -> None:
        """Make the request, and send it down the tree."""
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
        """Let a handler answer instead; the request is forgotten.

        :param prefix: the path segments above it.
        :param rest: the path segments below it.
        """
        self._leave()
        body = self._exchange.body
        if body is not None and not isinstance(body, list):
            body.seek(0)
        handler.take(self._exchange, prefix, rest)

    def parked(self) -> bool:
        """Whether nothing is on its way to the client, and no producer will make more."""
        return self._producer is None and not self._connection.write_token.held

    def lost(self) -> None:
        """The client is gone."""
        if self._over:
            return
        self._leave()
        reason = ConnectionDone() if self._connection.write_token.eof else ConnectionLost()
        self._tell(Failure(reason))
        self._exchange.release()

    def fail(self, status: int) -> None:
        """The request will not answer, or not to the end: say so, or cut what has begun."""
        if self._over:
            return
        self._leave()
        self._connection.site.answer(self._exchange, status)
        self._tell(Failure(ConnectionLost("the answer could not be completed")))

    def _leave(self) -> None:
        """The exchange is no longer this request's."""
        self._over = True
        self._connection.drained = None
        self._tree.forget(self._exchange)

    def _tell(self, reason: Failure) -> None:
        """End the request; its resource's code runs here, and may fail."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.stopProducing()
            except Exception:
                log.failure("{exchange}: its producer could not be stopped", exchange=self._exchange)
        self._request.connectionLost(reason)

    # -- what a Request asks of its channel ---------------------------------------------------------------

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Begin the answer."""
        fields = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in headers.getAllRawHeaders()
            for value in values
        ]
        self._exchange.start(f"{code.decode('ascii')} {reason.decode('latin-1')}", fields)

    def flush(self) -> None:
        """Send the head, although nothing of the body is there yet."""
        self.write(b"")

    def write(self, data: bytes) -> None:
        """Send a piece of the body; a producer that is too fast is paused."""
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
        """The answer is complete."""
        if self._over:
            return
        self._leave()
        self._exchange.finish_and_release()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """The form in the body is none."""
        self.bad_request = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """A producer takes over; it is asked to wait while the client is behind."""
        if not streaming:
            producer = _PullToPush(producer, SimpleNamespace(unregisterProducer=self._producer_failed))
        self._producer = producer
        self._paused = False
        if not streaming:
            producer.startStreaming()

    def unregisterProducer(self) -> None:
        """The producer is through."""
        producer, self._producer = self._producer, None
        if isinstance(producer, _PullToPush):
            producer.stopStreaming()

    def _producer_failed(self) -> None:
        """A pull producer has raised, which is logged: there will be no more of this answer."""
        self.unregisterProducer()
        self.fail(500)

    def _drained(self) -> None:
        """The client has taken everything."""
        if self._paused:
            self._paused = False
            if self._producer is not None:
                self._producer.resumeProducing()
        elif self._connection.write_token.eof and self.parked():
            self._connection.close()

    def loseConnection(self) -> None:
        """A resource wants no more of this connection: what has been said goes out, then it ends."""
        connection, exchange = self._connection, self._exchange
        if not self._over:
            exchange.cut()
            # Not now: a resource may go on to write, or to finish, what the client will not read.
            self._tree.call(self.lost)
        elif connection.write_token.current is exchange:
            exchange.keep = False  # its last bytes are on their way
        elif connection.idle():
            connection.half_close()

    def abortConnection(self) -> None:
        """End the connection at once."""
        self._connection.abort()

    def getPeer(self) -> IAddress:
        """The client's address, which a trusted proxy may have told; it does not tell the port."""
        connection, peer = self._connection, self._exchange.peer
        return _address(peer, connection.port if peer == connection.peer else 0)

    def getHost(self) -> IAddress:
        """The address that the client has connected to; behind a trusted proxy, with the port of that."""
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
        """Whether the client speaks TLS, with us or with a trusted proxy."""
        return self._exchange.scheme == "https"


def _address(host: str, port: int) -> IAddress:
    if not host:
        return UNIXAddress(None)
    return IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)


def _headers(exchange: Exchange) -> Headers:
    """The request's fields.  A body that came in chunks is whole by now: it is described by its length."""
    headers = Headers()
    for name, value in exchange.headers:
        headers.addRawHeader(name, value)
    if headers.hasHeader(b"Transfer-Encoding"):
        headers.removeHeader(b"Transfer-Encoding")
        headers.setRawHeaders(b"Content-Length", [b"%d" % exchange.received])
    return headers


def _content(body: list[bytes] | IO[bytes] | None) -> IO[bytes]:
    """The body as the file that a request reads."""
    if body is None:
        return io.BytesIO()
    return io.BytesIO(b"".join(body)) if isinstance(body, list) else body
