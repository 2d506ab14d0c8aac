"""Bringing a task down: by cancelling it, again after a second, and by freeing a loop that is blocked.

A cancellation is raised where the task waits, so it needs a loop that comes round.  A loop whose thread is stuck in
one task's code does not: then the takedown of threads applies to that thread, which raises an exception in the code
that blocks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from graceful.asgi.blocked_code import in_application_code
from graceful.threads.async_exc import NOTHING, AsyncExc, RunsApplication, set_exception

if TYPE_CHECKING:
    from graceful.asgi.loop_thread import LoopThread
    from graceful.web.exchange import Exchange

#: Seconds after which a task that still works is cancelled again.
AGAIN: Final = 1.0
#: Seconds without a sign of life, after which a loop counts as blocked.
BLOCKED: Final = 0.5
#: The same if another task's code blocks it: its own request may be well, and only slow.
BLOCKED_BY_OTHERS: Final = 2.0


class ThreadStep(Protocol):
    """Brings a thread down, as :class:`graceful.takedown.thread_interrupt.ThreadInterrupt` does."""

    def look(self, now: float) -> None:
        """Take the next step."""

    def add_time(self, seconds: float) -> None:
        """Give the thread more time."""

    @property
    def story(self) -> list[str]:
        """What was done, in words."""


#: Begins to bring a thread down: the exchange, what raises the exception, the kernel's number, monotonic seconds.
InterruptThread = Callable[["Exchange", AsyncExc, int, float], ThreadStep]


class LoopExc(AsyncExc):
    """Raises the exception of a takedown in a loop's thread, if that is in the application's code right now.

    That thread does not tell where it is, as a thread of the pool does, so its frames are looked at.  They are old
    as soon as this thread has waited for anything: it looks directly before the exception is set, and clears it if
    the thread has gone on meanwhile.
    """

    __slots__ = ()

    def inject(self, exchange: RunsApplication, exception: type[BaseException]) -> bool:
        """Have an exception raised, as :meth:`AsyncExc.inject` does."""
        if not in_application_code(self.thread):
            return False
        raised: bool = set_exception(self.thread, exception) == 1
        if not in_application_code(self.thread):
            set_exception(self.thread, NOTHING)
            return False
        return raised


class InterruptedWork(Protocol):
    """The task of an exchange, as its takedown sees it."""

    exchange: Exchange
    thread: LoopThread

    def cancel(self) -> None:
        """Cancel the task."""

    def stack(self) -> str:
        """Returns the stack of the task."""

    def runs_now(self) -> bool:
        """Whether the loop's thread runs this task's code."""


class TaskInterrupt:
    """Brings down the task of one exchange.  Reactor thread.

    :param work: what works for the exchange.
    :param now: seconds of the clock that :meth:`look` is given as well.
    :param interrupt_thread: begins to bring down the loop's thread.
    :ivar stack: of the task when it was interrupted, innermost await last.
    """

    def __init__(self, work: InterruptedWork, now: float, interrupt_thread: InterruptThread) -> None:
        self.exchange = work.exchange
        self.thread = work
        self.began = now
        self.stack = work.stack()
        self._interrupt_thread = interrupt_thread
        self._cancelled = 0
        self._next = now
        self._freeing: ThreadStep | None = None
        self._freed: list[str] = []
        # Says that the exchange is being taken down, and by which thread's exception if its loop is blocked.
        self.exchange.takedown = AsyncExc(work.thread.ident)

    def look(self, now: float) -> None:
        """Take the next step; call it often while the task works for the exchange."""
        if now >= self._next:
            self.thread.cancel()
            self._cancelled += 1
            self._next = now + AGAIN
        self._free_loop(now)

    def add_time(self, seconds: float) -> None:
        """Give the task more time, since it could not be looked at for so long."""
        self.began += seconds
        self._next += seconds
        if self._freeing is not None:
            self._freeing.add_time(seconds)

    @property
    def story(self) -> list[str]:
        """What was done to bring the task down, in words."""
        times = f" {self._cancelled} times" if self._cancelled > 1 else ""
        return [f"cancelled its task{times}", *self._freed]

    def _free_loop(self, now: float) -> None:
        """Bring down the code that blocks the loop, whichever task's it is."""
        thread, exchange = self.thread.thread, self.exchange
        blocked = thread.blocked()
        if blocked < BLOCKED or (blocked < BLOCKED_BY_OTHERS and not self.thread.runs_now()):
            exchange.in_application = False
            self._freeing = None
            return
        exchange.in_application = in_application_code(thread.ident)
        if self._freeing is None:
            self._freed.append("its loop was blocked")
            self._freeing = self._interrupt_thread(exchange, LoopExc(thread.ident), thread.native, now)
        thread.interrupted()
        self._freeing.look(now)
        self._freed[1:] = self._freeing.story
