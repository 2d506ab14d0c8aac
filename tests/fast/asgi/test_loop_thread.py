"""The thread of the asyncio loop: woken once for a batch, watched, and never ended by what runs in it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from graceful.application.deadlines import Takedown
from graceful.asgi.blocked_code import application_frame
from graceful.asgi.coroutine_stack import stack_of_task
from graceful.asgi.loop_thread import LoopThread, new_event_loop
from graceful.threads.async_exc import set_exception
from tests.fast.asgi.doubles import LONG, TurnedLoop


async def innermost(gate: asyncio.Event) -> None:
    """Wait where a report should say so."""
    await gate.wait()


async def outer(gate: asyncio.Event) -> None:
    """Wait for another coroutine."""
    await innermost(gate)


class ThreadTests(SynchronousTestCase):
    """A real thread, with the standard loop."""

    make_loop: Callable[[], asyncio.AbstractEventLoop] = staticmethod(asyncio.new_event_loop)

    def setUp(self) -> None:
        """Start it."""
        self.thread = LoopThread(self.make_loop)
        self.thread.start()
        self.addCleanup(self.thread.stop, LONG)

    def do(self, function: object) -> None:
        """Have a function called in the thread, and wait for that."""
        done = threading.Event()
        self.thread.call(function)  # type: ignore[arg-type]
        self.thread.call(done.set)
        self.assertTrue(done.wait(LONG))

    def test_calls_come_in_order(self) -> None:
        """Functions are called in the thread, in the order in which they were left."""
        seen: list[tuple[int, int]] = []
        for number in range(100):
            self.thread.call(lambda number=number: seen.append((number, threading.get_ident())))
        self.do(lambda: None)
        self.assertEqual(seen, [(number, self.thread.ident) for number in range(100)])

    def test_a_call_that_fails_does_not_stop_the_others(self) -> None:
        """An exception of a call is logged."""
        self.do(lambda: 1 / 0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_an_exit_in_a_task_does_not_end_the_loop(self) -> None:
        """`sys.exit` in a task is logged, and other tasks go on."""

        async def leave() -> None:
            sys.exit(3)

        tasks: list[asyncio.Task[None]] = []
        self.do(lambda: tasks.append(self.thread.loop.create_task(leave())))
        self.do(lambda: None)
        deadline = time.monotonic() + LONG
        while not (logged := self.flushLoggedErrors(SystemExit)):  # uvloop first does what is ready
            self.assertLess(time.monotonic(), deadline)
        self.assertEqual(len(logged), 1)
        self.assertTrue(tasks[0].done())
        self.assertIsInstance(tasks[0].exception(), SystemExit)

    def test_tasks_of_the_application_are_cancelled_at_the_end(self) -> None:
        """A task that nobody ends is cancelled when the loop ends, and cleans up."""
        cleaned = threading.Event()

        async def consume() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.set()

        tasks: list[asyncio.Task[None]] = []
        self.do(lambda: tasks.append(self.thread.loop.create_task(consume())))
        self.do(lambda: None)
        self.assertTrue(self.thread.stop(LONG))
        self.assertTrue(cleaned.is_set())

    def test_a_blocked_loop_is_found(self) -> None:
        """A loop that does not come round counts as blocked, in the application's code, until it goes on."""
        gate = threading.Event()

        began = threading.Event()

        async def block() -> None:
            began.set()
            while not gate.wait(0.01):
                pass

        self.thread.call(lambda: self.thread.loop.create_task(block()))
        self.assertTrue(began.wait(LONG))
        self.assertEqual(self.thread.blocked(), 0.0)
        deadline = time.monotonic() + LONG
        while self.thread.blocked() < 0.05:
            self.assertLess(time.monotonic(), deadline)
        self.assertIsNotNone(application_frame(self.thread.ident))
        gate.set()
        self.do(lambda: None)
        self.assertEqual(self.thread.blocked(), 0.0)

    def test_an_exception_that_comes_late_does_not_make_the_loop_deaf(self) -> None:
        """The exception of a takedown that meets the loop as it looks at its calls loses none of them."""
        entered, gate, done = threading.Event(), threading.Event(), threading.Event()
        self.thread.call(lambda: (entered.set(), gate.wait(LONG)))
        self.assertTrue(entered.wait(LONG))
        self.thread.loop.call_soon_threadsafe(set_exception, self.thread.ident, Takedown)
        self.thread.call(done.set)
        gate.set()
        deadline = time.monotonic() + LONG
        while not done.wait(0.01):
            self.thread.blocked()  # the watch, about every second
            self.assertLess(time.monotonic(), deadline)
        self.flushLoggedErrors(Takedown)

    def test_a_loop_that_waits_is_not_in_the_application(self) -> None:
        """Nothing may be raised in a loop that waits for events."""
        self.do(lambda: None)
        time.sleep(0.05)
        self.assertIsNone(application_frame(self.thread.ident))

    def test_the_stack_of_a_task_has_every_await(self) -> None:
        """What a task waits for is seen through all its coroutines."""
        tasks: list[asyncio.Task[None]] = []
        self.do(lambda: tasks.append(self.thread.loop.create_task(outer(asyncio.Event()))))
        self.do(lambda: None)
        stack = stack_of_task(tasks[0])
        self.assertLess(stack.index("await innermost(gate)"), stack.index("await gate.wait()"))
        self.do(tasks[0].cancel)


class FastestThreadTests(ThreadTests):
    """The same with the loop that a server takes: uvloop's, whose C code looks for no exception."""

    make_loop = staticmethod(new_event_loop)


class BatchTests(SynchronousTestCase):
    """Waking."""

    def test_a_batch_wakes_the_loop_once(self) -> None:
        """However many calls a batch leaves, the loop is woken once, at its end."""
        loop = TurnedLoop()
        self.addCleanup(loop.loop.close)
        woken: list[int] = []
        self.patch(loop, "_wake", lambda: (woken.append(1), setattr(loop, "_woken", True)))
        loop.hold()
        for _ in range(10):
            loop.call(lambda: None)
        self.assertEqual(woken, [])
        loop.kick()
        self.assertEqual(woken, [1])
        loop.call(lambda: None)
        self.assertEqual(woken, [1])
        loop.turn()
        loop.hold()
        loop.kick()
        self.assertEqual(woken, [1])
