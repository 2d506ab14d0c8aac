"""One HTTP exchange, as an ASGI application sees it: what `receive` returns, and what `send` does.

All of it happens in the loop's thread, which must never wait: a piece of the answer goes to the kernel at once, and
what that does not take is left to the reactor.  Then `send` returns only when the client has taken enough of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from graceful.asgi.client_left import says_that_the_client_left
from graceful.asgi.request_body import RequestBody
from graceful.asgi.response_messages import lines_of_trailers, start_answer, trailers_wanted
from graceful.asgi.scope import http_scope
from graceful.downloads.file_sender import FileSender
from graceful.downloads.files import open_file
from graceful.downloads.reactor_answer import mark_download, start_soon
from graceful.downloads.targets import File
from graceful.web.body_stream import BodyStream
from graceful.web.disconnected import Disconnected
from graceful.web.receiver import CONTINUE
from graceful.web.sending_half import ROOM

if TYPE_CHECKING:
    from graceful.asgi.lifespan import Lifespan
    from graceful.threads.disk import DiskThreads
    from graceful.web.exchange import Exchange
    from graceful.web.queue_times import QueueTimes

Message = dict[str, Any]
Application = Callable[[dict[str, Any], Callable[[], Any], Callable[[Message], Any]], Awaitable[object]]


class Surroundings(Protocol):
    """What a session needs of the server.

    :ivar extensions: that a scope offers.
    :ivar times: measures how long an exchange waits for the loop; None if that is not measured.
    """

    disk: DiskThreads
    extensions: dict[str, Any]
    times: QueueTimes | None

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the loop's thread, from any thread."""

    def call_reactor(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the reactor thread, from any thread."""


class Progress(IntEnum):
    """How far an answer is."""

    NOTHING = 0
    STARTED = 1
    TRAILERS = 2
    COMPLETE = 3
    HANDED_OVER = 4


NOTHING: Final = Progress.NOTHING
STARTED: Final = Progress.STARTED
TRAILERS: Final = Progress.TRAILERS
COMPLETE: Final = Progress.COMPLETE
HANDED_OVER: Final = Progress.HANDED_OVER

_DISCONNECT: Final = {"type": "http.disconnect"}


class HttpSession:
    """Calls an application for one exchange; a `graceful.asgi.task_table.Job`.

    :param exchange: the exchange.
    :param application: the ASGI application.
    :param lifespan: the application's.
    :param surroundings: what it needs of the server.
    :ivar progress: how far the answer is.
    """

    __slots__ = (
        "_application",
        "_body",
        "_exchange",
        "_gone",
        "_lifespan",
        "_news",
        "_offered",
        "_surroundings",
        "_told",
        "_trailers",
        "progress",
    )

    def __init__(
        self, exchange: Exchange, application: Application, lifespan: Lifespan, surroundings: Surroundings
    ) -> None:
        self._exchange = exchange
        self._application = application
        self._lifespan = lifespan
        self._surroundings = surroundings
        self._body: RequestBody | None = None  # until the application asks for it
        self._gone = self._offered = False
        self._told = False  # the application has got `http.disconnect`, though its answer could still be sent
        self._news: asyncio.Future[None] | None = None
        self._trailers: str | None = None
        self.progress = NOTHING

    @property
    def handed_over(self) -> bool:
        """Whether the event loop gives the answer, and releases the exchange."""
        return self.progress is HANDED_OVER

    async def run(self) -> bool:
        """Call the application.  Returns whether another party releases the exchange."""
        exchange, lifespan = self._exchange, self._lifespan
        if not lifespan.ready:
            await lifespan.until_ready()
        times = self._surroundings.times
        if times is not None and times.refuses(exchange):
            return True
        scope = exchange.environ = http_scope(exchange, self._surroundings.extensions, lifespan.state)
        try:
            await self._application(scope, self.receive, self.send)
            if self.progress < COMPLETE:
                if not self._owes_nothing:
                    raise RuntimeError("the ASGI application has returned without completing its answer")
                self._leave_unanswered()
        except Exception as error:
            if not (self._owes_nothing and says_that_the_client_left(error)):
                raise
            self._leave_unanswered()
        finally:
            if self.progress < COMPLETE:
                self._gone = True  # for a task that the application has left behind
            body = exchange.body
            if type(body) is BodyStream:  # throw away what is left of it
                body.close()
                exchange.body = None
        return self.progress is HANDED_OVER

    @property
    def _owes_nothing(self) -> bool:
        """Whether the application may know that its client has left."""
        return self._gone or self._told

    def _leave_unanswered(self) -> None:
        """The application gives up, since the client has left or will send nothing more."""
        if self._gone:
            self._exchange.abandon()
        elif self.progress < COMPLETE:
            self._exchange.cut()

    # -- news from the reactor thread ---------------------------------------------------------------------

    def disconnected(self) -> None:
        """The client will not read the answer.  The loop's thread."""
        self._gone = True
        self.wake()

    def wake(self) -> None:
        """Have what waits look again.  The loop's thread."""
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)

    def _tell(self) -> None:
        """There is news.  Reactor thread."""
        self._surroundings.call(self.wake)

    async def _wait(self) -> None:
        """Wait for news, of whatever kind: several callers may, and each looks again."""
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._news)

    # -- receive ------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """Returns the next piece of the request's body; behind the last one `http.disconnect`, when that comes."""
        body = self._body
        if body is None:
            body = self._body = RequestBody(self._exchange)
        stream = body.stream
        while not body.done and not self._gone and self.progress < COMPLETE:
            if stream is not None and stream.take_expectation():
                self._exchange.connection.send_interim(CONTINUE, self._exchange)
            piece = body.take()
            if piece is not None:
                return {"type": "http.request", "body": piece[0], "more_body": piece[1]}
            if body.broken:
                return self._disconnect()
            assert stream is not None
            stream.on_news = self._tell
            if not stream.want():
                await self._wait()
        # A client that will send nothing more has most likely left; if it has not, it still gets its answer.
        write_token = self._exchange.connection.write_token
        while not self._gone and self.progress < COMPLETE and not write_token.eof:
            await self._wait()
        return self._disconnect()

    def _disconnect(self) -> Message:
        if self.progress < COMPLETE:
            self._told = True
        return _DISCONNECT.copy()

    # -- send ---------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Send a piece of the answer.

        :raises Disconnected: the client will not read it; an `OSError`, as the specification wants it.
        :raises RuntimeError: it is not this message's turn.
        """
        kind, progress = message["type"], self.progress
        if kind == "http.response.body" and progress is STARTED:
            if self._gone:
                self._check_client()
            data = message.get("body", b"")
            if type(data) is not bytes:
                data = bytes(memoryview(data))
            if not message.get("more_body", False):
                if self._trailers is None:
                    if self._exchange.body is not None:
                        self._leave_body()
                    self._finish(data)
                else:
                    self._last_piece(data)
                return
            exchange = self._exchange
            self._write(data)
            write_token = exchange.connection.write_token
            if write_token.held > ROOM or (write_token.held and not exchange.connection.site.budget.room()):
                await self._wait_for_client()
        elif kind == "http.response.start" and progress is NOTHING:
            if self._gone:
                self._check_client()
            exchange = self._exchange
            start_answer(exchange, message)
            if message.get("trailers", False):
                self._trailers = ""
            self.progress = STARTED
            if exchange.offer is not None:
                self._hand_over()
        elif kind == "http.response.pathsend" and progress is STARTED:
            self._check_client()
            await self._send_file(message["path"])
        elif kind == "http.response.trailers" and progress is TRAILERS:
            self._check_client()
            self._send_trailers(message)
        elif kind == "http.response.trailers" and self._trailers is not None:
            pass  # this client does not want them
        elif kind == "http.response.body" and self._offered:
            pass  # for a server that does not take what the head has offered
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}: {_EXPECTED[progress]}")

    def _hand_over(self) -> None:
        """Leave the answer to the event loop, as the head has offered, by a token or by `X-Accel-Redirect`.

        At once, and not with the body: some frameworks read all of a token's body before they send any of it.
        """
        exchange = self._exchange
        hand_over = exchange.connection.site.hand_over
        if hand_over is None or (exchange.begun and not exchange.resumes):
            return
        begin = hand_over(exchange, None)
        if begin is None:
            return
        self._offered = True
        self._leave_body()
        if exchange.ended:  # it was short, and is sent; the task itself releases the exchange
            self.progress = COMPLETE
        else:
            self.progress = HANDED_OVER
            begin()
        if self._news is not None:
            self.wake()

    def _check_client(self) -> None:
        if self._gone:
            raise Disconnected("the client has left")

    def _write(self, data: bytes) -> None:
        try:
            self._exchange.write(data)
        except Disconnected:
            self.disconnected()
            raise

    def _last_piece(self, data: bytes) -> None:
        exchange = self._exchange
        if trailers_wanted(exchange):
            self._write(data)
            if exchange.chunked:
                self.progress = TRAILERS
                return
            data = b""
        self._leave_body()
        self._finish(data)

    def _leave_body(self) -> None:
        """The answer does not wait for the request's body."""
        exchange = self._exchange
        body = exchange.body
        if type(body) is BodyStream and not body.ended and not exchange.begun:
            # The rest may be long, and the client may not even have begun it.
            exchange.keep = False

    def _finish(self, data: bytes, trailers: str = "") -> None:
        self.progress = COMPLETE
        try:
            self._exchange.finish(data, trailers)
        except Disconnected:
            self.disconnected()
            raise
        if self._news is not None:
            self.wake()

    def _send_trailers(self, message: Message) -> None:
        assert self._trailers is not None
        self._trailers += lines_of_trailers(message.get("headers", ()))
        if not message.get("more_trailers", False):
            self._finish(b"", self._trailers)

    async def _wait_for_client(self) -> None:
        """Wait until the client has taken what the server holds for it."""
        connection = self._exchange.connection
        connection.drained = self._tell
        try:
            while connection.write_token.held and not self._gone:
                await self._wait()
        finally:
            connection.drained = None
        self._check_client()

    async def _send_file(self, path: str) -> None:
        """Leave the body to the event loop, which sends a file's bytes without touching them."""
        exchange = self._exchange
        if exchange.begun:
            raise RuntimeError("http.response.pathsend comes behind http.response.body, whose body it would continue")
        file = await asyncio.get_running_loop().run_in_executor(None, open_file, File(os.fsencode(path)))
        try:
            self._check_client()
            if exchange.length < 0:
                exchange.length = file.size
            if exchange.length > file.size:
                raise RuntimeError(f"{path} has {file.size} bytes, fewer than its Content-Length")
        except BaseException:
            file.close()
            raise
        self._leave_body()
        self.progress = HANDED_OVER
        mark_download(exchange)
        sender = FileSender(exchange, file, 0, exchange.length, self._surroundings.disk)
        start_soon(self._surroundings.call_reactor, sender)
        self.wake()


_EXPECTED: Final = {
    NOTHING: "expected http.response.start",
    STARTED: "expected http.response.body",
    TRAILERS: "expected http.response.trailers",
    COMPLETE: "the answer is complete",
    HANDED_OVER: "the answer is complete",
}
