"""Bringing a thread down: by hooks, then by an exception, then by ending what it waits for.

The order matters.  Hooks that the application has registered are called first, since they know best: they end a
query where the server could only cut the connection.  Then `Takedown` is raised, and only a thread that has it
pending is freed from what it waits for, so that it does not take the end of the wait for an answer.  A thread that
swallows the exception gets it again, but not at once, since it may be cleaning up.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.application.deadlines import Takedown
from graceful.takedown.kernel_waits import BlockedCall, KernelWaits, end_child
from graceful.takedown.python_waits import child_of, delicate, in_condition, leave_condition
from graceful.threads.async_exc import AsyncExc, Hook
from graceful.web.exchange import Exchange

log = Logger(namespace="graceful")


#: Seconds within which a thread must have come down; after that it is abandoned.
WITHIN: Final = 4.0
#: Seconds between two looks at a thread: a wait must last for two of them to be ended.
LOOK_AGAIN: Final = 0.05
#: Seconds by which a look may be late.  A longer pause of the reactor, or the machine, is not held against threads.
LATE: Final = 0.5
#: Seconds that hooks have before the exception is raised.
HOOKS: Final = 1.0
#: Seconds after which a thread that still works gets the exception again.
AGAIN: Final = 1.0
#: Seconds that a thread must have been in the same wait before that is ended: at first, when the wait has exceeded
#: the limit, and later, when the thread may wait for something that it cleans up.
SOON: Final = LOOK_AGAIN / 2
LATER: Final = 0.5


class Interrupt(Protocol):
    """Brings down what works for one exchange, a thread or a task.  Reactor thread.

    :ivar exchange: the exchange.
    :ivar thread: what works for it.
    :ivar began: seconds of the clock that :meth:`look` is given as well.
    """

    exchange: Exchange
    began: float

    @property
    def thread(self) -> Any: ...

    @property
    def story(self) -> list[str]:
        """What was done to bring the worker down, in words."""

    def look(self, now: float) -> None:
        """Take the next step; call it every :data:`LOOK_AGAIN` seconds while the worker works."""

    def add_time(self, seconds: float) -> None:
        """Give the worker more time, since it could not be looked at for so long."""


class ThreadInterrupt:
    """Brings down the thread of one exchange.  Reactor thread.

    :param exchange: the one that the thread works for.
    :param async_exc: raises the exception in the thread.
    :param native: the thread, as the kernel numbers it.
    :param now: seconds of the clock that :meth:`look` is given as well.
    :param waits: finds out what threads wait for.
    :param call: calls a hook in another thread.
    """

    def __init__(
        self,
        exchange: Exchange,
        async_exc: AsyncExc,
        native: int,
        now: float,
        waits: KernelWaits,
        call: Callable[..., Future[Any]],
    ) -> None:
        self.exchange = exchange
        self.thread = async_exc.thread
        self.began = now
        self._done: list[str] = []
        self._native = native
        self._waits = waits
        self._call = call
        self._async_exc = exchange.takedown = async_exc
        self._fired = 0
        self._next_shot = now
        self._called: set[Hook] = set()
        self._calls: list[Future[Any]] = []
        self._calls_until = now
        # What the thread waits for, since when, and when that wait was last ended.
        self._wait: BlockedCall | subprocess.Popen[Any] | None = None
        self._wait_since = now
        self._wait_ended: float | None = None
        self._asleep_in: BlockedCall | None = None
        self._asleep = False

    def look(self, now: float) -> None:
        """Take the next step; call it every :data:`LOOK_AGAIN` seconds while the thread works for the exchange."""
        self._call_hooks(now)
        if self._calls and now < self._calls_until:
            return
        if now >= self._next_shot and self._fire(now):
            self._fired += 1
            self._next_shot = now + AGAIN
        if self._fired:
            self._end_wait(now)

    def add_time(self, seconds: float) -> None:
        """Give the thread more time, since it could not be looked at for so long."""
        self.began += seconds
        self._next_shot += seconds
        self._calls_until += seconds

    @property
    def story(self) -> list[str]:
        """What was done to bring the thread down, in words."""
        if not self._fired:
            return list(self._done)
        return ["raised Takedown" + (f" {self._fired} times" if self._fired > 1 else ""), *self._done]

    def _say(self, what: str) -> None:
        if what not in self._done:
            self._done.append(what)

    def _call_hooks(self, now: float) -> None:
        """Call the hooks that the application has registered since the last look."""
        for hook in self.exchange.hooks.copy() if self.exchange.hooks is not None else ():
            function = hook.function
            if function is not None and hook not in self._called:
                self._called.add(hook)
                self._calls_until = now + HOOKS
                self._calls.append(self._call(hook.run))
                self._say(f"called {function!r}")
        self._calls = [call for call in self._calls if not call.done()]

    def _shoot(self) -> bool:
        return self._async_exc.inject(self.exchange, Takedown, self._asleep)

    def _is_asleep(self) -> bool:
        """Whether the thread has not run since this was asked last, as far as the kernel tells."""
        wait, self._asleep_in = self._asleep_in, self._waits.look(self._native)
        return wait is not None and wait == self._asleep_in

    def _fire(self, now: float) -> bool:
        """Raise `Takedown`, if the thread is where it may be raised."""
        self._asleep = self._is_asleep()
        if delicate(self.thread, self._asleep):
            return False
        waiting = in_condition(self.thread)
        if waiting is None or now - self.began >= AGAIN:
            return self._shoot()
        if leave_condition(*waiting, self._shoot):
            self._say("ended its wait for a condition")
            return True
        return False

    def _end_wait(self, now: float) -> None:
        """End what the thread waits for, if that has been the same at the last looks."""
        wait = (child_of(self.thread) or self._waits.look(self._native)) if self.exchange.in_application else None
        # A loop in C that waits for a tenth of a second over and over, as psycopg's does, never meets the exception.
        over_and_over = self._fired > 1 and wait != self._wait and _in_one_place(wait, self._wait)
        if wait is None or (wait != self._wait and not over_and_over):
            self._wait, self._wait_since, self._wait_ended = wait, now, None
            return
        self._wait = wait
        patience = 0.0 if over_and_over else SOON if self._wait_since <= self.began + 2 * LOOK_AGAIN else LATER
        hard = self._wait_ended is not None
        if now - self._wait_since < patience or (self._wait_ended is not None and now - self._wait_ended < AGAIN):
            return
        self._wait_ended = now
        done = self._waits.end(wait, hard) if isinstance(wait, BlockedCall) else [end_child(wait.pid, hard)]
        for what in done:
            self._say(what)


def _in_one_place(wait: object, other: object) -> bool:
    """Whether two waits in the kernel are the same except that the thread has run in between."""
    return isinstance(wait, BlockedCall) and isinstance(other, BlockedCall) and wait.place == other.place


Ended = Callable[[Interrupt, bool], None]


class InterruptScheduler:
    """Brings threads and tasks down side by side, by one timer.  Reactor thread.

    :param clock: monotonic time.
    :param working: the exchanges that a thread or a task works for, each with that.
    :param native: the kernel's number of a thread.
    :param waits: finds out what threads wait for.
    :param call: calls a hook in another thread.
    """

    def __init__(
        self,
        clock: IReactorTime,
        working: Callable[[], dict[Exchange, Any]],
        native: Callable[[int], int],
        waits: KernelWaits,
        call: Callable[..., Future[Any]],
    ) -> None:
        self._clock = clock
        self._working = working
        self._native = native
        self._waits = waits
        self._call = call
        self._under_way: dict[Exchange, tuple[Interrupt, list[Ended]]] = {}
        self._due = 0.0

    def start(self, exchange: Exchange, worker: Any, ended: Ended, everything: bool = False) -> Interrupt:
        """Begin to bring down what works for an exchange, unless that is under way.

        :param worker: a thread's `threading.get_ident()`, or a :class:`graceful.asgi.task_table.Work`.
        :param ended: called with the interrupt, and whether the worker has come down; if False, it is abandoned.
        :param everything: also what the exchange has begun and left to itself, since the process ends.
        """
        known = self._under_way.get(exchange)
        if known is not None:
            known[1].append(ended)
            return known[0]
        now = self._clock.seconds()
        interrupt: Interrupt
        if isinstance(worker, int):
            interrupt = self._interrupt_thread(exchange, AsyncExc(worker), now)
        else:
            interrupt = worker.interrupt(exchange, now, self._interrupt_thread, everything)
        if not self._under_way:
            self._look_again(now)
        self._under_way[exchange] = interrupt, [ended]
        self._look_at(interrupt, now)
        return interrupt

    @property
    def busy(self) -> bool:
        """Whether any thread is being brought down."""
        return bool(self._under_way)

    def _look_again(self, now: float) -> None:
        self._due = now + LOOK_AGAIN
        self._clock.callLater(LOOK_AGAIN, self._look)

    def _look(self) -> None:
        now = self._clock.seconds()
        try:
            self._look_at_all(now, self._working())
        finally:  # or nobody would look any more: `start` takes it that a look is to come
            if self._under_way:
                self._look_again(now)

    def _look_at_all(self, now: float, working: dict[Exchange, Any]) -> None:
        paused = now - self._due
        if paused > LATE:
            for interrupt, _ in self._under_way.values():
                interrupt.add_time(paused)
        self._waits.begin_round()
        for exchange, (interrupt, ended) in list(self._under_way.items()):
            down = working.get(exchange) != interrupt.thread
            if down or now - interrupt.began >= WITHIN:
                del self._under_way[exchange]
                for tell in ended:
                    tell(interrupt, down)
            else:
                self._look_at(interrupt, now)

    def _interrupt_thread(self, exchange: Exchange, async_exc: AsyncExc, now: float) -> ThreadInterrupt:
        native = self._native(async_exc.thread)
        return ThreadInterrupt(exchange, async_exc, native, now, self._waits, self._call)

    def _look_at(self, interrupt: Interrupt, now: float) -> None:
        try:
            interrupt.look(now)
        except Exception:
            # One that fails must not keep the others from being brought down.
            log.failure("{exchange}: its thread could not be looked at", exchange=interrupt.exchange)
