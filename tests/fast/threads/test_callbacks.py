"""Threads beside the pool: whatever an application's callable does, the next one gets its turn."""

from __future__ import annotations

import threading
from collections.abc import Callable

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

import graceful.threads.callbacks as aside_module
from graceful.threads.callbacks import CallbackThreads

SOON = 10


class AsideTests(SynchronousTestCase):
    """The pool of spare threads."""

    def make(self, **options: float) -> CallbackThreads:
        """Make one whose threads end with the test."""
        aside = CallbackThreads(**options)  # type: ignore[arg-type]
        self.addCleanup(aside.close, SOON)
        return aside

    def stuck(self, aside: CallbackThreads) -> Callable[[], None]:
        """Have it call something that does not return until the test says so."""
        begun, end = threading.Event(), threading.Event()

        def hold() -> None:
            begun.set()
            end.wait()

        aside.call(hold)
        self.assertTrue(begun.wait(SOON))
        self.addCleanup(end.set)
        return end.set

    def test_a_function_is_called_in_another_thread(self) -> None:
        """A function is called in another thread, with its arguments; the future has what it returns."""
        me = threading.get_ident()
        thread, arguments = self.make().call(lambda *them: (threading.get_ident(), them), 1, 2).result(SOON)
        self.assertNotEqual(thread, me)
        self.assertEqual(arguments, (1, 2))

    def test_no_thread_before_the_first(self) -> None:
        """With nothing to call there is no thread."""
        before = threading.active_count()
        self.make()
        self.assertEqual(threading.active_count(), before)

    def test_failure_is_logged_and_the_thread_goes_on(self) -> None:
        """A failure is logged, the future has it, and the thread goes on."""
        aside = self.make(size=1)
        self.assertIsInstance(aside.call(lambda: 1 / 0).exception(SOON), ZeroDivisionError)
        self.assertEqual(aside.call(lambda: 5).result(SOON), 5)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_no_more_than_size_calls_run_side_by_side(self) -> None:
        """No more than `size` run side by side; what comes then waits for one of them."""
        aside = self.make(size=2)
        release = self.stuck(aside)
        self.stuck(aside)
        future = aside.call(lambda: "ran")
        self.assertFalse(future.running() or future.done())
        release()
        self.assertEqual(future.result(SOON), "ran")

    def test_over_its_time(self) -> None:
        """One that is over its time is named, once, and does not keep others waiting; but there is an end to it."""
        aside = self.make(size=1, most=2, limit=0)
        self.stuck(aside)
        future = aside.call(lambda: "ran")
        self.assertEqual(future.result(SOON), "ran")
        with capturedLogs() as events:
            aside.look()
            aside.look()
        self.assertEqual(len([event for event in events if "has not returned" in formatEvent(event)]), 1)
        self.stuck(aside)
        future = aside.call(lambda: "never")
        aside.look()
        self.assertFalse(future.running() or future.done())

    def test_a_look_starts_a_thread_when_a_call_takes_too_long(self) -> None:
        """What waits gets a thread at the next look, when what it waits for has gone over its time."""
        aside = self.make(size=1)
        self.stuck(aside)
        future = aside.call(lambda: "ran")
        aside.look()
        self.assertFalse(future.running() or future.done())
        later = aside_module.monotonic() + aside_module.LIMIT + 1
        self.patch(aside_module, "monotonic", lambda: later)
        aside.look()
        self.assertEqual(future.result(SOON), "ran")

    def test_idle_threads_end(self) -> None:
        """A thread that has had nothing to do for a while ends."""
        self.patch(aside_module, "IDLE", 0.01)
        thread = self.make().call(threading.current_thread).result(SOON)
        thread.join(SOON)
        self.assertFalse(thread.is_alive())

    def test_nothing_is_called_after_the_close(self) -> None:
        """After the close nothing is called, neither what waits nor what comes; idle threads are gone."""
        aside = self.make(size=1)
        thread = aside.call(threading.current_thread).result(SOON)
        aside.close(SOON)
        self.assertFalse(thread.is_alive())
        self.assertTrue(aside.call(self.fail).cancelled())
        aside = self.make(size=1)
        self.stuck(aside)
        future = aside.call(self.fail)
        aside.close()
        self.assertTrue(future.cancelled())
