"""twisted.web's connections: what is in flight on them, and how they are led to their end.

An HTTP connection is no request.  An idle one would hold a drain for as long as the browser likes, and one that is
closed at the wrong moment loses the request that is already on its way.  So each exchange counts, not the connection;
and an idle connection is kept for a moment in which it may bring one last request, whose answer says `Connection:
close` (RFC 9112 §9.6).  The rules are those of `graceful-app`.

twisted.web has no public name for most of this.  What is used here is what its own tests use; and it is changed on
the objects of one connection, once a drain has begun: normal running has twisted.web as it is.
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

#: Seconds that an idle connection is kept in a drain, for one last request; and one that has been silent since it was
#: accepted, when no other connection has time left.
IDLE_GRACE: Final = 5.0
FRESH: Final = 1.0

#: Seconds in which a client acknowledges a PING, or else is too far away to be waited for.
PONG_IN: Final = 1.0

#: What a client of an exchange is told that was taken down before its answer had begun.
UNAVAILABLE: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 24\r\n"
    b"Retry-After: 5\r\n"
    b"Connection: close\r\n"
    b"\r\n"
    b"503 Service Unavailable\n"
)

_PARTIAL: Final = "the beginning of a request"
_TAIL: Final = "the end of an answer"


def kind_of_http(protocol: Any) -> tuple[type[ConnectionWatch], Any] | None:
    """How a connection is watched on which twisted.web speaks, and its channel; None if it is another protocol."""
    http = sys.modules.get("twisted.web.http")
    if http is None:
        return None
    if isinstance(protocol, http._GenericHTTPChannelProtocol):
        protocol = protocol._channel
    if isinstance(protocol, http.HTTPChannel):
        # A channel that was handed to a WebSocket is the way to it from now on, and no more.
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
        """Find out what is in flight on it now."""
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
        """Every answer from now on says that it is the connection's last, but for those that others wait behind."""
        channel = self.protocol
        channel.checkPersistence = self._persistence(channel.checkPersistence)
        if channel.requests and not channel.line_mode and not channel._dataBuffer:  # its head is complete
            channel.persistent = False
            request = channel.requests[0]
            if not request.startedWriting:
                request.responseHeaders.setRawHeaders(b"connection", [b"close"])

    def _persistence(self, stock: Callable[[Any, bytes], bool]) -> Callable[[Any, bytes], bool]:
        """What a channel asks, once for each request whose head is complete, instead of its own method."""
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
        """Close it when it has been idle for long enough."""
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
        """End it: with a 503 if the answer had not begun, else in a way that no client takes for its end."""
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

    It is told twice that it ends (RFC 9113 §6.8): at first that it will, with the highest number that a stream can
    have, so that nothing which is on its way is refused; and a round trip later with the last one that has come.
    """

    def __init__(self, tracker: Tracker, transport: Any, protocol: Any) -> None:
        super().__init__(tracker, transport, protocol)
        self._announced_at: float | None = None
        self._final_sent = False

    def refresh(self) -> None:
        """Find out what is in flight on it now."""
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
        """Tell the client for the first time."""
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
        """Send GOAWAY; by hand, since h2 would call the connection closed after its own."""
        from hyperframe.frame import GoAwayFrame  # of h2; without it no client speaks HTTP/2

        self.protocol.transport.write(GoAwayFrame(last_stream_id=last).serialize())

    def sweep(self, now: float, quiet: bool) -> None:
        """Tell it again when it is time, and close it when its last stream is through."""
        super().sweep(now, quiet)
        if self._announced_at is not None and now - self._announced_at >= PONG_IN:
            self._send_final_goaway()
        if self._final_sent and not self.items and not self.closing:
            self.protocol.transport.loseConnection()

    def take_down(self, only: TrackedItem | None = None) -> list[TrackedItem]:
        """End it, or one stream of it: none can be taken for complete."""
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
    """How a connection is watched, and the protocol that is spoken on it, without what is around that."""
    protocol = transport.protocol
    while getattr(protocol, "wrappedProtocol", None) is not None:
        protocol = protocol.wrappedProtocol
    return kind_of_http(protocol) or (ConnectionWatch, protocol)
