"""The places where a thread enters a `with` block, and would leave its lock locked on CPython 3.14."""

from __future__ import annotations

import dis
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

from graceful.application.deadlines import Takedown
from graceful.takedown import with_blocks
from graceful.takedown.kernel_waits import KernelWaits
from graceful.takedown.python_waits import delicate
from graceful.takedown.with_blocks import UNSAFE, entering_is_a_checkpoint, is_entering
from graceful.threads.async_exc import AsyncExc
from tests.fast.takedown.waiting_threads import SOON, ThreadCase
from tests.support.waiting import wait_for

#: Whether `with` is compiled into a call, as in 3.14 and later.
BY_CALL = "LOAD_SPECIAL" in dis.opmap
TAKEDOWNS = 12


class BytecodeTests(ThreadCase):
    """What the bytecode tells about a thread that is at a call, or has just passed it."""

    def setUp(self) -> None:
        """Nothing was seen yet."""
        self.lock = threading.Lock()
        self.seen: list[tuple[bool, bool]] = []

    def look(self) -> None:
        """Keep what is said of the caller: if it runs on soon, and if it sleeps in this call."""
        frame = sys._getframe(1)
        self.seen.append((is_entering(frame, False), is_entering(frame, True)))

    def last(self) -> None:
        """Look just before the end of a function."""
        self.look()

    def test_a_call_before_a_block_leads_into_it_once_it_is_over(self) -> None:
        """The next checkpoint after the call is the one at which the lock has just been acquired."""
        self.look()
        with self.lock:
            pass
        self.assertEqual(self.seen, [(BY_CALL, False)])

    def test_a_branch_may_lead_into_a_block(self) -> None:
        """Each way counts."""
        for number in range(2):
            self.look()
            if number:
                with self.lock:
                    pass
        self.assertEqual(self.seen, [(BY_CALL, False)] * 2)

    def test_the_end_of_a_function_leads_to_its_caller(self) -> None:
        """What follows the call of the caller counts."""
        frames: list[bool] = []

        def inner() -> None:
            frames.append(is_entering(sys._getframe(0).f_back or sys._getframe(0), False))

        inner()
        with self.lock:
            pass
        self.last()
        self.assertEqual(frames, [BY_CALL])
        self.assertEqual(self.seen, [(False, False)])

    def test_inside_and_behind_a_block_nothing_is_entered(self) -> None:
        """The lock is released in these places."""
        with self.lock:
            self.look()
        self.look()
        self.assertEqual(self.seen, [(False, False)] * 2)

    def test_a_loop_meets_the_exception_as_it_jumps_back(self) -> None:
        """The jump backwards is a checkpoint, before the block at the loop's begin."""
        with self.lock:
            pass
        for _ in range(2):
            self.look()
        self.assertEqual(self.seen, [(False, False)] * 2)

    def test_a_raise_is_taken_for_a_danger(self) -> None:
        """Where an exception leads is not followed."""
        try:
            error = ValueError()
            self.look()
            raise error
        except ValueError:
            pass
        self.assertEqual(self.seen, [(BY_CALL, False)])

    def test_a_call_that_cpython_has_replaced_is_no_checkpoint(self) -> None:
        """`len` is called without one, once it has been called often; so the block behind it is next."""
        for _ in range(1000):
            self.look()
            len("x")
            with self.lock:
                pass
        self.assertEqual(self.seen[-1], (BY_CALL, False))


class ThreadTests(ThreadCase):
    """Real threads."""

    def test_only_cpython_3_14_enters_blocks_by_a_checkpoint(self) -> None:
        """What was tried out is what the versions are known for; a later 3.14 may be mended."""
        self.assertEqual(UNSAFE, entering_is_a_checkpoint())
        tools = getattr(sys, "monitoring", None)
        observed = tools is not None and any(map(tools.get_tool, range(6)))  # coverage does
        if sys.version_info[:2] != (3, 14) and not observed:
            self.assertFalse(UNSAFE)

    def test_a_thread_that_waits_to_enter_a_block_is_left_alone_where_that_is_unsafe(self) -> None:
        """It gets the exception once it has the lock, if it would leave it locked before."""
        self.patch(with_blocks, "UNSAFE", True)
        lock, entered, leave = threading.Lock(), threading.Event(), threading.Event()

        def work() -> None:
            with lock:
                entered.set()
                leave.wait(SOON)

        lock.acquire()
        thread = self.waiting(work)
        wait_for(lambda: not BY_CALL or delicate(thread.ident or 0, True))
        self.patch(with_blocks, "UNSAFE", False)
        self.assertFalse(delicate(thread.ident or 0, True))
        lock.release()
        entered.wait(SOON)
        leave.set()
        thread.join(SOON)

    def test_takedowns_leave_no_lock_locked(self) -> None:
        """Threads that do nothing but take a lock, which others want as well, are taken down; it is free again."""
        waits = KernelWaits(set)
        for number in range(TAKEDOWNS):
            lock, over = threading.Lock(), threading.Event()

            def work(lock: Any = lock) -> None:
                try:
                    while True:
                        with lock:
                            pass
                except Takedown:
                    pass

            def compete(lock: Any = lock, over: threading.Event = over) -> None:
                while not over.is_set():
                    with lock:
                        pass

            thread, rival = threading.Thread(target=work, daemon=True), threading.Thread(target=compete, daemon=True)
            thread.start()
            rival.start()
            target: Any = SimpleNamespace(in_application=True)
            async_exc = AsyncExc(thread.ident or 0)
            asleep_in, began = None, time.monotonic()
            while time.monotonic() - began < SOON:
                wait = waits.look(thread.native_id or 0)
                asleep, asleep_in = wait is not None and wait == asleep_in, wait
                if not delicate(thread.ident or 0, asleep):
                    self.assertTrue(async_exc.inject(target, Takedown))
                    break
                time.sleep(0.001)
            thread.join(SOON)
            self.assertFalse(thread.is_alive(), number)
            over.set()
            rival.join(SOON)
            self.assertFalse(rival.is_alive(), f"takedown {number} has left the lock locked")
            self.assertFalse(lock.locked(), number)
