"""Bringing a task down: by the threads that it waits for, by cancelling it, and by freeing a loop that is blocked.

A task may wait for a thread in which its framework runs blocking code.  That thread gets the exception, and the task
gets it from there, and has the rest of a second to clean up (:mod:`graceful.asgi.call_interrupts`).  A task that
waits for none, or goes on, is cancelled, and again after each second.  Before that it has a moment to end by itself:
Django leaves a view alone, with its thread, if it is cancelled before it has heard that the client has left.

A cancellation is raised where the task waits, so it needs a loop that comes round.  A loop whose thread is stuck in
one task's code does not: then the takedown of threads applies to that thread, which raises an exception in the code
that blocks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from graceful.asgi.blocked_code import application_frame
from graceful.asgi.call_interrupts import CallInterrupts, InterruptThread, ThreadStep
from graceful.threads.async_exc import AsyncExc, RunsApplication
from graceful.threads.one_pass import set_exception_at

if TYPE_CHECKING:
    import asyncio

    from graceful.asgi.executor_threads import ExecutorCall
    from graceful.asgi.loop_thread import LoopThread
    from graceful.web.exchange import Exchange

#: Seconds after which a task is cancelled: some frameworks end it better when they are told `http.disconnect`.
TOLD: Final = 0.1
#: Seconds after which a task that still works is cancelled again.
AGAIN: Final = 1.0
#: Seconds without a sign of life, after which a loop counts as blocked.
BLOCKED: Final = 0.5
#: The same if another task's code blocks it: its own request may be well, and only slow.
BLOCKED_BY_OTHERS: Final = 2.0


class LoopExc(AsyncExc):
    """Raises the exception of a takedown in a loop's thread, if that is in the application's code right now."""

    __slots__ = ()

    def inject(self, exchange: RunsApplication, exception: type[BaseException], asleep: bool = False) -> bool:
        """Have an exception raised, as :meth:`AsyncExc.inject` does."""
        frame = application_frame(self.thread)
        return frame is not None and set_exception_at(self.thread, frame, frame.f_lasti, exception)


class InterruptedWork(Protocol):
    """The task of an exchange, as its takedown sees it.

    :ivar reached: the futures that a cancellation of it reaches.
    """

    exchange: Exchange
    thread: LoopThread
    reached: frozenset[asyncio.Future[Any]]

    def cancel(self) -> bool:
        """Cancel the task.  Returns False if it is over."""

    def runs_now(self) -> bool:
        """Whether the loop's thread runs this task's code."""

    def calls(self) -> list[ExecutorCall]:
        """Returns the calls in threads of executors that are taken down with the task."""


class TaskInterrupt:
    """Brings down the task of one exchange.  Reactor thread.

    :param work: what works for the exchange.
    :param now: seconds of the clock that :meth:`look` is given as well.
    :param interrupt_thread: begins to bring down the loop's thread.
    """

    def __init__(self, work: InterruptedWork, now: float, interrupt_thread: InterruptThread) -> None:
        self.exchange = work.exchange
        self.thread = work
        self.began = now
        self._interrupt_thread = interrupt_thread
        self._cancelled = 0
        self._next = now + TOLD
        self._freeing: ThreadStep | None = None
        self._freed: list[str] = []
        self._calls = CallInterrupts(work.exchange, interrupt_thread, work.reached)
        # Says that the exchange is being taken down, and by which thread's exception if its loop is blocked.
        self.exchange.takedown = AsyncExc(work.thread.ident)

    def look(self, now: float) -> None:
        """Take the next step; call it often while the task, or one of its threads, works for the exchange."""
        self._calls.look(self.thread.calls(), now)
        if self._calls.any and not self._cancelled:
            self._next = self.began + AGAIN
        if now >= self._next:
            self._cancelled += self.thread.cancel()
            self._next = now + AGAIN
        self._free_loop(now)

    def add_time(self, seconds: float) -> None:
        """Give the task more time, since it could not be looked at for so long."""
        self.began += seconds
        self._next += seconds
        self._calls.add_time(seconds)
        if self._freeing is not None:
            self._freeing.add_time(seconds)

    @property
    def story(self) -> list[str]:
        """What was done to bring the task down, in words."""
        times = f" {self._cancelled} times" if self._cancelled > 1 else ""
        return [*self._calls.story, *([f"cancelled its task{times}"] if self._cancelled else []), *self._freed]

    def _free_loop(self, now: float) -> None:
        """Bring down the code that blocks the loop, whichever task's it is."""
        thread, exchange = self.thread.thread, self.exchange
        blocked = thread.blocked()
        if blocked < BLOCKED or (blocked < BLOCKED_BY_OTHERS and not self.thread.runs_now()):
            exchange.in_application = False
            self._freeing = None
            return
        exchange.in_application = application_frame(thread.ident) is not None
        if self._freeing is None:
            self._freed.append("its loop was blocked")
            self._freeing = self._interrupt_thread(exchange, LoopExc(thread.ident), now)
        thread.interrupted()
        self._freeing.look(now)
        self._freed[1:] = self._freeing.story
