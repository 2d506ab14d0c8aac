"""An ASGI application's side of a WebSocket: the events that it receives and sends (ASGI 2.5, `websocket`).

Everything here runs in the thread of the application's asyncio loop, but for what the session calls.  That only puts
messages where the application finds them, and wakes the loop if the application waits, which costs one wake-up for a
batch of messages.  Answers go the other way without one: this thread sends them itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, Protocol

from twisted.logger import Logger

from graceful.web.disconnected import Disconnected
from graceful.web.exchange import Exchange
from graceful.web.response_headers import reason as reason_of
from graceful.websocket.compression import Compression, agree
from graceful.websocket.framing import Message, check_close, encode, shortened
from graceful.websocket.opening_handshake import Handshake
from graceful.websocket.session import Session, Times

log = Logger(namespace="graceful")


Event = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]], Awaitable[None]
]

#: The close codes of an application that has returned, and of one that has failed.
RETURNED: Final = 1000
FAILED: Final = 1011

# How far it is.
_CONNECTING, _OPEN, _DENYING, _ENDED = range(4)


class AppLoop(Protocol):
    """The asyncio loop in a thread of its own."""

    def call(self, function: Callable[..., object], *arguments: object) -> object:
        """Call a function in the loop's thread, from any thread; calls of one batch of reads share a wake-up."""


class WebSocketEvents:
    """The events of one WebSocket; a `graceful.websocket.session.Application`.

    :param exchange: the request that asks for it.
    :param handshake: what that says.
    :param loop: the application's.
    :param times: limits and time.
    :ivar session: the other side.
    """

    __slots__ = (
        "_encode",
        "_exchange",
        "_handshake",
        "_inbox",
        "_loop",
        "_said_connect",
        "_state",
        "_times",
        "_waiting",
        "_waking",
        "session",
    )

    def __init__(self, exchange: Exchange, handshake: Handshake, loop: AppLoop, times: Times) -> None:
        self._exchange = exchange
        self._handshake = handshake
        self._loop = loop
        self._times = times
        self._encode: Callable[[Message], bytes] = encode
        self.session = Session(exchange, self, times)
        # Messages, and at its end code and reason; the reactor thread appends.  An empty deque would have 700 bytes.
        self._inbox: list[Message | tuple[int, str]] = []
        # Tasks that wait for a message, or for the client to take what was sent.
        self._waiting: list[asyncio.Future[None]] = []
        self._waking = False  # `_wake` is on its way
        self._state = _CONNECTING
        self._said_connect = False

    def complete_scope(self, scope: dict[str, Any]) -> None:
        """Make a scope of its request, with the server's `extensions`, that of a WebSocket."""
        scope["type"] = "websocket"
        scope["scheme"] = "wss" if self._exchange.scheme == "https" else "ws"
        scope["subprotocols"] = list(self._handshake.subprotocols)
        scope["extensions"]["websocket.http.response"] = {}

    # -- the session's side: reactor thread -----------------------------------------------------------------

    def received(self, message: Message) -> None:
        """A message has come."""
        self._inbox.append(message)
        self._tell()

    def writable(self) -> None:
        """The client has taken what was sent."""
        self._tell()

    def closed(self, code: int, reason: str) -> None:
        """Nothing more comes, and nothing more can be sent."""
        self._inbox.append((code, reason))
        self._tell()

    def _tell(self) -> None:
        if self._waiting and not self._waking:
            self._waking = True
            self._loop.call(self._wake)

    # -- the application's side ------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._waking = False  # before looking: what comes now wakes again
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _begin_to_wait(self) -> asyncio.Future[None]:
        """Returns what is done when something changes from now on: look once more before awaiting it."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(told)
        return told

    def _end_wait(self, told: asyncio.Future[None]) -> None:
        """Forget it: an application that waits with a time limit, again and again, would leave one each time."""
        if self._waiting and told in self._waiting:
            self._waiting.remove(told)

    async def _change(self, until: Callable[[], object]) -> None:
        """Wait until something is so that the reactor thread brings about."""
        while not until():
            told = self._begin_to_wait()
            try:
                if not until():
                    await told
            finally:
                self._end_wait(told)

    async def receive(self) -> Event:
        """Return the next event: `websocket.connect`, `websocket.receive` or `websocket.disconnect`."""
        if not self._said_connect:
            self._said_connect = True
            return {"type": "websocket.connect"}
        inbox = self._inbox
        while not inbox:  # as `_change` does, without a coroutine for each message
            told = self._begin_to_wait()
            try:
                if not inbox:
                    await told
            finally:
                self._end_wait(told)
        message = inbox[0]
        if isinstance(message, tuple):  # which stays there, for all that ask
            code, reason = message
            return {"type": "websocket.disconnect", "code": code, "reason": reason}
        del inbox[0]
        self.session.taken(message)
        return {"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message}

    async def send(self, event: Event) -> None:
        """Take an event of the application's.

        :raises OSError: the client has left, or it was closed.
        :raises RuntimeError: the event is none that may come now.
        :raises ValueError, TypeError: something in it must not be sent.
        """
        kind, state = event["type"], self._state
        if kind == "websocket.send" and state == _OPEN:
            message = _message_of(event)
            if not self.session.room:
                await self._change(self._can_send)
            # Not before the wait: what is compressed is sent in the order in which it was compressed.
            self.session.send(self._encode(message))
        elif kind == "websocket.close" and state == _OPEN:
            self._close(event.get("code", RETURNED), event.get("reason") or "")
        elif kind == "websocket.accept" and state == _CONNECTING:
            self._accept(event)
        elif kind == "websocket.close" and state == _CONNECTING:
            self._start_denial(403, ())
            await self._deny(b"", False)
        elif kind == "websocket.http.response.start" and state == _CONNECTING:
            self._start_denial(event["status"], event.get("headers", ()))
        elif kind == "websocket.http.response.body" and state == _DENYING:
            await self._deny(event.get("body", b""), event.get("more_body", False))
        elif state == _ENDED:
            raise Disconnected(f"{kind} was sent after the WebSocket's end")
        else:
            raise RuntimeError(f"{kind} may not be sent {_WHEN[state]}")

    def _can_send(self) -> bool:
        return self.session.room or self.has_ended()

    def has_ended(self) -> bool:
        """Whether nothing more comes from the client, and nothing more can be sent to it."""
        return bool(self._inbox) and isinstance(self._inbox[-1], tuple)

    def _accept(self, event: Event) -> None:
        if self.has_ended():
            raise Disconnected("the client has left")
        agreed: Compression | None = agree(self._handshake.extensions) if self._times.compresses else None
        head = self._handshake.accept(
            event.get("subprotocol"),
            _fields(event.get("headers", ())),
            None if agreed is None else agreed.header,
            self._exchange.connection.site.tail,
        )
        self._state = _OPEN
        if agreed is None:
            self.session.accept(head)
        else:
            self._encode = agreed.encode
            self.session.accept(head, [agreed.extension])

    def _close(self, code: int, reason: str) -> None:
        check_close(code)
        self._state = _ENDED
        self.session.close(code, shortened(reason))

    # -- an answer in HTTP instead --------------------------------------------------------------------------

    def _start_denial(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._exchange.start(f"{status} {reason_of(status)}", _fields(headers))
        self._state = _DENYING

    async def _deny(self, body: bytes, more: bool) -> None:
        exchange = self._exchange
        if more or len(body) > 65536:
            exchange.connection.drained = self.writable  # before looking: `room` may come meanwhile
            try:
                exchange.write(body)
                await self._change(self._can_send)
            finally:
                exchange.connection.drained = None
            body = b""
        if not more:
            self._state = _ENDED
            exchange.finish(body)

    # -- the end of the application --------------------------------------------------------------------------

    def check_returned(self) -> None:
        """The application has returned.

        :raises RuntimeError: its client is still owed an answer.
        """
        if self._state in (_CONNECTING, _DENYING) and not self.has_ended():
            raise RuntimeError("the ASGI application has returned without accepting its WebSocket or answering")

    def returned(self, owed: tuple[int, str] | None) -> None:
        """End what the application has not ended, and let go of the exchange.

        :param owed: status and further lines of the answer that its failure asks for; None: it has not failed, or its
            client is gone.
        """
        exchange, state = self._exchange, self._state
        self._state = _ENDED
        if state == _OPEN:
            self.session.close(FAILED if owed is not None else RETURNED)
        elif owed is not None and state in (_CONNECTING, _DENYING):
            try:
                exchange.fail(*owed)
            except Disconnected:
                exchange.abandon()
        exchange.release()


_WHEN: Final = {
    _CONNECTING: "before websocket.accept",
    _OPEN: "on a WebSocket that is open",
    _DENYING: "after websocket.http.response.start",
}


def _message_of(event: Event) -> Message:
    """Returns the message of a `websocket.send`."""
    data: Any = event.get("bytes")
    if data is None:
        data = event.get("text")
        if not isinstance(data, str):  # which the safe strings of templates are, too
            raise TypeError(f"websocket.send needs bytes, or text that is a str, not {type(data).__name__}")
        return data
    return bytes(data) if not isinstance(data, bytes) else data


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in headers]
