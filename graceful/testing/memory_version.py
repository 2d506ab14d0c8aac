"""One version of an ASGI application that runs in memory: its loop, its lifespan, and its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotDone
from typing import Any, Final, cast

from graceful.application import drain_notice
from graceful.application.current import set_current
from graceful.asgi.asgi_host import EXTENSIONS
from graceful.asgi.lifespan import Lifespan, LifespanFailed
from graceful.asgi.loop_thread import LoopThread
from graceful.testing.memory_exchange import Application, ExchangeInMemory
from graceful.testing.server import StartFailed

#: Seconds that a lifespan has to begin, and to end.
LIFESPAN: Final = 5.0
#: Seconds between the notice of a stop and the server's own close of WebSockets.
CLOSES_AFTER: Final = 0.1


class VersionInMemory:
    """Runs an application in a loop of its own, as a process of its own would.

    :param application: the ASGI application.
    :param over: is told of each exchange that is over, with what the application has raised, if it has; the loop's
        thread.
    :ivar going_down: whether it has been told that the server stops.
    :raises StartFailed: its lifespan does not begin.
    """

    #: Downloads and parked requests are what they are on any other server.
    hand_over: None = None

    def __init__(
        self, application: Application, over: Callable[[ExchangeInMemory, Exception | None], object]
    ) -> None:
        self.going_down = self._ending = False
        self._application = application
        self._over = over
        self._thread = LoopThread()
        self._lifespan = Lifespan(application, self._thread.call)
        self._tasks: dict[ExchangeInMemory, asyncio.Task[None]] = {}  # the loop's
        self._thread.start()
        self._lifespan.start()
        try:
            self._lifespan.started.result(LIFESPAN)
        except (LifespanFailed, NotDone) as error:
            self._thread.stop(LIFESPAN)
            raise StartFailed(
                str(error) or f"the application's start-up is not complete after {LIFESPAN:g} s"
            ) from None

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the loop, from any thread."""
        self._thread.call(function, *arguments)

    def serve(self, exchange: ExchangeInMemory) -> None:
        """Call the application for an exchange."""
        self.call(self._start, exchange)

    def drain(self) -> None:
        """Tell the application that the server stops; close WebSockets a moment later."""
        self.going_down = True
        drain_notice.wake_all()
        self._lifespan.notice()
        self.call(self._close_later)

    def take_down(self) -> None:
        """Cancel what is left."""
        self.call(self._cancel)

    def leave(self) -> None:
        """Have all clients leave."""
        self.call(self._leave)

    def end(self) -> None:
        """End the lifespan and the loop."""
        try:
            self._lifespan.shutdown().result(LIFESPAN)
        except NotDone:
            pass  # the server does not wait longer, either
        self._thread.stop(LIFESPAN)

    # -- the loop -----------------------------------------------------------------------------------------

    def _start(self, exchange: ExchangeInMemory) -> None:
        self._tasks[exchange] = asyncio.get_running_loop().create_task(self._run(exchange))

    async def _run(self, exchange: ExchangeInMemory) -> None:
        set_current(cast(Any, exchange))  # all that `graceful.draining` and the like ask of it is there
        failure: Exception | None = None
        try:
            await exchange.run(self._application, EXTENSIONS, self._lifespan.state)
        except Exception as error:
            failure = error
        finally:
            exchange.released = True
            del self._tasks[exchange]
            self._over(exchange, failure)
            self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self.going_down and not self._tasks and not self._ending:
            self._ending = True
            self._lifespan.shutdown()

    def _close_later(self) -> None:
        asyncio.get_running_loop().call_later(CLOSES_AFTER, self._close)
        self._end_if_idle()

    def _close(self) -> None:
        for exchange in list(self._tasks):
            exchange.close()

    def _cancel(self) -> None:
        for exchange, task in list(self._tasks.items()):
            exchange.lose("taken down")
            task.cancel()

    def _leave(self) -> None:
        for exchange in list(self._tasks):
            exchange.leave()
