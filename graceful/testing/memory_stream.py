"""An answer of an ASGI application that a test reads piece by piece, or leaves in the middle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from graceful.asgi.client_left import says_that_the_client_left
from graceful.testing.client import Answer, LostRequest
from graceful.testing.memory_exchange import WITHIN, Application, ExchangeInMemory, Message, Version, fields_of
from graceful.web.disconnected import Disconnected
from graceful.web.response_headers import bodiless
from graceful.web.sending_half import ROOM

_END: Final = object()


class HttpInMemory(ExchangeInMemory):
    """The application's side of one request.

    :param body: the request's.
    """

    def __init__(self, version: Version, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(version, method, path, headers)
        if body:
            self._fields.append((b"content-length", b"%d" % len(body)))
        self._body: bytes | None = body
        self._gone = self._started = self._complete = self._bare = False
        self._length: int | None = None
        self._sent = 0
        self.taken = 0  # by the client, of what was sent

    async def run(self, application: Application, extensions: Message, state: Message | None) -> None:
        """Call the application."""
        scope = self._scope("http", "http", extensions.copy(), state)
        scope["method"] = self.method
        try:
            await application(scope, self._receive, self._send)
            if not self._complete and not self._gone:
                raise RuntimeError("the ASGI application has returned without completing its answer")
        except Exception as error:
            if not (self._gone and says_that_the_client_left(error)):
                self.lose(f"{type(error).__name__}: {error}")
                raise

    def lose(self, why: str) -> None:
        """Cut the answer."""
        self._said.put(LostRequest(f"{self.method} {self.shown_target}: {why}"))

    def leave(self) -> None:
        """Have the application see that its client has left."""
        self._gone = True
        self._news.set()

    def wake(self) -> None:
        """The client has taken something."""
        self._news.set()

    async def _receive(self) -> Message:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._until(lambda: self._gone or self._complete)
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._gone:
            raise Disconnected("the client has left")
        if kind == "http.response.start" and not self._started:
            self._start(message)
        elif kind == "http.response.body" and self._started and not self._complete:
            self._piece(bytes(message.get("body", b"")), bool(message.get("more_body", False)))
            await self._until(lambda: self._sent - self.taken <= ROOM or self._gone or self._complete)
        elif kind == "http.response.pathsend" and self._started and not self._complete:
            self._piece(Path(message["path"]).read_bytes(), False)
        elif kind != "http.response.trailers":
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    def _start(self, message: Message) -> None:
        self._started = True
        status, headers = int(message["status"]), fields_of(message)
        self._bare = self.method == "HEAD" or bodiless(status)
        if "content-length" in headers and not self._bare:
            self._length = int(headers["content-length"])
        self._said.put((status, headers))

    def _piece(self, data: bytes, more: bool) -> None:
        if self._bare:
            data = b""
        self._sent += len(data)
        if self._length is not None and (self._sent > self._length or (not more and self._sent < self._length)):
            raise RuntimeError(f"the body does not have the {self._length} bytes of its Content-Length")
        if data:
            self._said.put(data)
        if not more:
            self._complete = True
            self._said.put(_END)
            self._news.set()


class MemoryStream:
    """An answer that comes piece by piece.  At the end of its `with` block the client leaves.

    :param exchange: the application's side.
    """

    def __init__(self, exchange: HttpInMemory) -> None:
        self._exchange = exchange
        self._head: tuple[int, dict[str, str]] | None = None
        self._ended = False

    def __enter__(self) -> MemoryStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()

    def _begin(self, within: float) -> tuple[int, dict[str, str]]:
        if self._head is None:
            self._head = self._next(within)
        return self._head

    def _next(self, within: float) -> Any:
        said = self._exchange.said(within)
        if isinstance(said, LostRequest):
            self._ended = True
            raise said
        return said

    @property
    def status(self) -> int:
        """The answer's status; waits for it."""
        return self._begin(WITHIN)[0]

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's fields by their names in lower case; waits for them."""
        return self._begin(WITHIN)[1]

    def read(self, within: float = WITHIN) -> bytes:
        """Wait for the next piece.  Returns it, or ``b""`` at the end of the answer.

        :param within: seconds to wait at most.
        :raises LostRequest: the application has failed, or was taken down.
        :raises TimeoutError: nothing comes in time.
        """
        self._begin(within)
        if self._ended:
            return b""
        piece = self._next(within)
        if piece is _END:
            self._ended = True
            return b""
        assert isinstance(piece, bytes)
        self._exchange.taken += len(piece)
        self._exchange.version.call(self._exchange.wake)
        return piece

    def rest(self, within: float = WITHIN) -> bytes:
        """Wait for all further pieces.  Returns them as one.

        :param within: seconds to wait at most for each piece.
        :raises LostRequest: the application has failed, or was taken down.
        :raises TimeoutError: nothing comes in time.
        """
        pieces = []
        while piece := self.read(within):
            pieces.append(piece)
        return b"".join(pieces)

    def answer(self, within: float = WITHIN) -> Answer:
        """Returns the answer with what is left of its body."""
        status, headers = self._begin(within)
        return Answer(status, headers, self.rest(within))

    def leave(self) -> None:
        """Leave before the end, as a client does whose page is closed."""
        if not self._ended:
            self._ended = True
            self._exchange.version.call(self._exchange.leave)
