"""The guard: an exception from outside is raised inside the application or not at all, in every order of steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from graceful.application.deadlines import Takedown
from graceful.threads import async_exc as guard
from graceful.threads.async_exc import NOTHING, AsyncExc, Hook
from graceful.web import exchange as exchange_module
from graceful.web.exchange import Exchange
from graceful.wsgi import runner as run
from graceful.wsgi.environ import ConnectionEnviron
from graceful.wsgi.runner import Runner
from tests.fast.interleave import Scheduler, Violation, explore

THREAD = 4711
SOON = 10


class Interpreter:
    """What CPython does for `PyThreadState_SetAsyncExc`, and what it must not find then.

    :ivar pending: the exception that the thread meets at its next checkpoint.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.pending: type[BaseException] | None = None
        self.raised = 0
        self.wrong: list[str] = []

    def set(self, thread: int, exception: Any) -> int:
        """As `set_exception`."""
        assert thread == THREAD
        self._scheduler.checkpoint("clear" if exception is NOTHING else "set")
        self.pending = None if exception is NOTHING else exception
        return 1

    def checkpoint(self, what: str, inside: bool) -> None:
        """The thread is where the interpreter looks for an exception, and where another thread may come.

        :param inside: it is in the application's code.
        """
        self._scheduler.checkpoint(what)
        exception, self.pending = self.pending, None
        if exception is not None:
            if not inside:
                self.wrong.append(what)  # kept, since the code under test takes everything that is raised
            self.raised += 1
            raise exception


class CheckedLock:
    """A lock before whose steps another thread may come."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._held = False

    def acquire(self, blocking: bool = True) -> bool:
        """Take it."""
        self._scheduler.checkpoint("lock")
        if self._held and not blocking:
            return False
        if not self._scheduler.wait_until(lambda: not self._held):
            raise Violation("nobody gives the lock back")
        self._held = True
        return True

    def release(self) -> None:
        """Give it back."""
        self._held = False
        self._scheduler.checkpoint("unlock")

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *ignored: object) -> None:
        self.release()


class Watched(Exchange):
    """An exchange before each look at whose place, and each change of it, another thread may come."""

    __slots__ = ("scheduler", "world")

    def __init__(self, scheduler: Scheduler, connection: Any) -> None:
        self.scheduler: Scheduler | None = None
        super().__init__(connection)
        self.scheduler = scheduler

    def start(self, status: str, headers: list[tuple[str, str]]) -> None:
        """Say status and headers: code of the server's, though the application calls it."""
        self.world.ours("starts")
        super().start(status, headers)

    def release(self) -> None:
        """The thread is done with it."""
        self.world.count_release()

    def __getattribute__(self, name: str) -> Any:
        if name in ("in_application", "takedown"):
            scheduler = object.__getattribute__(self, "scheduler")
            if scheduler is not None:
                scheduler.checkpoint(f"look at {name}")
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("in_application", "takedown") and self.scheduler is not None:
            self.scheduler.checkpoint(f"{name} = {value!r}"[:30])
        object.__setattr__(self, name, value)


class World:
    """One request in a thread, its takedown in another, and everything that they touch."""

    def __init__(self, scheduler: Scheduler, application: Callable[..., Any], shots: int) -> None:
        self.interpreter = Interpreter(scheduler)
        self._scheduler = scheduler
        self._shots = shots
        self.releases = 0
        site = SimpleNamespace(draining=False, hand_over=None, tail_keep="\r\n", tail_close="\r\n")
        connection: Any = SimpleNamespace(
            site=site,
            peer="",
            port=0,
            server=("", 80),
            scheme="http",
            memo=ConnectionEnviron({"wsgi.url_scheme": "http"}),
            trusted=False,
            write_token=SimpleNamespace(closed=False, current=None),
            send=self._send,
        )
        self.exchange = Watched(scheduler, connection)
        self.exchange.world = self
        connection.write_token.current = self.exchange
        self.exchange.id = 1
        self.exchange.handler = SimpleNamespace(application=lambda environ, start: application(self, start))

    def app(self, what: str) -> None:
        """The application runs some code."""
        self.interpreter.checkpoint(f"application: {what}", True)

    def ours(self, what: str) -> None:
        """The server runs some code."""
        self.interpreter.checkpoint(f"server: {what}", False)

    def _send(self, *ignored: object) -> None:
        self.ours("sends")

    def count_release(self) -> None:
        """The server releases the exchange."""
        self.ours("releases")
        self.releases += 1

    def serve(self) -> None:
        """What the thread does."""
        Runner()(self.exchange)
        self.ours("next request")

    def take_down(self) -> None:
        """What the reactor thread does."""
        async_exc = AsyncExc(THREAD)
        async_exc.lock = CheckedLock(self._scheduler)  # type: ignore[assignment]
        self.exchange.takedown = async_exc
        for _ in range(self._shots):
            async_exc.inject(self.exchange, Takedown)

    def judge(self) -> None:
        """What must be so at the end."""
        self.exchange.scheduler = None
        if self.interpreter.wrong:
            raise Violation(f"an exception was raised outside of the application: {self.interpreter.wrong}")
        if self.releases != 1:
            raise Violation(f"released {self.releases} times")
        if self.interpreter.pending is not None:
            raise Violation("an exception is left over for the next exchange")
        if self.exchange.in_application:
            raise Violation("the thread is still inside")


def one_list(world: World, start: Any) -> list[bytes]:
    """An application that answers at once."""
    world.app("before")
    start("200 OK", [])
    world.app("after")
    return [b"x"]


def pieces(world: World, start: Any) -> Iterator[bytes]:
    """A generator, which cleans up."""
    try:
        world.app("before")
        start("200 OK", [])
        yield b"x"
        world.app("between")
        yield b"y"
    finally:
        world.app("cleans up")


def writes(world: World, start: Any) -> list[bytes]:
    """An application that writes by itself, and swallows what it gets."""
    try:
        write = start("200 OK", [])
        world.app("before")
        write(b"x")
        world.app("after")
    except Takedown:
        pass
    return []


class Closing:
    """An answer that runs code when it is closed."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"x"])

    def close(self) -> None:
        """Clean up."""
        self._world.app("closes")


def closes(world: World, start: Any) -> Closing:
    """An application whose answer is closed."""
    start("200 OK", [])
    return Closing(world)


class GuardTests(SynchronousTestCase):
    """The runner and a takedown."""

    def explore(self, application: Callable[..., Any], shots: int = 1) -> tuple[int, int]:
        """Try every order; how many there were, and in how many of them the exception was raised."""
        raised = 0
        settled = guard.clear_pending

        def build(scheduler: Scheduler) -> Callable[[], None]:
            nonlocal raised
            world = World(scheduler, application, shots)
            for module in (guard, run):
                self.patch(module, "set_exception", world.interpreter.set)

            def clear_pending(async_exc: AsyncExc) -> None:
                world.interpreter.checkpoint("clear_pending", True)  # a call is such a place
                settled(async_exc)

            for module in (exchange_module, run):
                self.patch(module, "clear_pending", clear_pending)
            scheduler.spawn("thread", world.serve)
            scheduler.spawn("reactor", world.take_down)

            def judge() -> None:
                nonlocal raised
                world.judge()
                raised += world.interpreter.raised

            return judge

        return explore(build), raised

    def test_in_no_order_is_it_raised_outside_of_the_application(self) -> None:
        """In no order is it raised outside of the application, or left over; in many it is raised."""
        for application in (one_list, pieces, writes, closes):
            orders, raised = self.explore(application)
            self.assertGreater(orders, 50, application)
            self.assertGreater(raised, 10, application)

    def test_two_exceptions_for_one_thread_are_not_raised_outside_either(self) -> None:
        """Two exceptions for one thread are not raised outside of the application either."""
        for application in (one_list, writes):
            _, raised = self.explore(application, 2)
            self.assertGreater(raised, 10)

    def test_the_model_notices_a_late_exception_that_is_not_cleared(self) -> None:
        """The test sees it when a late one is not cleared."""
        with patch.object(guard, "clear_pending", lambda async_exc: None):
            self.assertRaises(Violation, self.explore, one_list)

    def test_place_is_not_said(self) -> None:
        """And when the thread does not say where it is."""

        def fire(async_exc: AsyncExc, exchange: Exchange, exception: type[BaseException]) -> bool:
            return guard.set_exception(async_exc.thread, exception) == 1

        with patch.object(AsyncExc, "inject", fire):
            self.assertRaises(Violation, self.explore, one_list)


class RealTests(SynchronousTestCase):
    """With the interpreter's own exceptions."""

    def test_a_real_thread_is_never_hit_outside_of_the_application(self) -> None:
        """A thread that goes in and out as fast as it can is never hit outside, whenever it is aimed at."""
        exchange: Any = SimpleNamespace(in_application=False, takedown=None)
        hits = outside = 0
        over = threading.Event()

        def work() -> None:
            nonlocal hits, outside
            while not over.is_set():
                try:
                    try:
                        exchange.in_application = True
                        for _ in range(10):
                            len("application")
                        exchange.in_application = False
                        if exchange.takedown is not None:
                            guard.clear_pending(exchange.takedown)
                    except Takedown:
                        exchange.in_application = False
                        async_exc = exchange.takedown
                        guard.set_exception(async_exc.thread, NOTHING)
                        with async_exc.lock:
                            guard.set_exception(async_exc.thread, NOTHING)
                        hits += 1
                    for _ in range(10):
                        len("server")
                except Takedown:
                    outside += 1

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert thread.ident is not None
        async_exc = exchange.takedown = AsyncExc(thread.ident)
        fired = 0
        while fired < 2000:
            fired += async_exc.inject(exchange, Takedown)
        over.set()
        thread.join(SOON)
        self.assertFalse(thread.is_alive())
        self.assertEqual(outside, 0)
        self.assertGreater(hits, 0)

    def test_a_thread_that_has_ended_is_not_hit(self) -> None:
        """A thread that is gone is not hit."""
        exchange: Any = SimpleNamespace(in_application=True)
        self.assertFalse(AsyncExc(1).inject(exchange, Takedown))

    def test_nothing_is_raised_outside_the_application(self) -> None:
        """A thread that is not in the application, or is just leaving it, is not hit."""
        exchange: Any = SimpleNamespace(in_application=False)
        async_exc = AsyncExc(threading.get_ident())
        self.assertFalse(async_exc.inject(exchange, Takedown))
        exchange.in_application = True
        with async_exc.lock:
            self.assertFalse(async_exc.inject(exchange, Takedown))


class HookTests(SynchronousTestCase):
    """What the application wants to have called."""

    def setUp(self) -> None:
        """No hooks."""
        self.all: list[Hook] = []
        self.called: list[str] = []

    def test_hook_is_called_once(self) -> None:
        """A hook is called once, however often it is asked to run."""
        hook = Hook(lambda: self.called.append("x"), self.all)
        hook.run()
        hook.run()
        self.assertEqual(self.called, ["x"])

    def test_a_cancelled_hook_is_not_called(self) -> None:
        """A cancelled hook is not called, and the exchange does not keep it."""
        with Hook(lambda: self.called.append("x"), self.all) as hook:
            self.assertEqual(self.all, [hook])
        hook.run()
        self.assertEqual((self.called, self.all), ([], []))

    def test_cancelled_while_it_runs(self) -> None:
        """Who cancels it waits until it has returned: what it ends is then free for others."""
        begun, end = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            end.wait(SOON)
            self.called.append("ended")

        hook = Hook(wait, self.all)
        runner = threading.Thread(target=hook.run)
        runner.start()
        begun.wait(SOON)
        threading.Timer(0.05, end.set).start()
        hook.cancel()
        self.assertEqual(self.called, ["ended"])
        runner.join(SOON)

    def test_cancelling_a_hook_that_hangs_waits_only_for_a_while(self) -> None:
        """To cancel a hook that hangs waits only for a while."""
        self.patch(guard, "HOOK_LIMIT", 0.01)
        begun, end = threading.Event(), threading.Event()
        hook = Hook(lambda: (begun.set(), end.wait(SOON)), self.all)
        runner = threading.Thread(target=hook.run)
        runner.start()
        begun.wait(SOON)
        hook.cancel()
        end.set()
        runner.join(SOON)
