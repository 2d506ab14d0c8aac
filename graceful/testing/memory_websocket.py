"""A WebSocket between an ASGI application and a test, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from attrs import frozen

from graceful.asgi.client_left import says_that_the_client_left
from graceful.asgi.scope import beyond_http
from graceful.testing.client import Answer, LostRequest
from graceful.testing.memory_exchange import WITHIN, Application, ExchangeInMemory, Message, Version, fields_of
from graceful.web.disconnected import Disconnected

#: The close codes of an application that has returned or failed, of a client that vanished, and of a stop (RFC 6455).
RETURNED: Final = 1000
VANISHED: Final = 1006
FAILED: Final = 1011
RESTART: Final = 1012


class WebSocketEnded(Exception):
    """A WebSocket has ended.

    :ivar code: its close code.
    :ivar reason: what was said with it.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


@frozen
class _Opened:
    subprotocol: str | None


class WebSocketInMemory(ExchangeInMemory):
    """The application's side of one WebSocket.

    :param subprotocols: that the client offers.
    """

    def __init__(self, version: Version, path: str, subprotocols: Sequence[str], headers: Mapping[str, str]) -> None:
        super().__init__(version, "GET", path, headers)
        self._subprotocols = subprotocols
        self._inbox: list[Message] = [{"type": "websocket.connect"}]
        self._open = self._over = False  # over: nothing more is sent
        self._denial: tuple[int, dict[str, str], list[bytes]] | None = None

    async def run(self, application: Application, extensions: Message, state: Message | None) -> None:
        """Call the application."""
        scope = self._scope("websocket", "ws", {**beyond_http(extensions), "websocket.http.response": {}}, state)
        scope["subprotocols"] = list(self._subprotocols)
        try:
            await application(scope, self._receive, self._send)
            if not self._over and not self._open:
                raise RuntimeError("the ASGI application has returned without accepting its WebSocket or answering")
            self._end(RETURNED)
        except Exception as error:
            if self._over and says_that_the_client_left(error):
                return
            if self._open:
                self._end(FAILED)
            else:
                self.lose(f"{type(error).__name__}: {error}")
            raise
        except asyncio.CancelledError:
            self._end(FAILED)
            raise

    # -- the client's doing, and the server's ---------------------------------------------------------------

    def take(self, data: str | bytes) -> None:
        """The client has sent a message."""
        if not self._over:
            self._hear({"type": "websocket.receive", "text" if isinstance(data, str) else "bytes": data})

    def client_closes(self, code: int, reason: str) -> None:
        """The client has closed."""
        if not self._over:
            self._hear({"type": "websocket.disconnect", "code": code, "reason": reason})
            self._end(code, reason)

    def leave(self) -> None:
        """The client vanishes."""
        self.client_closes(VANISHED, "")

    def close(self) -> None:
        """Close it since the server stops."""
        if not self._over and self._open:
            self._hear({"type": "websocket.disconnect", "code": RESTART, "reason": ""})
            self._end(RESTART, "service restart")

    def lose(self, why: str) -> None:
        """End it without an answer."""
        self._over = True
        self._said.put(LostRequest(f"WebSocket {self.shown_target}: {why}"))

    def _hear(self, event: Message) -> None:
        self._inbox.append(event)
        self._news.set()

    def _end(self, code: int, reason: str = "") -> None:
        if not self._over:
            self._over = True
            self._said.put(WebSocketEnded(code, reason))

    # -- the application's ----------------------------------------------------------------------------------

    async def _receive(self) -> Message:
        await self._until(lambda: self._inbox)
        event = self._inbox[0]
        if event["type"] != "websocket.disconnect":  # which stays, for all that ask
            del self._inbox[0]
        return event

    async def _send(self, event: Message) -> None:
        kind = event["type"]
        if self._over:
            raise Disconnected(f"{kind} was sent after the WebSocket's end")
        if kind == "websocket.send" and self._open:
            data = event.get("bytes")
            self._said.put(event["text"] if data is None else bytes(data))
        elif kind == "websocket.close" and self._open:
            self._hear({"type": "websocket.disconnect", "code": event.get("code", RETURNED), "reason": ""})
            self._end(event.get("code", RETURNED), event.get("reason") or "")
        elif kind == "websocket.accept" and not self._open and self._denial is None:
            self._open = True
            self._said.put(_Opened(event.get("subprotocol")))
        elif kind == "websocket.close" and self._denial is None:
            self._deny(Answer(403, {}, b""))
        elif kind == "websocket.http.response.start" and not self._open and self._denial is None:
            headers = fields_of(event)
            self._denial = int(event["status"]), headers, []
        elif kind == "websocket.http.response.body" and self._denial is not None:
            status, headers, pieces = self._denial
            pieces.append(bytes(event.get("body", b"")))
            if not event.get("more_body", False):
                self._deny(Answer(status, headers, b"".join(pieces)))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    def _deny(self, answer: Answer) -> None:
        self._over = True
        self._said.put(answer)


class MemoryWebSocket:
    """A client's WebSocket.  At the end of its `with` block the client closes it.

    :param exchange: the application's side.
    :ivar status: 101 if it is open, else the status of the answer.
    :ivar answer: the answer instead of a WebSocket, if the application denies it.
    :ivar subprotocol: that the application has chosen.
    :raises LostRequest: the application has failed before it answered.
    :raises TimeoutError: it does not answer in time.
    """

    def __init__(self, exchange: WebSocketInMemory) -> None:
        self._exchange = exchange
        self._end: WebSocketEnded | None = None
        self.status = 101
        self.answer: Answer | None = None
        self.subprotocol: str | None = None
        said = exchange.said(WITHIN)
        if isinstance(said, LostRequest):
            raise said
        if isinstance(said, Answer):
            self.status = said.status
            self.answer = said
            self._end = WebSocketEnded(VANISHED)
        else:
            self.subprotocol = said.subprotocol

    def __enter__(self) -> MemoryWebSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: str | bytes) -> None:
        """Send a message."""
        self._exchange.version.call(self._exchange.take, data)

    def receive(self, within: float = WITHIN) -> str | bytes:
        """Wait for a message.  Returns it.

        :param within: seconds to wait at most.
        :raises WebSocketEnded: none comes any more.
        :raises TimeoutError: none comes in time.
        """
        if self._end is None:
            said: Any = self._exchange.said(within)
            if not isinstance(said, WebSocketEnded):
                assert isinstance(said, (str, bytes))
                return said
            self._end = said
        raise self._end

    def close(self, code: int = RETURNED, reason: str = "") -> None:
        """Close it, as the client."""
        self._exchange.version.call(self._exchange.client_closes, code, reason)

    def ended(self, within: float = WITHIN) -> int:
        """Wait for the end, and throw away the messages before it.  Returns the close code.

        :param within: seconds to wait at most for each message.
        :raises TimeoutError: neither a message nor the end comes in time.
        """
        while True:
            try:
                self.receive(within)
            except WebSocketEnded as end:
                return end.code
