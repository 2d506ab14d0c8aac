"""The last limit, which passes whatever happens to reactor and interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

import graceful
from graceful.process.exit import (
    ABANDONED,
    FINISHED,
    KERNEL_AFTER,
    TAKEN_DOWN,
    LastLimit,
    System,
    latest_exit,
)
from graceful.threads.start import NoThread

CHECKOUT = os.path.dirname(os.path.dirname(graceful.__file__))
PATH = f"{CHECKOUT}:{os.environ.get('PYTHONPATH', '')}"


class Left(BaseException):
    """The process is gone."""


class Fake:
    """An operating system that notes what it is asked for.

    :ivar log: the calls, in order.
    :ivar looks: what happens before the time is told, one thing at each look.
    :ivar failing: what the system refuses, and how.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[Any] = []
        self.watch: Callable[[], None] = lambda: None
        self.system = System(
            monotonic=self.monotonic,
            leave=self.leave,
            write=lambda fd, line: self.log.append(("write", fd, line)),
            setitimer=lambda which, seconds: self.call("setitimer", which, seconds),
            signal=lambda number, handler: self.call("signal", number, handler),
            start_thread=self.start_thread,
        )
        self.looks: list[Callable[[], None]] = []
        self.failing: dict[str, Exception] = {}

    def call(self, name: str, *args: Any) -> None:
        """Note a call, or refuse it."""
        if name in self.failing:
            raise self.failing[name]
        self.log.append((name, *args))

    def monotonic(self) -> float:
        """Tell the time, after what the test wants to happen meanwhile."""
        if self.looks:
            self.looks.pop(0)()
        return self.now

    def leave(self, status: int) -> None:
        """End the process."""
        self.log.append(("leave", status))
        raise Left

    def start_thread(self, watch: Callable[[], None], args: tuple[()]) -> None:
        """Leave it to the test to run the thread."""
        if "thread" in self.failing:
            raise self.failing["thread"]
        self.log.append("thread")
        self.watch = watch

    def lines(self) -> dict[int, str]:
        """What was written, by descriptor."""
        return {call[1]: call[2].decode() for call in self.log if call[0] == "write"}


class Wakes:
    """The queue that wakes the watchdog; waiting in vain is an error, not a hanging test."""

    def __init__(self) -> None:
        self.count = 0

    def put(self, item: None) -> None:
        """Wake it."""
        self.count += 1

    def get(self, timeout: float | None = None) -> None:
        """Wait to be woken."""
        if not self.count:
            raise AssertionError(f"nobody wakes the watchdog, which waits for {timeout} s")
        self.count -= 1


class FormulaTests(SynchronousTestCase):
    """The one formula."""

    def test_latest_exit_adds_up_all_parts(self) -> None:
        """Lame duck, deadline, 5 s to take down, 5 s for reports, 2 s to leave."""
        self.assertEqual(latest_exit(0, 200), 212)
        self.assertEqual(latest_exit(10, 30), 52)

    def test_exit_statuses_are_0_70_and_71(self) -> None:
        """Scripts rely on these numbers."""
        self.assertEqual((FINISHED, TAKEN_DOWN, ABANDONED), (0, 70, 71))


class LastLimitTests(SynchronousTestCase):
    """On a false system."""

    def setUp(self) -> None:
        """Make one."""
        self.fake = Fake()
        self.limit = LastLimit(7, self.fake.system)
        self.wakes = Wakes()
        self.limit._wakes = cast(Any, self.wakes)

    def later(self, seconds: float) -> Callable[[], None]:
        """Let time pass."""

        def pass_by() -> None:
            self.fake.now += seconds

        return pass_by

    def test_arm_sets_the_timer_behind_the_watchdog(self) -> None:
        """The kernel's timer is set behind the watchdog's limit, at the signal's default action."""
        self.limit.arm(212)
        self.assertEqual(
            self.fake.log,
            [
                ("signal", signal.SIGALRM, signal.SIG_DFL),
                ("setitimer", signal.ITIMER_REAL, 212 + KERNEL_AFTER),
                "thread",
            ],
        )

    def test_the_watchdog_starts_before_there_is_a_limit(self) -> None:
        """A server starts it before it accepts, so that a stop needs no new thread; it waits until it is armed."""
        self.limit.start()
        self.wakes.count = 1

        def armed(timeout: float | None = None) -> None:
            self.limit.arm(10)
            self.fake.now += 10

        self.wakes.get = armed  # type: ignore[method-assign]
        self.assertRaises(Left, self.fake.watch)
        self.assertEqual(self.fake.log.count("thread"), 1)

    def test_a_start_without_a_thread_says_what_to_raise(self) -> None:
        """At a limit on threads a server does not start, instead of losing its stop later."""
        self.fake.failing["thread"] = RuntimeError("can't start new thread")
        error = self.assertRaises(NoThread, self.limit.start)
        self.assertIn("can't start new thread; raise the limit on processes and threads", str(error))

    def test_arming_without_a_thread_leaves_the_kernels_timer(self) -> None:
        """A thread that cannot start costs the stop nothing; it is tried again when the limit moves."""
        self.fake.failing["thread"] = RuntimeError("can't start new thread")
        self.limit.arm(10)
        self.assertIn(("setitimer", signal.ITIMER_REAL, 10 + KERNEL_AFTER), self.fake.log)
        self.assertIn("the watchdog thread cannot be started", self.limit.missing)
        del self.fake.failing["thread"]
        self.limit.arm(10)
        self.assertEqual((self.fake.log.count("thread"), self.limit.missing), (1, ""))

    def test_arming_without_a_timer_leaves_the_watchdog(self) -> None:
        """A system call that is refused costs the stop nothing, either."""
        for call in ("signal", "setitimer"):
            self.fake.failing = {call: PermissionError(1, "Operation not permitted")}
            self.limit.arm(10)
            self.assertIn("the kernel's timer cannot be set", self.limit.missing)
        self.fake.now += 10
        self.assertRaises(Left, self.fake.watch)

    def test_writes_a_line_and_ends_the_process_at_the_limit(self) -> None:
        """When the limit has passed, one line goes to standard error and the log, and the process ends."""
        self.limit.arm(10)
        self.fake.now += 10
        self.assertRaises(Left, self.fake.watch)
        self.assertEqual(self.fake.log[-1], ("leave", ABANDONED))
        written = self.fake.lines()
        self.assertEqual(set(written), {2, 7})
        self.assertEqual(written[2], written[7])
        self.assertEqual(written[2].count("\n"), 1)
        for word in (f"process {os.getpid()}", "last limit", "71"):
            self.assertIn(word, written[2])

    def test_waits_on_if_woken_before_the_limit(self) -> None:
        """Woken before the limit, the watchdog goes on waiting."""
        self.limit.arm(10)
        self.fake.looks = [
            self.later(9),
            lambda: self.assertEqual(self.fake.lines(), {}),
        ]
        self.wakes.count = 3
        self.fake.looks.append(self.later(1))
        self.assertRaises(Left, self.fake.watch)
        self.assertEqual(self.fake.now, 110)

    def test_arming_again_moves_the_limit_either_way(self) -> None:
        """Armed again, the limit moves either way, with one and the same thread."""
        for seconds in (20, 5):
            self.limit.arm(10)
            self.limit.arm(seconds)
            begun = self.fake.now
            self.fake.now += seconds - 1
            self.fake.looks = [lambda: None, self.later(1)]
            self.assertRaises(Left, self.fake.watch)
            self.assertEqual(self.fake.now, begun + seconds)
        self.assertEqual(self.fake.log.count("thread"), 1)

    def test_a_nearer_limit_wakes_the_watchdog(self) -> None:
        """A watchdog that waits for a far limit is woken by a nearer one."""
        self.limit.arm(3600)
        self.wakes.count = 0

        def signal_handler() -> None:
            self.fake.looks = []
            self.limit.arm(0)

        self.fake.looks = [signal_handler]
        self.assertRaises(Left, self.fake.watch)

    def test_a_signal_handler_may_arm_within_arm(self) -> None:
        """A signal handler may arm in the middle of another arm."""
        self.fake.looks = [lambda: self.limit.arm(50)]
        self.limit.arm(10)
        self.assertEqual(self.fake.log.count("thread"), 1)

    def test_a_limit_in_the_past_is_now(self) -> None:
        """A limit that has passed already is now; a timer set to zero would never go off."""
        self.limit.arm(-5)
        self.assertIn(("setitimer", signal.ITIMER_REAL, KERNEL_AFTER), self.fake.log)
        self.assertRaises(Left, self.fake.watch)

    def test_verdict_sets_status_and_a_short_limit(self) -> None:
        """After a verdict, threads that hold the exit do so for a short time, and its status stands."""
        self.limit.arm(212)
        self.limit.verdict(FINISHED, within=2)
        self.assertIn(("setitimer", signal.ITIMER_REAL, 2 + KERNEL_AFTER), self.fake.log)
        self.fake.now += 2
        self.assertRaises(Left, self.fake.watch)
        self.assertEqual(self.fake.log[-1], ("leave", FINISHED))
        self.assertIn("threads that do not end", self.fake.lines()[2])

    def test_ends_without_descriptors_to_write_to(self) -> None:
        """A terminal that is gone, or a log that was never there, does not keep the process."""

        def broken(fd: int, line: bytes) -> None:
            raise OSError("gone")

        fake = Fake()
        limit = LastLimit(-1, System(fake.monotonic, fake.leave, broken, *attributes(fake)))
        limit.arm(0)
        self.assertRaises(Left, fake.watch)

    def test_leave_exits_with_the_verdict(self) -> None:
        """At the interpreter's exit the verdict becomes the status; without one nothing is done."""
        registered: list[Callable[[], None]] = []
        self.limit.install(registered.append)
        (leave,) = registered
        leave()
        self.assertEqual(self.fake.log, [])
        self.limit.verdict(TAKEN_DOWN, within=2)
        self.assertRaises(Left, leave)
        self.assertEqual(self.fake.log[-1], ("leave", TAKEN_DOWN))


def attributes(fake: Fake) -> tuple[Any, Any, Any]:
    """What of a false system is left once the first three are replaced."""
    return fake.system.setitimer, fake.system.signal, fake.system.start_thread


class ProcessTests(SynchronousTestCase):
    """On the true system: in processes of their own, since they end them."""

    def run_code(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run it after what all need, and wait for the end that must come."""
        begin = "import ctypes, sys, threading, time, graceful.process.exit as exit\nlimit = exit.LastLimit()\n"
        return subprocess.run(
            [sys.executable, "-c", begin + code],
            env={**os.environ, "PYTHONPATH": PATH, "PYTHONUNBUFFERED": ""},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def test_ends_a_stuck_main_thread(self) -> None:
        """A main thread, and so a reactor, that is stuck for ever does not hold the process."""
        done = self.run_code("limit.arm(0.1)\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()")
        self.assertEqual(done.returncode, ABANDONED)
        self.assertEqual(done.stderr.count("\n"), 1)

    def test_ends_a_stuck_interpreter(self) -> None:
        """An extension that never releases the GIL does not hold the process: the kernel ends it."""
        done = self.run_code("exit.KERNEL_AFTER = 0.1\nlimit.arm(0.1)\nctypes.PyDLL(None).sleep(60)")
        self.assertEqual(done.returncode, -signal.SIGALRM)

    def test_ends_in_spite_of_a_forgotten_thread(self) -> None:
        """A thread that is no daemon holds a finished process for no longer than the verdict allows."""
        done = self.run_code(
            "threading.Thread(target=time.sleep, args=(60,)).start()\n"
            "limit.install()\nlimit.verdict(exit.FINISHED, within=0.1)"
        )
        self.assertEqual(done.returncode, FINISHED)
        self.assertIn("threads that do not end", done.stderr)

    def test_flushes_buffers_and_keeps_the_status(self) -> None:
        """The status is the verdict's, what is buffered is written, and exit functions of the app are called."""
        done = self.run_code(
            "import atexit\n"
            "limit.install()\n"
            "atexit.register(print, 'of the application')\n"
            "print('buffered', end=' ')\n"
            "limit.verdict(exit.TAKEN_DOWN, within=20)\n"
            "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        )
        self.assertEqual((done.returncode, done.stderr), (TAKEN_DOWN, ""))
        self.assertEqual(done.stdout, "buffered of the application\n")

    def test_keeps_the_status_if_flushing_fails(self) -> None:
        """A log handler and a stream of the application's that fail at the end are told of; the status stays."""
        code = (
            "import logging\n"
            "class Handler(logging.Handler):\n"
            "    def flush(self): raise RuntimeError('of the handler')\n"
            "handler = Handler()\n"
            "sys.stdout = object()\n"
            "limit.install()\nlimit.verdict(exit.TAKEN_DOWN, within=20)\n"
        )
        done = self.run_code(code)
        self.assertEqual(done.returncode, TAKEN_DOWN)
        self.assertIn("RuntimeError: of the handler", done.stderr)
        self.assertEqual(done.stderr.count("Traceback"), 1)
        self.assertEqual(self.run_code(code + "sys.stderr = object()\n").returncode, TAKEN_DOWN)
