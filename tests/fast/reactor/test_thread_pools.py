"""How thread pools end under the reactor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from twisted.internet import threads
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import capturedLogs
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from graceful.reactor.thread_pools import DaemonThread, Pools


class PoolsTests(SynchronousTestCase):
    """How thread pools end."""

    def setUp(self) -> None:
        for holder, name in ((ThreadPool, "stop"), (ThreadPool, "threadFactory"), (threads, "Queue")):
            self.patch(holder, name, getattr(holder, name))
        self.now = 0.0
        self.pools = Pools(lambda: self.now)
        self.pools.install()
        self.pool = ThreadPool(0, 2, "tested")
        self.pool.start()
        self.begun, self.end = threading.Event(), threading.Event()
        self.addCleanup(self.end.set)

    def job(self) -> None:
        self.begun.set()
        self.end.wait(10)

    def test_pools_stop_as_in_twisted_before_a_drain(self) -> None:
        """Before a drain is over, a pool is stopped as Twisted stops it."""
        self.pool.callInThread(self.job)
        self.begun.wait(10)
        self.end.set()
        self.pool.stop()
        self.assertFalse(any(thread.is_alive() for thread in self.pool.threads))
        self.assertEqual(self.pools.abandoned, 0)

    def test_a_job_that_does_not_end_is_named_and_abandoned(self) -> None:
        """At the deadline, a thread that has not ended is named and abandoned; it is a daemon."""
        self.pool.callInThread(self.job)
        self.begun.wait(10)
        self.pools.until = -1.0
        with capturedLogs() as warned:
            self.pool.stop()
        self.assertEqual(self.pools.abandoned, 1)
        self.assertIsInstance(self.pool.threads[0], DaemonThread)
        self.assertTrue(self.pool.threads[0].daemon)
        (named,) = warned
        self.assertEqual(named["name"], "PoolThread-tested-0")
        self.assertIn("in job", named["stack"])

    def test_a_backlog_is_worked_off(self) -> None:
        """Work that waits for a thread is done, if there is time for it."""
        done: list[int] = []
        for number in range(20):
            self.pool.callInThread(done.append, number)
        self.pools.until = 10.0
        self.pool.stop()
        self.assertEqual(sorted(done), list(range(20)))

    def asks(self, errors: list[Any]) -> Callable[[], None]:
        class NoAnswer:
            def callFromThread(inner, function: Callable[[], object]) -> None:
                self.begun.set()

        def ask() -> None:
            try:
                threads.blockingCallFromThread(NoAnswer(), Deferred)  # type: ignore[arg-type]
            except ReactorNotRunning as error:
                errors.append(error)

        return ask

    def test_a_thread_that_waits_for_the_reactor_gets_an_error(self) -> None:
        """A thread that waits for the reactor gets an error at once, since no answer can come."""
        errors: list[Any] = []
        self.pool.callInThread(self.asks(errors))
        self.begun.wait(10)
        self.pools.until = 10.0
        self.pool.stop()
        self.assertEqual((len(errors), self.pools.abandoned), (1, 0))

    def test_a_thread_that_asks_later_gets_an_error(self) -> None:
        """A thread that begins to wait while its pool is being stopped gets the error, too."""
        errors: list[Any] = []
        ask = self.asks(errors)

        def later() -> None:
            self.end.wait(10)
            ask()

        self.pool.callInThread(later)
        self.patch(self.pools, "_clock", lambda: self.end.set() or 0.0)
        self.pools.until = 10.0
        self.pool.stop()
        self.assertEqual((len(errors), self.pools.abandoned), (1, 0))

    def test_a_thread_outside_the_pools_gets_an_error_at_the_end(self) -> None:
        """When the reactor is gone, every thread that waits for it gets an error."""
        errors: list[Any] = []
        thread = threading.Thread(target=self.asks(errors), daemon=True)
        thread.start()
        self.begun.wait(10)
        self.assertEqual(errors, [])
        self.pools.reactor_gone()
        thread.join(10)
        self.assertEqual(len(errors), 1)

    def test_a_running_reactor_answers_a_thread(self) -> None:
        """While the reactor runs, a thread gets its answer."""

        class Answers:
            def callFromThread(self, function: Callable[[], object]) -> None:
                function()

        self.assertEqual(threads.blockingCallFromThread(Answers(), lambda: 42), 42)  # type: ignore[arg-type]
