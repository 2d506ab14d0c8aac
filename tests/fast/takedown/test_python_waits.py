"""Waits in Python's own code: found in real threads, and ended only if they still last."""

from __future__ import annotations

import logging
import queue
import subprocess
import threading
from typing import Any

from graceful.takedown.python_waits import child_of, delicate, in_condition, leave_condition
from tests.fast.takedown.waiting_threads import SOON, ThreadCase
from tests.support.waiting import wait_for


class PythonTests(ThreadCase):
    """Waits that are found by a thread's frames."""

    def in_condition(self, thread: threading.Thread) -> tuple[Any, Any]:
        """The condition that a thread waits for, when it has come to that."""
        found: list[tuple[Any, Any] | None] = [None]

        def is_in() -> bool:
            found[0] = in_condition(thread.ident or 0)
            return found[0] is not None and found[0][1].locked() and found[0][1] in found[0][0]._waiters

        wait_for(is_in)
        assert found[0] is not None
        return found[0]

    def test_frees_one_thread_from_condition(self) -> None:
        """A thread in a condition is freed from it, and no other thread that waits for the same."""
        items: queue.Queue[int] = queue.Queue()
        got: list[int] = []
        one = self.waiting(lambda: got.append(items.get()))
        condition, waiter = self.in_condition(one)
        other = self.waiting(lambda: got.append(items.get()))
        self.in_condition(other)
        fired: list[bool] = []
        self.assertTrue(leave_condition(condition, waiter, lambda: not fired.append(True)))
        self.assertEqual(fired, [True])
        # With no exception it finds nothing, and waits again; the item is for the one that is first in line now.
        self.in_condition(one)
        items.put(1)
        items.put(2)
        one.join(SOON)
        other.join(SOON)
        self.assertEqual(sorted(got), [1, 2])

    def test_leaves_notified_thread(self) -> None:
        """A thread that was notified already is left alone: it ends by itself, and the notification is not lost."""
        condition = threading.Condition()
        going = threading.Event()

        def wait() -> None:
            with condition:
                condition.wait()
                going.wait()

        thread = self.waiting(wait)
        found = self.in_condition(thread)
        with condition:
            condition.notify()
            self.assertFalse(leave_condition(*found, lambda: True), "its lock is held")
        self.assertFalse(leave_condition(*found, lambda: True))
        going.set()
        thread.join(SOON)

    def test_leaves_thread_if_not_fired(self) -> None:
        """If the exception may not be raised now, the thread waits on."""
        event = threading.Event()
        thread = self.waiting(event.wait)
        self.assertFalse(leave_condition(*self.in_condition(thread), lambda: False))
        self.assertTrue(thread.is_alive())
        event.set()
        thread.join(SOON)

    def test_leaves_condition_with_strange_lock(self) -> None:
        """A condition with a lock that could make us wait is left alone."""
        self.assertFalse(leave_condition(object(), object(), lambda: True))

    def test_finds_no_condition(self) -> None:
        """A thread that waits for something else, or has ended, is in no condition."""
        self.assertIsNone(in_condition(threading.get_ident()))
        self.assertIsNone(in_condition(1))

    def test_finds_child_of_subprocess(self) -> None:
        """A child that `subprocess` waits for is found, as long as it runs."""
        with subprocess.Popen(["sleep", "1000"], stdout=subprocess.PIPE) as process:
            thread = self.waiting(process.communicate)
            wait_for(lambda: child_of(thread.ident or 0) is process)
            process.kill()
            thread.join(SOON)
        self.assertIsNone(child_of(thread.ident or 0))
        self.assertIsNone(child_of(threading.get_ident()))

    def test_finds_wait_for_a_lock_of_the_process(self) -> None:
        """A thread that waits for a lock of the whole process is left alone until it has it."""
        handler = logging.Handler()
        handler.acquire()
        thread = self.waiting(lambda: handler.handle(logging.makeLogRecord({})))
        wait_for(lambda: delicate(thread.ident or 0, False))
        handler.release()
        thread.join(SOON)
        condition = threading.Condition()
        with condition:
            thread = self.waiting(condition.__enter__)
            wait_for(lambda: delicate(thread.ident or 0, False))
        thread.join(SOON)
        self.assertFalse(delicate(threading.get_ident(), False))
