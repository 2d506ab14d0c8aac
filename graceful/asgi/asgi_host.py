"""What serves the ASGI applications of one server: their loop, their tasks and their lifespans.

An application may be the server's root, or anywhere in a tree of resources, where it is found with its first request
only.  So the loop is started when the first application is known, and each application's lifespan with it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as NotDone
from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

from graceful.application import deadlines, drain_notice
from graceful.asgi.http_session import Application, HttpSession, Progress
from graceful.asgi.lifespan import Lifespan
from graceful.asgi.loop_thread import LoopThread
from graceful.asgi.task_interrupt import BLOCKED as UNRESPONSIVE
from graceful.asgi.task_table import TaskTable, Work
from graceful.reports.reporter import Reporter
from graceful.threads.stacks import stack_of

if TYPE_CHECKING:
    from graceful.asgi.websocket_task import WebSocketTask
    from graceful.threads.disk import DiskThreads
    from graceful.web.exchange import Exchange
    from graceful.web.hub import Hub
    from graceful.web.queue_times import QueueTimes

log = Logger(namespace="graceful")

#: What a scope offers beyond the specification; the functions know their exchange by its context.
EXTENSIONS: Final[dict[str, Any]] = {
    "http.response.pathsend": {},
    "http.response.trailers": {},
    "graceful": {
        "remaining": deadlines.remaining,
        "draining": deadlines.draining,
        "drain_begins": drain_notice.drain_begins,
    },
}
#: Seconds after which a start-up that is not complete is named in the log.
SLOW_START: Final = 10.0
#: Seconds without a sign of life, after which a blocked loop is named in the log, with its thread's stack.
BLOCKED: Final = 5.0


class AsgiHost:
    """Runs ASGI applications.

    :param hub: is told of the loop, and calls functions in the reactor thread.
    :param disk: fetches blocks of files that are not in memory.
    :param reports: gets a report of each exchange that fails.
    :param thread: the loop's thread, if it is not a new one.
    :param times: measures how long exchanges wait for the loop, and refuses those that have waited for too long; None
        if that is not measured.
    :ivar reports: as given.
    :ivar times: as given.
    :ivar extensions: that an HTTP scope offers.
    """

    def __init__(
        self,
        hub: Hub,
        disk: DiskThreads,
        reports: Reporter,
        thread: LoopThread | None = None,
        times: QueueTimes | None = None,
    ) -> None:
        self._hub = hub
        self.disk = disk
        self.reports = reports
        self.thread = thread if thread is not None else LoopThread()
        self.tasks = TaskTable(self.thread, reports)
        self.times = times
        self.extensions = EXTENSIONS
        self._lock = threading.Lock()
        self._lifespans: dict[int, Lifespan] = {}  # by the application's id; the lifespan refers to it
        self._hooks: set[asyncio.Task[None]] = set()  # the loop itself keeps only weak references
        self._started = self._blocked = self._told_of_websockets = False

    # -- any thread ---------------------------------------------------------------------------------------

    def lifespan_of(self, application: Application) -> Lifespan:
        """Returns an application's lifespan, which begins with the first call.

        :raises NoThread: the system refuses the loop's thread.
        """
        lifespan = self._lifespans.get(id(application))
        if lifespan is not None:
            return lifespan
        with self._lock:
            if not self._started:
                self.thread.start()
                self._hub.add_loop(self.thread.ident, self.thread)
                self._started = True
            lifespan = self._lifespans.get(id(application))
            if lifespan is None:
                lifespan = self._lifespans[id(application)] = Lifespan(application, self.thread.call)
                lifespan.start()
        return lifespan

    def start(self, application: Application) -> None:
        """Start an application, and wait until it is ready.  Main thread, before the server accepts.

        :raises LifespanFailed: it cannot start.
        :raises NoThread: the system refuses the loop's thread.
        """
        started = self.lifespan_of(application).started
        try:
            started.result(SLOW_START)
        except NotDone:
            log.warn(
                "the application's start-up (lifespan.startup) is not complete after {limit:g} s; the loop's thread"
                " is here:\n{stack}",
                limit=SLOW_START,
                stack=stack_of(self.thread.ident),
            )
            started.result()

    def serve(self, exchange: Exchange, application: Application) -> None:
        """Have an application answer an exchange.

        :raises NoThread: the system refuses the loop's thread.
        """
        lifespan = self._lifespans.get(id(application)) or self.lifespan_of(application)
        if exchange.upgrade:
            websocket = self._websocket(exchange, application, lifespan)
            if websocket is not None:
                self.tasks.start(exchange, websocket)
            return
        self.tasks.start(exchange, HttpSession(exchange, application, lifespan, self))

    def _websocket(self, exchange: Exchange, application: Application, lifespan: Lifespan) -> WebSocketTask | None:
        """Returns the task of a WebSocket; None if the request is answered already."""
        try:
            from graceful.asgi.websocket_task import open_websocket
        except ImportError:
            if not self._told_of_websockets:
                self._told_of_websockets = True
                log.error(
                    "a client asks for a WebSocket, for which graceful-app[asgi] has to be installed: it gets 501"
                )
            exchange.connection.site.answer(exchange, 501)
            return None
        return open_websocket(exchange, application, lifespan, self)

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the loop's thread."""
        self.thread.call(function, *arguments)

    def call_reactor(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the reactor thread."""
        self._hub.call(function, *arguments)

    def working(self) -> dict[Exchange, Work]:
        """Returns the exchanges that a task works for, each with its work."""
        return self.tasks.working()

    # -- the reactor thread -------------------------------------------------------------------------------

    def disconnected(self, exchange: Exchange) -> None:
        """The exchange's client will not read the rest of the answer."""
        self.thread.call(self._disconnected, exchange)

    def _disconnected(self, exchange: Exchange) -> None:
        session = self.tasks.job_of(exchange)
        if isinstance(session, HttpSession):
            session.disconnected()

    def input_ended(self, exchange: Exchange) -> bool:
        """The client will send nothing more: tell an application that waits for its leaving.

        :returns: whether the client is taken to be gone: its answer is a stream, between two pieces.
        """
        session = self.tasks.job_of(exchange)
        if not isinstance(session, HttpSession) or exchange.connection.write_token.held:
            return False
        self.thread.call(session.wake)
        return exchange.begun and session.progress is Progress.STARTED

    def look(self, now: float) -> None:
        """Log a loop that is blocked, once, and when it goes on.  The server calls this about every second."""
        if not self._started:
            return
        seconds = self.thread.blocked()
        if seconds >= BLOCKED and not self._blocked:
            self._blocked = True
            log.warn(
                "the asyncio loop has been blocked for {seconds:.0f} s: the server goes on, but no request of the"
                " application's does; its thread is here:\n{stack}",
                seconds=seconds,
                stack=stack_of(self.thread.ident),
            )
        elif seconds == 0.0 and self._blocked:
            self._blocked = False
            log.info("the asyncio loop goes on")

    def tell(self, function: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a coroutine function of the application's, such as a hook; what it raises is logged."""
        if self._started:
            self.thread.call(self._run_hook, function)
        else:
            log.warn("{function!r} is not called: no ASGI application is served", function=function)

    def _run_hook(self, function: Callable[[], Coroutine[Any, Any, object]]) -> None:
        task = self.thread.loop.create_task(_logged(function))
        self._hooks.add(task)
        task.add_done_callback(self._hooks.discard)

    def notice(self) -> None:
        """The server begins to stop: tell the applications that have asked for it."""
        for lifespan in list(self._lifespans.values()):
            lifespan.notice()

    def lifespans(self) -> list[Lifespan]:
        """Returns the lifespans that can be ended: none if the loop is blocked."""
        return [] if self._started and self.thread.blocked() >= UNRESPONSIVE else list(self._lifespans.values())

    def close(self, timeout: float) -> None:
        """End the loop.  Blocks.

        :param timeout: seconds to wait at most.
        """
        if self._started:
            self.thread.stop(timeout)


async def _logged(function: Callable[[], Coroutine[Any, Any, object]]) -> None:
    try:
        await function()
    except Exception:
        log.failure("{function!r} failed", function=function)
