"""The threads in which an ASGI application runs blocking code: found by their context, and hit nowhere else."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, cast

from anyio.to_thread import run_sync
from asgiref.sync import sync_to_async
from twisted.trial.unittest import SynchronousTestCase

from graceful.application.current import set_current
from graceful.application.deadlines import Takedown
from graceful.asgi.executor_threads import ExecutorExc, executor_threads, place_of

LONG = 10.0
"""Seconds after which a test gives up."""


class Stand:
    """What stands for an exchange in a context.

    :ivar target: whether exceptions are raised for it.
    """

    in_application = True

    def __init__(self, target: bool = True) -> None:
        self.target = target


class FoundTests(SynchronousTestCase):
    """A thread of each kind of executor, with a function that waits for the test."""

    def setUp(self) -> None:
        """Have an exchange."""
        self.exchange: Any = Stand()
        self.begun, self.goes_on = threading.Event(), threading.Event()
        self.addCleanup(self.goes_on.set)

    def wait(self) -> int:
        """The application's blocking code.  Returns the thread that runs it."""
        self.begun.set()
        assert self.goes_on.wait(LONG)
        return threading.get_ident()

    def found_for(self, run: Callable[[Callable[[], int]], Any]) -> None:
        """Assert that the thread in which `run` has the function called is found, as long as it runs it."""
        result: list[int] = []

        async def task() -> None:
            set_current(self.exchange)
            result.append(await run(self.wait))

        async def main() -> None:
            await asyncio.gather(task())  # whose context is its own

        loop = threading.Thread(target=asyncio.run, args=(main(),))
        loop.start()
        self.assertTrue(self.begun.wait(LONG))
        found, other = executor_threads(self.exchange, loop.ident or 0), cast(Any, Stand())
        self.assertEqual(executor_threads(other, loop.ident or 0), [])
        place = place_of(found[0], self.exchange) if found else None
        self.goes_on.set()
        loop.join(LONG)
        self.assertEqual(found, result)
        self.assertTrue(place is not None and place.certain)
        self.assertEqual(executor_threads(self.exchange, 0), [])
        self.assertIsNone(place_of(found[0], self.exchange))

    def test_a_thread_of_asyncio_is_found(self) -> None:
        """`asyncio.to_thread`."""
        self.found_for(asyncio.to_thread)

    def test_a_thread_of_anyio_is_found(self) -> None:
        """A `def` endpoint of Starlette's or FastAPI's."""
        self.found_for(run_sync)

    def test_a_thread_of_asgiref_is_found(self) -> None:
        """A synchronous view of Django's."""
        self.found_for(lambda function: sync_to_async(function)())

    def test_a_bound_run_is_found(self) -> None:
        """`run_in_executor` with the `run` of a context that was copied, as Quart does it."""

        def run(function: Callable[[], int]) -> Any:
            context = contextvars.copy_context()
            return asyncio.get_running_loop().run_in_executor(None, context.run, function)

        self.found_for(run)

    def test_a_thread_that_only_has_the_context_is_none(self) -> None:
        """It may be about to give it to another thread."""
        context = contextvars.copy_context()
        context.run(set_current, self.exchange)

        def has(context: contextvars.Context) -> None:
            self.wait()

        thread = threading.Thread(target=has, args=(context,))
        thread.start()
        self.begun.wait(LONG)
        found = executor_threads(self.exchange, 0)
        self.goes_on.set()
        thread.join(LONG)
        self.assertEqual(found, [])

    def test_no_code_of_the_application_is_run(self) -> None:
        """A variable may be a proxy, which would run code to say what it is."""

        class Proxy:
            def __getattribute__(self, name: str) -> object:
                raise AssertionError(name)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda proxy: self.wait(), Proxy())
            self.assertTrue(self.begun.wait(LONG))
            self.assertEqual(executor_threads(self.exchange, 0), [])
            self.goes_on.set()


class RaisedTests(SynchronousTestCase):
    """Exceptions for one exchange, while the same threads work for others."""

    def setUp(self) -> None:
        """Have threads that change places as often as they can."""
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1e-6)
        self.pool = ThreadPoolExecutor(3)
        self.addCleanup(self.pool.shutdown)
        self.random = random.Random(1)
        self.hit: list[bool] = []  # for each exception that the code has met: whether it was to
        self.targets: set[Any] = set()

    def work(self, exchange: Any, size: int) -> None:
        """The application's code, of different lengths."""
        try:
            sum(number * number for number in range(size))
            if size % 3 == 0:
                time.sleep(0.0001)
        except Takedown:
            self.hit.append(exchange.target)
            raise

    def begin(self) -> Future[None]:
        """Begin to work for an exchange, which may be a target."""
        exchange: Any = Stand(self.random.random() < 0.5)
        context = contextvars.copy_context()
        context.run(set_current, exchange)
        if exchange.target:
            self.targets.add(exchange)
        size = self.random.randrange(50, 2000)
        future: Future[None] = self.pool.submit(partial(context.run, self.work, exchange, size))
        future.add_done_callback(lambda future: self.ended(exchange, future))
        return future

    def ended(self, exchange: Any, future: Future[None]) -> None:
        """Note an exception that comes out of the code of an exchange that is no target."""
        self.targets.discard(exchange)
        if future.exception() is not None and not exchange.target:
            self.hit.append(False)

    def feed(self, over: threading.Event) -> None:
        """Keep the threads busy."""
        try:
            for _ in range(60):
                for future in [self.begin() for _ in range(30)]:
                    future.exception(LONG)  # none is lost
        finally:
            over.set()

    def test_no_other_exchange_is_hit_and_no_thread_dies(self) -> None:
        """An exception meets the code of its own exchange, or nothing; each future gets its result."""
        over = threading.Event()
        feeder = threading.Thread(target=self.feed, args=(over,))
        feeder.start()
        while not over.is_set():
            for exchange in list(self.targets):
                for thread in executor_threads(exchange, 0):
                    ExecutorExc(thread, exchange).inject(exchange, Takedown)
        feeder.join(LONG)
        self.assertEqual((len(self.hit) > 20, set(self.hit)), (True, {True}))
        self.assertTrue(all(thread.is_alive() for thread in self.pool._threads))

    def test_a_function_in_c_must_be_seen_twice(self) -> None:
        """Between two looks at the same place the thread was in it all the time, and has not just come back."""
        exchange, context = cast(Any, Stand()), contextvars.copy_context()
        context.run(set_current, exchange)
        lock = threading.Lock()
        lock.acquire()
        future = self.pool.submit(partial(context.run, lock.acquire))
        until = time.monotonic() + LONG
        while not (threads := executor_threads(exchange, 0)) or (place := place_of(threads[0], exchange)) is None:
            self.assertLess(time.monotonic(), until)
        self.assertFalse(place.certain)
        exc = ExecutorExc(threads[0], exchange)
        self.assertFalse(exc.inject(exchange, Takedown))
        self.assertTrue(exc.inject(exchange, Takedown))
        lock.release()
        self.assertIsInstance(future.exception(LONG), Takedown)
