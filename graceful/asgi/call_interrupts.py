"""Bringing down the calls of blocking code for which a task waits, in threads of executors.

The calls for which the task waits at the beginning get the exception at once.  Then the task gets it from them, and
may have something cleaned up in a thread, too: FastAPI runs the end of a `def` dependency there.  So what it begins
later has a second before it is brought down in its turn.  What the task no longer waits for, since it was cancelled,
is brought down at once: nothing else would end it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final, Protocol

from graceful.asgi.executor_threads import ExecutorCall, ExecutorExc, place_of
from graceful.threads.async_exc import AsyncExc

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange

#: Seconds that a call has that the task has begun after its takedown.
CLEANUP: Final = 1.0


class ThreadStep(Protocol):
    """Brings a thread down, as :class:`graceful.takedown.thread_interrupt.ThreadInterrupt` does."""

    def look(self, now: float) -> None:
        """Take the next step."""

    def add_time(self, seconds: float) -> None:
        """Give the thread more time."""

    @property
    def story(self) -> list[str]:
        """What was done, in words."""


#: Begins to bring a thread down: the exchange, what raises the exception, monotonic seconds.
InterruptThread = Callable[["Exchange", AsyncExc, float], ThreadStep]


class CallInterrupts:
    """Brings down the calls of one exchange.  Reactor thread.

    :param exchange: the exchange.
    :param interrupt_thread: begins to bring a thread down.
    :param reached: the futures for which the task waits at the beginning, also of calls that have no thread yet.
    :ivar any: whether any call was or is brought down.
    """

    def __init__(
        self, exchange: Exchange, interrupt_thread: InterruptThread, reached: Collection[asyncio.Future[Any]]
    ) -> None:
        self._exchange = exchange
        self._interrupt_thread = interrupt_thread
        self._reached = reached
        self._due: dict[ExecutorCall, float] = {}  # when it is brought down
        self._steps: dict[ExecutorCall, ThreadStep] = {}
        self._over: list[str] = []  # what was done to calls that have ended
        self._first = True
        self.any = False

    def look(self, calls: list[ExecutorCall], now: float) -> None:
        """Take the next step with each call.

        :param calls: those that run now.
        :param now: monotonic seconds.
        """
        patience, self._first = (0.0 if self._first else CLEANUP), False
        for call in self._steps.keys() - calls:
            self._over += self._steps.pop(call).story
        self._due = {
            call: now if call.cancelled or call.future in self._reached else self._due.get(call, now + patience)
            for call in calls
        }
        for call, due in self._due.items():
            if now >= due:
                self._bring_down(call, now)
        self._exchange.in_application = False

    def _bring_down(self, call: ExecutorCall, now: float) -> None:
        exchange, step = self._exchange, self._steps.get(call)
        if step is None:
            step = self._steps[call] = self._interrupt_thread(exchange, ExecutorExc(call.thread), now)
            self.any = True
        exchange.in_application = place_of(call.thread, exchange) is not None
        step.look(now)

    def add_time(self, seconds: float) -> None:
        """Give the calls more time, since they could not be looked at for so long."""
        self._due = {call: due + seconds for call, due in self._due.items()}
        for step in self._steps.values():
            step.add_time(seconds)

    @property
    def story(self) -> list[str]:
        """What was done to bring them down, in words, each once."""
        return list(dict.fromkeys((*self._over, *(line for step in self._steps.values() for line in step.story))))
