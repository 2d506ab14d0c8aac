"""ASGI applications on a real site and real connections, with a loop that turns only when the test says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

from graceful.asgi import ASGIResource
from graceful.asgi.asgi_host import AsgiHost
from graceful.asgi.loop_thread import LoopThread
from graceful.reports.reporter import Reporter
from tests.fast.doubles import GET, Answer, Case, Client, parse_answers

Message = dict[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Message], Any]

LONG = 5.0
"""Seconds after which a test gives up."""


class TurnedLoop(LoopThread):
    """A loop in the test's own thread, which comes round in `turn` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()

    def start(self) -> None:
        self.ident = threading.get_ident()

    def _wake(self) -> None:
        self._woken = True

    def turn(self) -> None:
        """Run what is ready, and what that makes ready."""
        for _ in range(20):
            self.loop.call_soon(self._run_calls)
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()


class Reports(Reporter):
    """Keeps what is reported."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[str, BaseException]] = []

    def failed(self, exchange: Any, kind: str, error: BaseException) -> None:
        self.kept.append((kind, error))


class AsgiCase(Case):
    """An engine whose exchanges are answered by an ASGI application.

    :ivar failures: the exceptions that the application itself has met.
    """

    def setUp(self) -> None:
        """Have a loop and an engine."""
        super().setUp()
        self.loop = TurnedLoop()
        self.reports = Reports()
        disk: Any = SimpleNamespace()
        self.host = AsgiHost(self.engine.hub, disk, self.reports, self.loop)
        self.engine.site.coroutines = self.host
        self.failures: list[BaseException] = []
        self.addCleanup(self._close)

    def _close(self) -> None:
        for task in asyncio.all_tasks(self.loop.loop):
            task.cancel()
        self.turn()
        self.loop.loop.close()

    def serve(self, application: Callable[..., Any], *, streams: bool = True) -> ASGIResource:
        """Have everything answered by an application."""

        async def without_lifespan(scope: Message, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                raise RuntimeError("no lifespan")
            await application(scope, receive, send)

        resource = ASGIResource(without_lifespan)
        self.engine.serve(resource)
        self.engine.site.streams = (lambda exchange: True) if streams else None
        return resource

    def turn(self) -> None:
        """Let the reactor and the loop do what they would do now."""
        for _ in range(5):
            self.engine.turn()
            self.loop.turn()
        self.engine.turn()

    def turn_until(self, what: Callable[[], object]) -> None:
        """Turn until something is so, which a real thread does."""
        until = monotonic() + LONG
        while not what():
            assert monotonic() < until, "it does not become so"
            self.turn()
            sleep(0.001)

    def connect(self, data: bytes = b"", **options: Any) -> Client:
        """A new client that has sent something."""
        client = self.engine.connect(**options)
        if data:
            client.send(data)
            self.turn()
        return client

    def get(self, data: bytes = GET, method: str = "GET", **options: Any) -> Answer:
        """What a new client gets for a request."""
        client = self.connect(data, **options)
        answers = parse_answers(client.take(), method)
        assert len(answers) == 1, answers
        return answers[0]


async def answer(
    send: Send, body: bytes = b"", status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Answer in one piece."""
    await send({"type": "http.response.start", "status": status, "headers": headers or []})
    await send({"type": "http.response.body", "body": body})


def answering(body: bytes = b"", **options: Any) -> Callable[..., Any]:
    """An HTTP application that gives one answer, and has no lifespan."""

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await answer(send, body, **options)

    return application
