"""Bringing a task down: cancelled, again after a second, its loop freed if that is blocked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.application.deadlines import Takedown
from graceful.asgi import task_interrupt
from graceful.asgi.task_interrupt import BLOCKED, BLOCKED_BY_OTHERS, LoopExc, TaskInterrupt
from graceful.threads.async_exc import NOTHING, AsyncExc


class Freeing:
    """Stands for the takedown of a thread."""

    def __init__(self) -> None:
        self.looks = 0
        self.story = ["raised Takedown"]

    def look(self, now: float) -> None:
        self.looks += 1


class InterruptTests(SynchronousTestCase):
    """A task that does not end, with a clock of the test's."""

    def setUp(self) -> None:
        """Have a task and its loop."""
        self.blocked, self.own = 0.0, True
        self.cancelled: list[float] = []
        self.now = 0.0
        self.cleared = 0
        self.freeing: list[Freeing] = []
        self.exchange: Any = SimpleNamespace(takedown=None, in_application=False)
        thread: Any = SimpleNamespace(ident=5, native=6, blocked=lambda: self.blocked, interrupted=self._clear)
        work: Any = SimpleNamespace(
            exchange=self.exchange,
            thread=thread,
            stack=lambda: "here",
            cancel=lambda: self.cancelled.append(self.now),
            runs_now=lambda: self.own,
        )
        self.patch(task_interrupt, "in_application_code", lambda ident: ident == 5)
        self.interrupt = TaskInterrupt(work, 0.0, self._free)

    def _clear(self) -> None:
        self.cleared += 1

    def _free(self, exchange: Any, async_exc: AsyncExc, native: int, now: float) -> Freeing:
        self.assertEqual((exchange, async_exc.thread, native), (self.exchange, 5, 6))
        self.freeing.append(Freeing())
        return self.freeing[-1]

    def look(self, seconds: float) -> None:
        """Look at it for so long."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.interrupt.look(self.now)
            self.now += 0.05

    def test_a_task_is_cancelled_again_each_second(self) -> None:
        """A task that goes on is cancelled at once, and again after each second."""
        self.look(2.5)
        self.assertEqual([round(at, 1) for at in self.cancelled], [0.0, 1.0, 2.0])
        self.assertEqual(self.interrupt.story, ["cancelled its task 3 times"])
        self.assertEqual((self.interrupt.stack, self.freeing), ("here", []))
        self.assertIsNotNone(self.exchange.takedown)

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

    def setUp(self) -> None:
        """Note what is set, and answer one question after the other with the places that a test gives."""
        self.set: list[object] = []
        self.places: list[bool] = []
        self.patch(task_interrupt, "set_exception", lambda ident, what: self.set.append(what) or 1)
        self.patch(task_interrupt, "in_application_code", lambda ident: self.places.pop(0))

    def inject(self, *places: bool) -> bool:
        """Have the exception raised in a thread that is seen in these places."""
        self.places = list(places)
        return LoopExc(5).inject(SimpleNamespace(in_application=True), Takedown)

    def test_it_is_set_only_in_the_code_of_the_application(self) -> None:
        """What was seen at an earlier look is not believed: the thread may have gone on."""
        self.assertFalse(self.inject(False))
        self.assertEqual(self.set, [])
        self.assertTrue(self.inject(True, True))
        self.assertEqual(self.set, [Takedown])

    def test_it_is_cleared_if_the_thread_has_gone_on_meanwhile(self) -> None:
        """The thread may leave the application between the look and the exception."""
        self.assertFalse(self.inject(True, False))
        self.assertEqual(self.set, [Takedown, NOTHING])
