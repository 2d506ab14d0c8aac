"""Bringing a thread down: the order of hooks, exception and waits, in virtual time."""

from __future__ import annotations

import subprocess
from concurrent.futures import Future
from typing import Any
from unittest.mock import Mock

from twisted.internet.task import Clock

from graceful.application.deadlines import Takedown
from graceful.takedown import thread_interrupt as thread_module
from graceful.takedown.kernel_waits import BlockedCall
from graceful.takedown.thread_interrupt import (
    AGAIN,
    HOOKS,
    LATER,
    LOOK_AGAIN,
    WITHIN,
    InterruptScheduler,
    ThreadInterrupt,
)
from graceful.threads.async_exc import AsyncExc
from graceful.web.exchange import Exchange
from tests.fast.doubles import Case

THREAD, NATIVE = 4711, 12


class FakeWaits:
    """What a thread waits for, as the test says.

    :ivar now: that.
    :ivar ended: what was ended, each time, and whether it was the second time.
    """

    def __init__(self) -> None:
        self.now: BlockedCall | None = None
        self.ended: list[tuple[BlockedCall, bool]] = []

    def begin_round(self) -> None:
        """Nothing changes unless the test says so."""

    def look(self, native: int) -> BlockedCall | None:
        assert native == NATIVE
        return self.now

    def end(self, wait: BlockedCall, hard: bool) -> list[str]:
        self.ended.append((wait, hard))
        return ["ended something"]


def wait(number: int) -> BlockedCall:
    """A wait that is unlike others."""
    return BlockedCall(NATIVE, (number,), ())


class InterruptTests(Case):
    """The steps."""

    def setUp(self) -> None:
        """An exchange that a thread works for."""
        super().setUp()
        self.clock = Clock()
        self.waits = FakeWaits()
        self.working: dict[Exchange, int] = {}
        self.shots: list[float] = []
        self.calls: list[tuple[Any, Future[Any]]] = []
        self.ended: list[tuple[ThreadInterrupt, bool]] = []
        self.may = True
        self.in_condition: Any = None
        self.leaves = True
        self.child: Any = None
        self.delicate = False
        self.patch(AsyncExc, "inject", lambda async_exc, exchange, exception, asleep: self.fire(exception))
        self.patch(thread_module, "in_condition", lambda thread: self.in_condition)
        self.patch(thread_module, "leave_condition", lambda condition, waiter, fire: self.leaves and fire())
        self.patch(thread_module, "child_of", lambda thread: self.child)
        self.patch(thread_module, "delicate", lambda thread, asleep: self.delicate)
        self.patch(thread_module, "end_child", lambda pid, hard: f"{'SIGKILL' if hard else 'SIGTERM'} to {pid}")
        self.scheduler = InterruptScheduler(
            self.clock, lambda: self.working, lambda thread: NATIVE, self.waits, self.call
        )  # type: ignore[arg-type]
        _, self.exchange = self.ask()
        self.exchange.in_application = True
        self.working[self.exchange] = THREAD

    def fire(self, exception: type[BaseException]) -> bool:
        """Stand in for raising the exception."""
        assert exception is Takedown
        if self.may:
            self.shots.append(self.clock.seconds())
        return self.may

    def call(self, function: Any) -> Future[Any]:
        """Stand in for the threads that call hooks."""
        future: Future[Any] = Future()
        self.calls.append((function, future))
        return future

    def start(self) -> ThreadInterrupt:
        """Begin."""
        return self.scheduler.start(
            self.exchange, THREAD, lambda interrupt, down: self.ended.append((interrupt, down))
        )

    def pass_time(self, seconds: float) -> None:
        """Let time go by."""
        for _ in range(round(seconds / LOOK_AGAIN)):
            self.clock.advance(LOOK_AGAIN)

    def test_raises_once_when_that_is_enough(self) -> None:
        """The exception is raised at once, and nothing else is done when that is enough."""
        interrupt = self.start()
        self.assertEqual(self.shots, [0])
        self.assertTrue(self.scheduler.busy)
        del self.working[self.exchange]
        self.pass_time(0.1)
        self.assertEqual((self.ended, interrupt.story), ([(interrupt, True)], ["raised Takedown"]))
        self.assertEqual((self.scheduler.busy, self.clock.getDelayedCalls()), (False, []))

    def test_a_thread_that_has_not_run_since_the_last_look_is_asleep(self) -> None:
        """Where the bytecode decides whether it may be hit, it counts that the thread has not run."""
        asked: list[bool] = []
        self.patch(thread_module, "delicate", lambda thread, asleep: asked.append(asleep) or True)
        self.waits.now = wait(1)
        self.start()
        self.pass_time(LOOK_AGAIN)
        self.waits.now = wait(2)
        self.pass_time(LOOK_AGAIN)
        self.pass_time(LOOK_AGAIN)
        self.waits.now = None
        self.pass_time(2 * LOOK_AGAIN)
        self.assertEqual(asked, [False, True, False, True, False, False])
        self.assertEqual(self.shots, [])

    def test_ends_when_thread_works_for_another(self) -> None:
        """A thread that works for another exchange has come down."""
        self.start()
        del self.working[self.exchange]
        self.working[self.ask()[1]] = THREAD
        self.pass_time(0.1)
        self.assertEqual([down for _, down in self.ended], [True])

    def test_abandons_after_a_few_times(self) -> None:
        """A thread that does not come down gets the exception a few times, and is then abandoned."""
        self.start()
        self.pass_time(WITHIN - LOOK_AGAIN)
        self.assertEqual(self.ended, [])
        self.pass_time(2 * LOOK_AGAIN)
        ((interrupt, down),) = self.ended
        self.assertFalse(down)
        self.assertEqual(len(self.shots), WITHIN / AGAIN)
        self.assertEqual(interrupt.story, [f"raised Takedown {len(self.shots)} times"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_pause_of_the_reactor_is_not_held_against_a_thread(self) -> None:
        """After a pause a thread has as much time left as before, and the next exception comes no earlier."""
        self.waits.now = wait(1)
        self.start()
        self.clock.advance(3 * WITHIN)
        self.assertEqual((self.ended, self.shots), ([], [0]))
        self.pass_time(2 * LOOK_AGAIN)
        self.assertEqual(len(self.waits.ended), 1)
        self.pass_time(WITHIN - 4 * LOOK_AGAIN)
        self.assertEqual(self.ended, [])
        self.pass_time(3 * LOOK_AGAIN)
        self.assertEqual([down for _, down in self.ended], [False])

    def test_ends_wait_at_the_second_look(self) -> None:
        """The wait that it was in ends at the second look, and not before."""
        self.waits.now = wait(1)
        interrupt = self.start()
        self.assertEqual(self.waits.ended, [])
        self.pass_time(LOOK_AGAIN)
        self.assertEqual(self.waits.ended, [(wait(1), False)])
        self.assertEqual(interrupt.story, ["raised Takedown", "ended something"])
        self.pass_time(AGAIN - LOOK_AGAIN)
        self.assertEqual(len(self.waits.ended), 1)
        self.pass_time(2 * LOOK_AGAIN)
        self.assertEqual(self.waits.ended[1:], [(wait(1), True)])

    def test_later_wait_gets_more_time(self) -> None:
        """A later wait may be for cleaning up: it gets more time, and the time of each new wait is its own."""
        self.start()
        self.pass_time(0.5)
        self.waits.now = wait(2)
        self.pass_time(LATER - 2 * LOOK_AGAIN)
        self.waits.now = wait(3)
        self.pass_time(LATER)
        self.assertEqual(self.waits.ended, [])
        self.pass_time(2 * LOOK_AGAIN)
        self.assertEqual(self.waits.ended, [(wait(3), False)])

    def test_ends_wait_that_is_repeated(self) -> None:
        """A thread that waits briefly over and over, and got the exception twice, is freed: it runs no Python."""

        def waits_again(descriptor: int, seconds: float) -> None:
            for _ in range(round(seconds / LOOK_AGAIN)):
                self.waits.now = BlockedCall(NATIVE, (1, descriptor, 3), (str(self.clock.seconds()),))
                self.pass_time(LOOK_AGAIN)

        self.start()
        waits_again(2, AGAIN - LOOK_AGAIN)
        self.assertEqual(self.waits.ended, [])
        for descriptor in range(5):
            waits_again(descriptor, LOOK_AGAIN)
        self.assertEqual(self.waits.ended, [])
        waits_again(4, LOOK_AGAIN)
        self.assertEqual([(wait.call[1], hard) for wait, hard in self.waits.ended], [(4, False)])

    def test_does_nothing_outside_the_application(self) -> None:
        """As long as it is in our own code, nothing is raised and nothing is ended."""
        self.may = self.exchange.in_application = False
        self.waits.now = wait(1)
        self.start()
        self.pass_time(1)
        self.assertEqual((self.shots, self.waits.ended), ([], []))
        self.may = self.exchange.in_application = True
        self.pass_time(LOOK_AGAIN)
        self.assertEqual(len(self.shots), 1)

    def test_ends_no_wait_outside_the_application(self) -> None:
        """No wait is ended if the thread has left the application after the exception was raised."""
        self.start()
        self.exchange.in_application = False
        self.waits.now = wait(1)
        self.pass_time(3)
        self.assertEqual(self.waits.ended, [])

    def test_does_not_raise_during_a_lock_of_the_process(self) -> None:
        """No exception is raised while the thread waits for a lock of the whole process."""
        self.delicate = True
        self.start()
        self.pass_time(2)
        self.assertEqual(self.shots, [])
        self.delicate = False
        self.pass_time(LOOK_AGAIN)
        self.assertEqual(len(self.shots), 1)

    def test_raises_and_frees_from_condition(self) -> None:
        """In a condition it is hit and freed in one step; if that cannot be, soon; and in the end anyway."""
        self.in_condition = ("condition", "waiter")
        self.leaves = False
        interrupt = self.start()
        self.pass_time(0.5)
        self.assertEqual(self.shots, [])
        self.leaves = True
        self.pass_time(LOOK_AGAIN)
        self.assertEqual(interrupt.story, ["raised Takedown", "ended its wait for a condition"])
        self.leaves = False
        self.pass_time(2 * AGAIN + 2 * LOOK_AGAIN)
        self.assertEqual(len(self.shots), 2 + 1)

    def test_sends_child_sigterm_then_sigkill(self) -> None:
        """A child gets SIGTERM, and SIGKILL when it does not help."""
        self.child = Mock(subprocess.Popen, pid=77)
        interrupt = self.start()
        self.pass_time(LOOK_AGAIN)
        self.assertEqual(interrupt.story, ["raised Takedown", "SIGTERM to 77"])
        self.pass_time(AGAIN + 2 * LOOK_AGAIN)
        self.assertIn("SIGKILL to 77", interrupt.story)

    def test_calls_hooks_before_the_exception(self) -> None:
        """Hooks come first, in another thread, and the exception when they have returned."""
        hook = self.exchange.on_takedown(print)
        interrupt = self.start()
        ((function, future),) = self.calls
        self.assertEqual((function, self.shots), (hook.run, []))
        self.pass_time(HOOKS / 2)
        self.assertEqual(self.shots, [])
        future.set_result(None)
        self.pass_time(LOOK_AGAIN)
        self.assertEqual(len(self.shots), 1)
        self.assertEqual(interrupt.story[0], "raised Takedown")
        self.assertIn("called <built-in function print>", interrupt.story)

    def test_waits_one_second_for_hooks(self) -> None:
        """Hooks are waited for one second at most, and each is called once."""
        self.exchange.on_takedown(print)
        self.start()
        self.pass_time(HOOKS + LOOK_AGAIN)
        self.assertEqual(len(self.shots), 1)
        self.pass_time(WITHIN)
        self.assertEqual(len(self.calls), 1)

    def test_does_not_call_cancelled_hook(self) -> None:
        """A cancelled hook is not called."""
        self.exchange.on_takedown(print).cancel()
        self.start()
        self.assertEqual((self.calls, len(self.shots)), ([], 1))

    def test_second_start_joins_the_first(self) -> None:
        """A second start for the same exchange is told of the same end."""
        self.assertIs(self.start(), self.start())
        del self.working[self.exchange]
        self.pass_time(0.1)
        self.assertEqual(len(self.ended), 2)
        self.assertEqual(len(self.shots), 1)

    def test_failure_does_not_stop_the_others(self) -> None:
        """A thread whose look fails does not keep others from being brought down."""
        self.start()
        _, other = self.ask()
        other.in_application = True
        self.working[other] = THREAD + 1
        self.waits.look = lambda native: 1 / 0  # type: ignore[assignment, method-assign]
        self.pass_time(WITHIN + LOOK_AGAIN)
        self.assertEqual([down for _, down in self.ended], [False])
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))
