"""The threads in which an ASGI application runs blocking code: found by their context, and hit nowhere else."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import anyio
from anyio.to_thread import run_sync
from asgiref.sync import sync_to_async
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from twisted.trial.unittest import SynchronousTestCase

from graceful.application.current import set_current
from graceful.application.deadlines import Takedown
from graceful.asgi.coroutine_stack import reached_by
from graceful.asgi.executor_threads import FRESH, ExecutorExc, ExecutorThreads, place_of

LONG = 10.0
"""Seconds after which a test gives up."""
ENOUGH = 100
"""Exceptions that are raised among calls for other exchanges."""


class Stand:
    """What stands for an exchange in a context.

    :ivar target: whether exceptions are raised for it.
    """

    in_application = True

    def __init__(self, target: bool = True) -> None:
        self.target = target


def context_of(exchange: Any) -> contextvars.Context:
    """A copy of this context, in which code runs for an exchange."""
    context = contextvars.copy_context()
    context.run(set_current, exchange)
    return context


def executor_threads(exchange: Any, loop: int) -> list[int]:
    """The threads that run code for an exchange right now."""
    return [call.thread for call in ExecutorThreads().of(exchange, loop)]


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

    def found_for(self, run: Callable[[Callable[[], int]], Any], awaited: bool = True) -> None:
        """Assert that the thread in which `run` has the function called is found, as long as it runs it.

        :param awaited: whether the task is seen to wait for it.
        """
        result: list[int] = []
        tasks: list[Any] = []

        async def task() -> None:
            set_current(self.exchange)
            tasks.append(asyncio.current_task())
            result.append(await run(self.wait))

        async def main() -> None:
            await asyncio.gather(task())  # whose context is its own

        loop = threading.Thread(target=asyncio.run, args=(main(),))
        loop.start()
        self.assertTrue(self.begun.wait(LONG))
        until = time.monotonic() + LONG
        while len(reached_by(tasks[0])) < 2 or self.seen(tasks[0]) != [awaited]:  # the thread may be faster
            self.assertLess(time.monotonic(), until)
        found, other = executor_threads(self.exchange, loop.ident or 0), cast(Any, Stand())
        self.assertEqual(executor_threads(other, loop.ident or 0), [])
        place = place_of(found[0], self.exchange) if found else None
        self.goes_on.set()
        loop.join(LONG)
        self.assertEqual(found, result)
        self.assertIsNotNone(place)
        while executor_threads(self.exchange, 0):  # until it has forgotten what it called
            self.assertLess(time.monotonic(), until)
        self.assertIsNone(place_of(found[0], self.exchange))

    def seen(self, task: asyncio.Task[Any]) -> list[bool]:
        """Of each call in the exchange's context, whether the task waits for it; none of them is cancelled."""
        calls = ExecutorThreads().of(self.exchange, 0)
        self.assertFalse(any(call.cancelled for call in calls))
        return [call.future in reached_by(task) for call in calls]

    def test_a_thread_of_asyncio_is_found(self) -> None:
        """`asyncio.to_thread`."""
        self.found_for(asyncio.to_thread)

    def test_a_thread_of_anyio_is_found(self) -> None:
        """A `def` endpoint of Starlette's or FastAPI's."""
        self.found_for(run_sync)

    def test_a_thread_of_asgiref_is_found(self) -> None:
        """A synchronous view of Django's."""
        self.found_for(lambda function: sync_to_async(function)(), awaited=False)

    def test_a_bound_run_is_found(self) -> None:
        """`run_in_executor` with the `run` of a context that was copied, as Quart does it."""

        def run(function: Callable[[], int]) -> Any:
            context = contextvars.copy_context()
            return asyncio.get_running_loop().run_in_executor(None, context.run, function)

        self.found_for(run)

    def test_a_thread_behind_middleware_is_awaited(self) -> None:
        """Starlette's `BaseHTTPMiddleware` runs what is behind it in a group of tasks, also twice."""

        async def run(function: Callable[[], int]) -> int:
            found: list[int] = []

            async def application(scope: Any, receive: Any, send: Any) -> None:
                found.append(await run_sync(function))
                await Response()(scope, receive, send)

            async def unchanged(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
                return await call_next(request)

            async def nothing(*ignored: object) -> dict[str, Any]:
                return {"type": "http.request"}

            stack = BaseHTTPMiddleware(BaseHTTPMiddleware(application, unchanged), unchanged)
            await stack({"type": "http", "method": "GET", "path": "/", "headers": []}, nothing, nothing)
            return found[0]

        self.found_for(run)

    def test_a_thread_of_a_group_at_its_end_is_awaited(self) -> None:
        """The task waits for all tasks in it."""

        async def run(function: Callable[[], int]) -> int:
            found: list[int] = []

            async def inner() -> None:
                found.append(await asyncio.to_thread(function))

            async with anyio.create_task_group() as group:
                group.start_soon(inner)
            return found[0]

        self.found_for(run)

    def test_the_group_of_another_task_is_not_awaited(self) -> None:
        """As one that the lifespan has, in which all requests begin tasks."""

        async def run(function: Callable[[], int]) -> int:
            found: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            groups: asyncio.Queue[Any] = asyncio.Queue()

            async def inner() -> None:
                found.set_result(await asyncio.to_thread(function))

            async def has_the_group() -> None:
                async with anyio.create_task_group() as group:
                    await groups.put(group)
                    await found

            other = asyncio.create_task(has_the_group())
            group = await groups.get()
            group.start_soon(inner)
            await asyncio.wait([found])
            await asyncio.wait([other])
            return await found

        self.found_for(run, awaited=False)

    def test_a_thread_of_a_gathered_task_is_awaited(self) -> None:
        """Through `gather` and a task of its own."""

        async def run(function: Callable[[], int]) -> int:
            _, found = await asyncio.gather(asyncio.sleep(0), asyncio.create_task(asyncio.to_thread(function)))
            return found

        self.found_for(run)

    def test_the_thread_of_a_task_of_its_own_is_not_awaited(self) -> None:
        """A task that the request has begun, and that may work for all requests."""
        others: list[asyncio.Task[int]] = []

        async def run(function: Callable[[], int]) -> int:
            others.append(asyncio.create_task(asyncio.to_thread(function)))
            done = asyncio.get_running_loop().create_future()
            others[0].add_done_callback(lambda task: done.set_result(task.result()))
            return int(await done)

        self.found_for(run, awaited=False)

    def test_a_cancelled_call_is_known_by_its_future(self) -> None:
        """Nothing waits for it any more, though it goes on."""
        for run in (asyncio.to_thread, run_sync):
            self.begun.clear()
            self.goes_on.clear()
            seen: list[bool] = []

            async def main(run: Any = run, seen: list[bool] = seen) -> None:
                set_current(self.exchange)
                task = asyncio.create_task(run(self.wait))
                await asyncio.get_running_loop().run_in_executor(None, self.begun.wait, LONG)
                task.cancel()
                await asyncio.wait([task])
                seen += [call.cancelled for call in ExecutorThreads().of(self.exchange, 0)]
                self.goes_on.set()

            asyncio.run(main())
            self.assertEqual(seen, [True])

    def test_a_name_that_the_executor_uses_may_be_the_applications(self) -> None:
        """Only the executor's own code is left alone."""

        def set_result() -> None:
            self.wait()

        context = context_of(self.exchange)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(context.run, set_result)
            self.assertTrue(self.begun.wait(LONG))
            (thread,) = executor_threads(self.exchange, 0)
            self.assertIsNotNone(place_of(thread, self.exchange))
            self.goes_on.set()

    def test_code_without_a_name_disturbs_nothing(self) -> None:
        """The globals of a thread's code may be anything."""
        code = compile("wait()", "exotic", "exec")
        thread = threading.Thread(target=exec, args=(code, {"__name__": [], "wait": self.wait}))
        thread.start()
        self.assertTrue(self.begun.wait(LONG))
        found = executor_threads(self.exchange, 0)
        self.goes_on.set()
        thread.join(LONG)
        self.assertEqual(found, [])

    def test_one_look_answers_all_that_is_asked_soon(self) -> None:
        """Threads are looked at once in a while, however many exchanges are asked for."""
        now = 5.0
        threads = ExecutorThreads(lambda: now)
        self.assertEqual(threads.of(self.exchange, 0), [])
        context = context_of(self.exchange)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(context.run, self.wait)
            self.assertTrue(self.begun.wait(LONG))
            now += FRESH / 2
            self.assertEqual(threads.of(self.exchange, 0), [])
            now += FRESH
            found = [call.thread for call in threads.of(self.exchange, 0)]
            self.goes_on.set()
            self.assertEqual((found, threads.of(self.exchange, found[0])), ([future.result(LONG)], []))

    def test_a_thread_that_only_has_the_context_is_none(self) -> None:
        """It may be about to give it to another thread."""
        context = context_of(self.exchange)

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
        context = context_of(exchange)
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
        """Keep the threads busy, until enough exceptions were raised."""
        try:
            until = time.monotonic() + LONG
            while len(self.hit) < ENOUGH and time.monotonic() < until:
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
                    ExecutorExc(thread).inject(exchange, Takedown)
        feeder.join(LONG)
        self.assertEqual((len(self.hit) >= ENOUGH, set(self.hit)), (True, {True}))
        self.assertTrue(all(thread.is_alive() for thread in self.pool._threads))

    def test_a_function_in_c_gets_it_when_it_returns(self) -> None:
        """The executor's own function is the innermost one then."""
        exchange: Any = Stand()
        context = context_of(exchange)
        lock = threading.Lock()
        lock.acquire()
        future = self.pool.submit(partial(context.run, lock.acquire))
        until = time.monotonic() + LONG
        while not (threads := executor_threads(exchange, 0)) or place_of(threads[0], exchange) is None:
            self.assertLess(time.monotonic(), until)
        self.assertFalse(ExecutorExc(threads[0]).inject(exchange, Takedown))  # it may just have come back
        self.assertTrue(ExecutorExc(threads[0]).inject(exchange, Takedown, True))
        lock.release()
        self.assertIsInstance(future.exception(LONG), Takedown)
