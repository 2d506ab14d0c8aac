"""Bringing a task down: its threads, then itself, again after a second, its loop freed if that is blocked."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.application.deadlines import Takedown
from graceful.asgi import task_interrupt
from graceful.asgi.executor_threads import ExecutorCall
from graceful.asgi.task_interrupt import BLOCKED, BLOCKED_BY_OTHERS, LoopExc, TaskInterrupt
from graceful.threads.async_exc import AsyncExc


class Freeing:
    """Stands for the takedown of a thread."""

    def __init__(self) -> None:
        self.looks = 0
        self.added = 0.0
        self.story = ["raised Takedown"]

    def look(self, now: float) -> None:
        self.looks += 1

    def add_time(self, seconds: float) -> None:
        self.added += seconds


class InterruptTests(SynchronousTestCase):
    """A task that does not end, with a clock of the test's."""

    def setUp(self) -> None:
        """Have a task and its loop."""
        self.blocked, self.own = 0.0, True
        self.cancelled: list[float] = []
        self.now = 0.0
        self.cleared = 0
        self.freeing: list[Freeing] = []
        self.calls: list[ExecutorCall] = []
        self.reached: set[Any] = set()
        self.over = False
        self.exchange: Any = SimpleNamespace(takedown=None, in_application=False)
        thread: Any = SimpleNamespace(ident=5, blocked=lambda: self.blocked, interrupted=self._clear)
        work: Any = SimpleNamespace(
            exchange=self.exchange,
            thread=thread,
            cancel=self._cancel,
            runs_now=lambda: self.own,
            calls=lambda: self.calls,
            reached=self.reached,
        )
        self.patch(task_interrupt, "application_frame", lambda ident: sys._getframe() if ident == 5 else None)
        self.interrupt = TaskInterrupt(work, 0.0, self._free)

    def _clear(self) -> None:
        self.cleared += 1

    def _cancel(self) -> bool:
        self.cancelled.append(self.now)
        return not self.over

    def _free(self, exchange: Any, async_exc: AsyncExc, now: float) -> Freeing:
        expected = 5 if isinstance(async_exc, LoopExc) else 7
        self.assertEqual((exchange, async_exc.thread), (self.exchange, expected))
        self.freeing.append(Freeing())
        return self.freeing[-1]

    def look(self, seconds: float) -> None:
        """Look at it for so long."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.interrupt.look(self.now)
            self.now += 0.05

    def test_a_task_is_cancelled_again_each_second(self) -> None:
        """A task that goes on is cancelled after a moment, and again after each second."""
        self.look(2.5)
        self.assertEqual([round(at, 1) for at in self.cancelled], [0.1, 1.1, 2.1])
        self.assertEqual(self.interrupt.story, ["cancelled its task 3 times"])
        self.assertEqual(self.freeing, [])
        self.assertIsNotNone(self.exchange.takedown)

    def test_the_threads_of_a_task_come_first(self) -> None:
        """A task that waits for a thread is left alone for a second, since it gets the exception from there."""
        self.calls = [ExecutorCall(7, None)]
        self.look(0.5)
        self.assertEqual((self.cancelled, len(self.freeing), self.freeing[0].looks), ([], 1, 10))
        self.assertFalse(self.exchange.in_application)
        self.calls = []
        self.look(0.6)
        self.assertEqual([round(at, 1) for at in self.cancelled], [1.0])
        self.assertEqual(self.interrupt.story, ["raised Takedown", "cancelled its task"])

    def test_a_task_whose_threads_go_on_is_cancelled(self) -> None:
        """It cannot wait for them for ever; a task that is over is not counted."""
        self.calls = [ExecutorCall(7, None)]
        self.look(1.5)
        self.assertEqual((len(self.cancelled), self.freeing[0].looks), (1, 30))
        self.over = True
        self.look(1.0)
        self.assertEqual(self.interrupt.story, ["raised Takedown", "cancelled its task"])

    def test_what_is_begun_later_has_a_second(self) -> None:
        """Also in the same thread: it may clean up what the first call has used."""
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        first, second = (ExecutorCall(7, loop.create_future()) for _ in range(2))
        self.calls = [first]
        self.look(0.2)
        self.calls = [second]
        self.look(0.9)
        self.assertEqual(len(self.freeing), 1)
        self.look(0.3)
        self.assertEqual(len(self.freeing), 2)

    def test_what_nothing_waits_for_is_brought_down_at_once(self) -> None:
        """A call whose future was cancelled with its task."""
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        call = ExecutorCall(7, loop.create_future())
        self.look(0.3)
        self.calls = [call]
        self.look(0.1)
        self.assertEqual(self.freeing, [])
        assert call.future is not None
        call.future.cancel()
        self.look(0.1)
        self.assertEqual(self.freeing[0].looks, 2)

    def test_a_thread_gets_the_time_of_a_pause(self) -> None:
        """Like the task: neither could be looked at."""
        self.calls = [ExecutorCall(7, None)]
        self.look(0.05)
        self.interrupt.add_time(3.0)
        self.assertEqual(self.freeing[0].added, 3.0)

    def test_a_blocked_loop_is_freed(self) -> None:
        """A loop that this task's code blocks has its thread brought down, and what came late is cleared."""
        self.blocked = BLOCKED
        self.look(0.2)
        self.assertEqual((len(self.freeing), self.freeing[0].looks), (1, 4))
        self.assertTrue(self.exchange.in_application)
        self.assertGreater(self.cleared, 0)
        self.assertEqual(self.interrupt.story, ["cancelled its task", "its loop was blocked", "raised Takedown"])
        self.blocked = 0.0
        self.look(0.1)
        self.assertEqual((self.exchange.in_application, self.freeing[0].looks), (False, 4))

    def test_the_code_of_others_gets_more_time(self) -> None:
        """A loop that another request's code blocks is freed later: that request may be well, and only slow."""
        self.own, self.blocked = False, BLOCKED_BY_OTHERS - 0.1
        self.look(0.2)
        self.assertEqual(self.freeing, [])
        self.blocked = BLOCKED_BY_OTHERS
        self.look(0.1)
        self.assertEqual(len(self.freeing), 1)


class LoopExcTests(SynchronousTestCase):
    """An exception for a loop's thread, which does not tell where it is."""

    def test_it_is_set_only_in_the_code_of_the_application(self) -> None:
        """And there only where the thread was seen: what was seen at an earlier look is not believed."""
        frame, asked = sys._getframe(), []
        places = [None, frame]
        self.patch(task_interrupt, "application_frame", lambda ident: places.pop(0))
        self.patch(task_interrupt, "set_exception_at", lambda *arguments: asked.append(arguments) or True)
        exc, exchange = LoopExc(5), SimpleNamespace(in_application=True)
        self.assertFalse(exc.inject(exchange, Takedown))
        self.assertEqual(asked, [])
        self.assertTrue(exc.inject(exchange, Takedown))
        ((ident, seen, _, exception),) = asked
        self.assertEqual((ident, seen, exception), (5, frame, Takedown))
