"""twisted.web's connections: what is in flight on them, and how a drain ends them.

An idle HTTP connection would hold a drain for as long as the browser likes, and a connection that is closed at the
wrong moment loses the request that is already on its way.  So each exchange counts, not the connection; and an idle
connection is kept for a moment in which it may bring one last request, whose answer says `Connection: close`
(RFC 9112 §9.6).  The rules are those of `graceful-app`.

twisted.web has no public name for most of this.  This module uses the private names that Twisted's own tests use.  It
changes only the objects of one connection, and only in a drain; before that, twisted.web is unchanged.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from twisted.internet.error import ConnectionAborted
from twisted.python.failure import Failure

from graceful.reactor.tracking import ConnectionWatch, TrackedItem, Tracker
from graceful.web.exchange import APPLICATION, RECEIVING, SENDING

#: Seconds that an idle connection is kept in a drain, for one last request.
IDLE_GRACE: Final = 5.0

#: Seconds that a connection without any request yet is kept when no client sends further requests: its first one may
#: have been on its way.
FRESH: Final = 1.0

#: Seconds in which a client has to acknowledge a PING; a slower client is not waited for.
PONG_IN: Final = 1.0

#: The answer to an exchange that was taken down before its own answer had begun.
UNAVAILABLE: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 24\r\n"
    b"Retry-After: 5\r\n"
    b"Connection: close\r\n"
    b"\r\n"
    b"503 Service Unavailable\n"
)

#: The keys in `items` of a request whose head has begun, and of an answer that is not sent to its end.
_PARTIAL: Final = "the beginning of a request"
_TAIL: Final = "the end of an answer"


def kind_of_http(protocol: Any) -> tuple[type[ConnectionWatch], Any] | None:
    """Returns the class that watches a protocol of twisted.web, and its channel; None for other protocols."""
    http = sys.modules.get("twisted.web.http")
    if http is None:
        return None
    if isinstance(protocol, http._GenericHTTPChannelProtocol):
        protocol = protocol._channel
    if isinstance(protocol, http.HTTPChannel):
        # A channel that was handed to a WebSocket only passes bytes on to it.
        return (ConnectionWatch if "connectionLost" in vars(protocol) else HTTP1), protocol
    http2 = sys.modules.get("twisted.web._http2")
    if http2 is not None and isinstance(protocol, http2.H2Connection):
        return HTTP2, protocol
    return None


class HTTP1(ConnectionWatch):
    """A connection of HTTP/1.1 or 1.0; `protocol` is its `HTTPChannel`."""

    def __init__(self, tracker: Tracker, transport: Any, protocol: Any) -> None:
        super().__init__(tracker, transport, protocol)
        self._idle_since: float | None = None
        self._used = "persistent" in vars(protocol)  # its first head was complete

    def refresh(self) -> None:
        """Update `items` to what is in flight now."""
        channel = self.protocol
        keys: list[Any] = list(channel.requests)
        if not keys and self.unsent:
            keys = list(self.items)[:1] or [_TAIL]
        elif not keys and (channel._buffer or channel._dataBuffer):
            keys = [_PARTIAL]
        partial = self.items.pop(_PARTIAL, None)
        self.items = {key: self.items.get(key) or partial or self._issue() for key in keys}
        for key, item in self.items.items():
            if key in channel.requests:
                self._describe(item, key)
            else:
                item.phase = RECEIVING if key is _PARTIAL else SENDING

    def _issue(self) -> TrackedItem:
        return self._tracker.issue(self.transport, "-", b"-", self.peer, monotonic())

    def _describe(self, item: TrackedItem, request: Any) -> None:
        channel = self.protocol
        if channel._handlingRequest:
            item.method, item.target = request.method.decode("latin-1"), request.uri
            item.phase = SENDING if request.startedWriting else APPLICATION
        else:
            item.phase = RECEIVING
            method, item.target = (getattr(channel, name, b"-") for name in ("_command", "_path"))
            item.method = method.decode("latin-1")
        item.sent = request.sentLength

    # -- drain --------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Have every answer say that it is the connection's last, unless another request waits behind it."""
        channel = self.protocol
        channel.checkPersistence = self._persistence(channel.checkPersistence)
        if channel.requests and not channel.line_mode and not channel._dataBuffer:  # its head is complete
            channel.persistent = False
            request = channel.requests[0]
            if not request.startedWriting:
                request.responseHeaders.setRawHeaders(b"connection", [b"close"])

    def _persistence(self, stock: Callable[[Any, bytes], bool]) -> Callable[[Any, bytes], bool]:
        """Returns the function that the channel calls once for each complete head, instead of its own method."""
        channel = self.protocol

        def check_persistence(request: Any, version: bytes) -> bool:
            self._used = True
            self.refresh()
            keep = stock(request, version)
            behind = channel.length is not None and len(channel._buffer) > channel.length
            if keep and not behind:
                request.responseHeaders.setRawHeaders(b"connection", [b"close"])
                return False
            return keep

        return check_persistence

    def sweep(self, now: float, quiet: bool) -> None:
        """Close the connection when it has been idle for long enough."""
        super().sweep(now, quiet)
        if self.items or self.closing:
            self._used, self._idle_since = True, None
            return
        if self._idle_since is None:
            self._idle_since = now
        grace = (0.0 if self._used else FRESH) if quiet else IDLE_GRACE
        if now - self._idle_since >= grace and not self._something_to_read():
            self.protocol.loseConnection()

    def _something_to_read(self) -> bool:
        """Whether the kernel holds something that the reactor has not read yet."""
        try:
            return bool(self.transport.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def take_down(self, only: TrackedItem | None = None) -> list[TrackedItem]:
        """End the connection: by a 503 if no answer has begun, else by a reset, so that none is taken for whole."""
        self.refresh()
        taken = [] if self.closing and not self.items else list(self.items.values())
        channel = self.protocol
        if channel.requests and not channel.requests[0].startedWriting and not self.closing:
            request = channel.requests.pop(0)
            channel.transport.write(UNAVAILABLE)
            channel.setTimeout(None)
            request.connectionLost(Failure(ConnectionAborted()))
            channel.loseConnection()
        elif taken:
            self.transport.abortConnection()
        else:
            channel.loseConnection()
        return taken


class HTTP2(ConnectionWatch):
    """A connection of HTTP/2; `protocol` is its `H2Connection`.

    It gets two GOAWAY frames (RFC 9113 §6.8).  The first one has the highest number that a stream can have, so that
    no request on its way is refused; the second one, a round trip later, has the number of the last stream that came.
    """

    def __init__(self, tracker: Tracker, transport: Any, protocol: Any) -> None:
        super().__init__(tracker, transport, protocol)
        self._announced_at: float | None = None
        self._final_sent = False

    def refresh(self) -> None:
        """Update `items` to what is in flight now."""
        streams = self.protocol.streams.values()
        keys: list[Any] = list(streams)
        if not keys and self.unsent:
            keys = list(self.items)[:1]
        self.items = {key: self.items.get(key) or self._issue(key) for key in keys}
        for stream, item in self.items.items():
            request = stream._request
            item.phase = SENDING if request.startedWriting else APPLICATION
            item.sent = request.sentLength

    def _issue(self, stream: Any) -> TrackedItem:
        method, target = (getattr(stream, name, None) or b"-" for name in ("command", "path"))
        return self._tracker.issue(self.transport, method.decode("latin-1"), target, self.peer, monotonic())

    def _announce(self) -> None:
        """Send the first GOAWAY, and a PING that tells when the client has it."""
        self._announced_at = monotonic()
        connection = self.protocol
        receive, received = connection.conn.receive_data, connection._requestReceived

        def receive_data(data: bytes) -> Any:
            events = receive(data)
            if any(type(event).__name__ == "PingAckReceived" for event in events):
                self._send_final_goaway()
            return events

        def request_received(event: Any) -> None:
            received(event)
            self.refresh()

        connection.conn.receive_data = receive_data
        connection._requestReceived = request_received
        self._send_goaway(2**31 - 1)
        connection.conn.ping(b"graceful")
        connection.transport.write(connection.conn.data_to_send())

    def _send_final_goaway(self) -> None:
        if not self._final_sent:
            self._final_sent = True
            self._send_goaway(self.protocol.conn.highest_inbound_stream_id)

    def _send_goaway(self, last: int) -> None:
        """Send GOAWAY without h2, which would call the connection closed after that."""
        from hyperframe.frame import GoAwayFrame  # of h2; without it no client speaks HTTP/2

        self.protocol.transport.write(GoAwayFrame(last_stream_id=last).serialize())

    def sweep(self, now: float, quiet: bool) -> None:
        """Send the second GOAWAY when it is time, and close the connection after its last stream."""
        super().sweep(now, quiet)
        if self._announced_at is not None and now - self._announced_at >= PONG_IN:
            self._send_final_goaway()
        if self._final_sent and not self.items and not self.closing:
            self.protocol.transport.loseConnection()

    def take_down(self, only: TrackedItem | None = None) -> list[TrackedItem]:
        """End the connection, or one stream of it, by a reset: no answer can be taken for whole."""
        self.refresh()
        if only is not None:
            for stream, item in self.items.items():
                if item is only:
                    stream.abortConnection()
                    stream.connectionLost(Failure(ConnectionAborted()))
            return [only]
        taken = list(self.items.values())
        if taken:
            self.transport.abortConnection()
        else:
            self.protocol.transport.loseConnection()
        return taken


def kind_of(transport: Any) -> tuple[type[ConnectionWatch], Any]:
    """Returns the class that watches a connection, and its innermost protocol, without wrappers."""
    protocol = transport.protocol
    while getattr(protocol, "wrappedProtocol", None) is not None:
        protocol = protocol.wrappedProtocol
    return kind_of_http(protocol) or (ConnectionWatch, protocol)
