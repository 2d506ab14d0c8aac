"""Runs a few threads under every order of their steps.

A race shows itself once in a million requests, on somebody else's machine.  Here the threads of a test are real,
but only one of them runs at a time, and at each *checkpoint* they ask a scheduler who goes on.  The scheduler
tries one order after the other: it repeats the whole test with the same choices up to some point and another one
there, until there is nothing left to try.  Orders with more than a few forced changes of thread are left out;
the races that people make need one or two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

MOST_STEPS: Final = 2000


class Violation(AssertionError):
    """Something that must never happen has happened, in the order of steps that is told."""


class _Over(BaseException):
    """Ends a thread of a run that is over."""


class Scheduler:
    """One run of a test, in one order.

    :param choices: what to choose, as long as it reaches; then always the first.
    :param preemptions: how often a thread that could go on may be made to wait.
    """

    def __init__(self, choices: list[int], preemptions: int) -> None:
        self.choices = choices
        self.taken: list[tuple[int, int]] = []
        self.trace: list[str] = []
        self.failure: BaseException | None = None
        self._left = preemptions
        self._threads: dict[int, tuple[str, threading.Semaphore]] = {}
        self._ready: list[int] = []
        self._current = 0
        self._numbers = 0
        self._idle: dict[int, Callable[[], bool]] = {}
        self._main = threading.Semaphore(0)
        self._over = False

    def choose(self, count: int) -> int:
        """Choose one of so many possibilities."""
        if count == 1:
            return 0
        position = len(self.taken)
        choice = self.choices[position] if position < len(self.choices) else 0
        self.taken.append((choice, count))
        return choice

    def spawn(self, name: str, function: Callable[[], Any]) -> None:
        """Add a thread; it runs when it is chosen."""
        self._numbers += 1
        number = self._numbers
        gate = threading.Semaphore(0)
        self._threads[number] = name, gate
        self._ready.append(number)

        def run() -> None:
            gate.acquire()
            try:
                if not self._over:
                    function()
            except _Over:
                pass
            except BaseException as error:
                self.failure = self.failure or error
                self._over = True
            self._ready.remove(number)
            del self._threads[number]
            self._switch(number, ended=True)

        threading.Thread(target=run, daemon=True).start()

    def checkpoint(self, what: str) -> None:
        """The running thread is about to do something that others could come before."""
        if self._over:
            raise _Over
        if len(self.trace) >= MOST_STEPS:
            raise Violation(f"threads go round and round: {MOST_STEPS} steps, and no end")
        self.trace.append(f"{self._threads[self._current][0]}: {what}")
        self._switch(self._current)

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """The running thread can do nothing before a condition holds.  False: it never will."""
        me = self._current
        while not condition():
            if self._over:
                return False
            self._idle[me] = condition
            self._switch(me)
            self._idle.pop(me, None)
            if self._over:
                return False
        return True

    def _switch(self, me: int, ended: bool = False) -> None:
        able = [n for n in self._ready if n not in self._idle or self._idle[n]()]
        if not able or self._over:
            self._over = True
            others = [n for n in self._ready if n != me]
            if others:
                self._go(others[0], me, ended)
            elif ended:
                self._main.release()
            return
        if me in able:
            able.remove(me)
            able.insert(0, me)
            if self._left == 0:
                able = [me]
        chosen = able[self.choose(len(able))]
        if me in self._ready and able[0] == me and chosen != me:
            self._left -= 1
        if chosen != me:
            self._go(chosen, me, ended)

    def _go(self, to: int, me: int, ended: bool) -> None:
        mine = None if ended else self._threads[me][1]
        self._current = to
        self._threads[to][1].release()
        if mine is not None:
            mine.acquire()
            self._current = me

    def run(self) -> None:
        """Run all threads to their end."""
        if self._ready:
            first = self._ready[self.choose(len(self._ready))]
            self._current = first
            self._threads[first][1].release()
            if not self._main.acquire(timeout=10):
                raise Violation("a thread does not come back:\n" + "\n".join(self.trace))


def explore(build: Callable[[Scheduler], Callable[[], None]], preemptions: int = 2, most: int = 20000) -> int:
    """Run a test in every order.

    :param build: makes a fresh world and its threads, and returns a function that judges how it ended.
    :param preemptions: how many forced changes of thread an order may have.
    :param most: give up after so many orders.
    :returns: how many orders there were.
    :raises Violation: in one of them something was wrong; it says which.
    """
    choices: list[int] = []
    count = 0
    while True:
        scheduler = Scheduler(choices, preemptions)
        judge = build(scheduler)
        scheduler.run()
        count += 1
        try:
            if scheduler.failure is not None:
                raise scheduler.failure
            judge()
        except BaseException as error:
            steps = "\n".join(scheduler.trace[-100:])
            raise Violation(f"{type(error).__name__}: {error}\nin order {count}:\n{steps}") from error
        taken = scheduler.taken
        while taken and taken[-1][0] == taken[-1][1] - 1:
            taken.pop()
        if not taken:
            return count
        if count >= most:
            raise AssertionError(f"more than {most} orders: make the test smaller")
        choices = [choice for choice, _ in taken]
        choices[-1] += 1
