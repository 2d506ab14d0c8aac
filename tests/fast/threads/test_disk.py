"""The threads for what can block, and the word about which exchange code runs for."""

from __future__ import annotations

import contextvars
import threading
from queue import Queue
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.application.current import current_exchange
from graceful.threads import disk as module
from graceful.threads.disk import SIZE, DiskThreads
from graceful.web.exchange import Exchange
from graceful.wsgi import WSGIResource
from graceful.wsgi.runner import Runner
from tests.fast.doubles import GET, Case

LONG = 5.0


class CrewTests(SynchronousTestCase):
    """With real threads."""

    def setUp(self) -> None:
        """Have the reactor's calls wait in a queue."""
        self.calls: Queue[tuple[Any, tuple[Any, ...]]] = Queue()
        self.disk = DiskThreads(lambda function, *arguments: self.calls.put((function, arguments)))
        self.addCleanup(self.disk.stop, LONG)

    def next_call(self) -> None:
        """What the reactor would call next."""
        function, arguments = self.calls.get(timeout=LONG)
        function(*arguments)

    def test_result_is_told_in_the_reactor_thread(self) -> None:
        """It does it in another thread, and says in the reactor's that it is done, or why not."""
        results: list[Any] = []
        self.disk.do(lambda: results.append(threading.get_ident()), results.append)
        self.next_call()
        self.assertNotEqual(results[0], threading.get_ident())
        self.assertIsNone(results[1])
        for error in (OSError("broken"), SystemExit()):
            results.clear()

            def fail(error: BaseException = error) -> None:
                raise error

            self.disk.do(fail, results.append)
            self.next_call()
            self.assertEqual(results, [error])

    def test_no_threads_for_nothing(self) -> None:
        """Its threads start with the first thing to do, are few, and end."""
        before = threading.active_count()
        DiskThreads(lambda *what: None).stop(0)
        self.assertEqual(threading.active_count(), before)
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        for _ in range(SIZE * 3):
            self.disk.do(lambda: go_on.wait(LONG), lambda error: None)
        self.assertEqual(threading.active_count(), before + SIZE)
        go_on.set()
        for _ in range(SIZE * 3):
            self.next_call()
        self.disk.stop(LONG)
        self.assertEqual(threading.active_count(), before)
        self.disk.stop(LONG)

    def test_calls_beyond_the_bound_are_refused(self) -> None:
        """What is too much is refused, in the reactor's own time, and not dropped."""
        self.patch(module, "WAITING", 0)
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        errors: list[BaseException | None] = []
        for _ in range(SIZE + 1):
            self.disk.do(lambda: go_on.wait(LONG), errors.append)
        self.assertEqual(errors, [])
        self.next_call()
        (error,) = errors
        self.assertIsInstance(error, OSError)
        self.assertIn("too many", str(error))


class CurrentTests(Case):
    """The exchange that code runs for."""

    def test_no_current_exchange_outside(self) -> None:
        """Outside of any there is none."""
        self.assertIsNone(contextvars.Context().run(current_exchange))

    def test_current_exchange_in_copied_context(self) -> None:
        """Inside it is this one, also for code that has copied its context; afterwards it is over."""
        seen: list[Any] = []
        copied: list[contextvars.Context] = []

        def application(environ: Any, start_response: Any) -> Any:
            seen.append(current_exchange())
            copied.append(contextvars.copy_context())
            seen.append(copied[-1].run(current_exchange))
            start_response("200 OK", [])
            return [b"", b""]

        resource, run = WSGIResource(None, None, application), Runner()

        def answer(exchange: Exchange) -> None:
            exchange.handler = resource
            contextvars.Context().run(run, exchange)

        self.engine.handler.answer = answer
        for _ in range(2):
            self.engine.connect().send(GET)
            self.assertEqual(seen, [self.engine.asked[-1]] * 2)
            self.assertIsNone(copied[-1].run(current_exchange))
            seen.clear()
