"""The lifespan of an ASGI application: what it does before the first request, and after the last.

An application says that it is ready, or why it cannot be, and the server waits for that before it accepts.  Many
applications have no lifespan; they raise, and are served without one (lifespan protocol, version 2.0).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Final

from twisted.logger import Logger

log = Logger(namespace="graceful")

Message = dict[str, Any]
Application = Callable[..., Awaitable[object]]

#: What the scope offers: an application that has asked for it is told that the server begins to stop.
NOTICE: Final = "lifespan.shutdown.notice"


class LifespanFailed(Exception):
    """The application cannot start.  Its text is one line for the operator."""


class Lifespan:
    """Runs an application's lifespan in the loop's thread.

    :param application: the application.
    :param call: calls a function in the loop's thread.
    :ivar state: what the application has put into it; each request's scope gets a copy.  None if it has no lifespan.
    :ivar ready: whether requests may be served.
    :ivar started: done when the application is ready, has no lifespan, or has failed, with :class:`LifespanFailed`.
    """

    def __init__(self, application: Application, call: Callable[..., object]) -> None:
        self._application = application
        self._call = call
        self._own_state: dict[str, Any] = {}
        self.state: dict[str, Any] | None = None
        self.ready = False
        self.started: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._events: asyncio.Queue[Message]
        self._received = self._wants_notice = False
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<lifespan of {self._application!r}>"

    # -- any thread ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; `started` tells how that has ended."""
        self._call(self._begin)

    def notice(self) -> None:
        """The server begins to stop; requests are still served."""
        self._call(self._notice)

    def shutdown(self) -> Future[None]:
        """The last request is over.  Returns a future that is done when the application is through."""
        self._call(self._shutdown)
        return self._ended

    # -- the loop's thread --------------------------------------------------------------------------------

    async def until_ready(self) -> None:
        """Return when requests may be served.

        :raises LifespanFailed: they may never be.
        """
        if not self.ready:
            # Shielded: a request that is cancelled meanwhile would cancel the start-up's future, for all others, too.
            await asyncio.shield(asyncio.wrap_future(self.started))

    def _begin(self) -> None:
        self._events = asyncio.Queue()
        self._events.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.get_running_loop().create_task(self._run())

    def _notice(self) -> None:
        if self._wants_notice and not self._ended.done():
            self._events.put_nowait({"type": NOTICE})

    def _shutdown(self) -> None:
        if self._task is None or self._task.done() or self.state is None:
            if self._task is not None:
                self._task.cancel()
            self._end()
        else:
            self._events.put_nowait({"type": "lifespan.shutdown"})

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._own_state,
            "extensions": {NOTICE: {}},
        }
        try:
            await self._application(scope, self._receive, self._send)
        except BaseException as error:
            self._raised(error)
        else:
            self._start_ends()
        finally:
            self._end()

    def _raised(self, error: BaseException) -> None:
        if self.started.done():
            if not self._ended.done() and self.state is not None and not isinstance(error, asyncio.CancelledError):
                log.failure("the application's lifespan failed")
        elif self._received and not isinstance(error, asyncio.CancelledError):
            log.failure("the application's lifespan failed before it was complete; it is served without one")
            self._start_ends()
        else:
            self._start_ends()

    async def _receive(self) -> Message:
        event = await self._events.get()
        self._received = True
        return event

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete" and not self.started.done():
            self.state = self._own_state
            self._wants_notice = bool(message.get("shutdown_notice", False))
            self._start_ends()
        elif kind == "lifespan.startup.failed" and not self.started.done():
            why = " ".join(str(message.get("message") or "it does not say why").splitlines()[-1:])
            self.started.set_exception(LifespanFailed(f"the application's start-up failed: {why}"))
        elif kind == "lifespan.shutdown.failed":
            log.error("the application's shutdown failed: {why}", why=message.get("message") or "it does not say why")
            self._end()
        elif kind == "lifespan.shutdown.complete":
            self._end()
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r} in the lifespan")

    def _start_ends(self) -> None:
        if not self.started.done():
            self.ready = True
            self.started.set_result(None)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
