"""A system that refuses a thread: whatever asks for one says so and goes on, and the next attempt may succeed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.reports.publisher import Publisher
from graceful.threads.callbacks import CallbackThreads
from graceful.threads.disk import DiskThreads
from graceful.threads.pool import Pool
from graceful.threads.start import NoThread
from graceful.web.body_spool import Spool, Spooler
from graceful.wsgi import WSGIResource
from tests.fast.doubles import GET, Case, parse_answers

LONG = 5.0
REFUSED = "can't start new thread"


class Refusing:
    """Thread starts that are refused after the first `room`, until `room` is None."""

    def __init__(self, test: SynchronousTestCase) -> None:
        self.room: int | None = 0
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if self.room is not None:
                if self.room <= 0:
                    raise RuntimeError(REFUSED)
                self.room -= 1
            start(thread)

        test.patch(threading.Thread, "start", refuse)


class RefusedThreadTests(SynchronousTestCase):
    """Each kind of thread beside the reactor's."""

    def setUp(self) -> None:
        """Refuse every thread."""
        self.system = Refusing(self)
        self.calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call something in the reactor thread."""
        self.calls.append((function, arguments))

    def run_calls(self) -> None:
        """Have the reactor's turn."""
        calls, self.calls = self.calls, []
        for function, arguments in calls:
            function(*arguments)

    def test_pool_that_lacks_a_thread_does_not_start_and_leaves_none_behind(self) -> None:
        """Half a pool is none: the threads that could be started end."""
        self.system.room = 2
        pool: Pool[int] = Pool(4, 10, lambda job: None)
        error = self.assertRaises(NoThread, pool.start)
        self.assertIn(REFUSED, str(error))
        for thread in pool.threads:
            thread.join(LONG)
        self.assertEqual([thread for thread in pool.threads if thread.is_alive()], [])

    def test_lost_thread_is_not_replaced_but_counted_as_before(self) -> None:
        """A takedown that cannot have a new thread keeps the old one in the count."""
        self.system.room = 1
        pool: Pool[int] = Pool(1, 10, lambda job: None)
        pool.start()
        self.addCleanup(pool.stop, LONG)
        with capturedLogs() as events:
            self.assertFalse(pool.replace(pool.threads[0].ident or 0))
        self.assertIn(REFUSED, formatEvent(events[0]) or "")
        self.system.room = None
        self.assertTrue(pool.replace(pool.threads[0].ident or 0))

    def test_disk_tells_the_error_and_tries_again(self) -> None:
        """A file that cannot be fetched for want of a thread is an error of that file, and of no other."""
        disk = DiskThreads(self.call)
        self.addCleanup(disk.stop, LONG)
        results: list[BaseException | None] = []
        disk.do(lambda: None, results.append)
        self.run_calls()
        self.assertIn(REFUSED, str(results[0]))
        self.system.room = None
        disk.do(lambda: None, results.append)
        self.assertIsNotNone(disk._pool)

    def test_body_that_cannot_be_spooled_is_told_and_the_next_one_is_written(self) -> None:
        """An upload for whose file there is no thread ends with an error; `finish` calls back all the same."""
        spooler = Spooler(None, self.call)
        told: list[Any] = []
        spool = Spool(told.append)
        with capturedLogs() as events:
            spooler.write(spool, b"data")
        spooler.finish(spool, lambda: told.append("finished"))
        self.run_calls()
        self.assertEqual((told, spool.error is not None, len(events)), ([spool, "finished"], True, 1))
        self.system.room = None
        spooler.write(Spool(told.append), b"data")
        self.addCleanup(spooler.stop)
        self.assertIsNotNone(spooler._thread)

    def test_callable_waits_for_a_thread_and_is_said_once(self) -> None:
        """A hook is called as soon as there is a thread for it."""
        callbacks = CallbackThreads()
        self.addCleanup(callbacks.close, LONG)
        with capturedLogs() as events:
            future = callbacks.call(lambda: "called")
            callbacks.look()
        self.assertEqual((future.done(), len(events)), (False, 1))
        self.system.room = None
        callbacks.look()
        self.assertEqual(future.result(LONG), "called")

    def test_reports_wait_for_a_thread(self) -> None:
        """A report is published with the next one, or written to the log at the end."""
        published: list[Any] = []
        publisher = Publisher(lambda: [lambda report: published.append(report) or []])
        with capturedLogs() as events:
            publisher.publish({"id": "one"})
        self.assertEqual((published, len(events), publisher.busy), ([], 1, False))
        self.system.room = None
        publisher.publish({"id": "two"})
        publisher.end()
        assert publisher._thread is not None
        publisher._thread.join(LONG)
        self.assertEqual([report["id"] for report in published], ["one", "two"])


class RefusedPoolTests(Case):
    """A request for an application that has no threads yet."""

    def test_request_without_a_pool_is_answered_503_and_the_next_one_is_served(self) -> None:
        """It is refused honestly, nothing is remembered of it, and the pool is asked for again."""
        asked: list[Any] = []

        def pool_for(threadpool: Any) -> Any:
            asked.append(threadpool)
            raise NoThread("a thread", RuntimeError(REFUSED))

        self.engine.site.pool_for = pool_for
        self.engine.serve(WSGIResource(None, None, lambda environ, start: []))
        for _ in range(2):
            client = self.engine.connect().send(GET)
            (answer,) = parse_answers(client.take())
            self.assertEqual(answer.status, 503)
        self.assertEqual((asked, len(self.engine.site.register.exchanges)), ([None, None], 0))
