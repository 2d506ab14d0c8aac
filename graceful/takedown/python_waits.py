"""What a stuck thread waits for in Python's own code: a `threading.Condition`, or a child of `subprocess`.

`Event`, `Queue`, `Semaphore` and `Future` are made of conditions.  Such a wait is ended by releasing the private lock
that it waits for.  Both kinds are found by the thread's frames, so they are found where the kernel tells nothing.
"""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from graceful.takedown import with_blocks
from graceful.threads.one_pass import frames_of

#: A frame that runs this waits for a condition.
_WAITING: Final = threading.Condition.wait.__code__
#: A frame that runs one of these waits for a child; not every version of Python has all of them.
_FOR_CHILD: Final = frozenset(
    getattr(subprocess.Popen, name).__code__
    for name in ("communicate", "_communicate", "wait", "_wait", "_try_wait")
    if hasattr(subprocess.Popen, name)
)
#: The files whose code takes locks of the whole process.
_DELICATE: Final = frozenset(
    function.__code__.co_filename for function in (threading.Thread.start, logging.getLogger, importlib.import_module)
) | {"<frozen importlib._bootstrap>"}
#: Locks that can be acquired without running other code, which could wait.
_PLAIN_LOCKS: Final = (type(threading.Lock()), type(threading.RLock()))


def delicate(thread: int, asleep: bool) -> bool:
    """Whether a thread is where no exception may be raised: where it takes a lock that it would then leave locked.

    `Condition.__enter__`, a handler of `logging` and the import system take a lock by a plain call, before the block
    that releases it has begun.  An exception that comes while they wait for it would leave it locked for ever.  In
    CPython 3.14 this is so for every `with LOCK`.

    :param asleep: the thread has not run since the last look at it.
    """
    frame = sys._current_frames().get(thread)
    if frame is None:
        return False
    if frame.f_code.co_filename in _DELICATE and frame.f_code is not _WAITING:
        return True
    return with_blocks.UNSAFE and with_blocks.is_entering(frame, asleep)


def in_condition(thread: int) -> tuple[Any, Any] | None:
    """Return the `Condition` that a thread waits for, and the private lock of its wait; None if it waits for none."""
    frame = sys._current_frames().get(thread)
    if frame is None or frame.f_code is not _WAITING:
        return None
    found = frame.f_locals
    return (found.get("self"), found["waiter"]) if "waiter" in found else None


def leave_condition(condition: Any, waiter: Any, fire: Callable[[], bool]) -> bool:
    """End a thread's wait for a `Condition`, and have the exception raised that it meets then.

    The wait is taken off the condition's list, under the condition's own lock, so that a later `notify` reaches a
    thread that still waits.

    :param fire: raises the exception in the thread; returns False if it may not be raised now.
    :returns: False: not now; the wait was notified already, or another thread holds the lock.
    """
    lock: Any = getattr(condition, "_lock", None)
    if type(lock) not in _PLAIN_LOCKS or not lock.acquire(blocking=False):
        return False
    try:
        if waiter not in condition._waiters or not fire():
            return False
        condition._waiters.remove(waiter)
        waiter.release()
        return True
    finally:
        lock.release()


def child_of(thread: int) -> subprocess.Popen[Any] | None:
    """Return the child process for which a thread waits in `subprocess`; None if it waits for none."""
    for frame in frames_of(thread):
        if frame.f_code in _FOR_CHILD:
            process = frame.f_locals.get("self")
            if isinstance(process, subprocess.Popen) and process.returncode is None and process.pid:
                return process
    return None
