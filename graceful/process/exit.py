"""A limit after which the process ends, even if the reactor or the interpreter is stuck.

A drain and its deadlines run in the reactor.  If the reactor is stuck (in a blocking call of a callback, at a lock
that is never released), no deadline fires and the process never ends.  And after a successful drain the interpreter
waits for every thread that is not a daemon: a long `getaddrinfo` in the reactor's pool, or a thread that the
application has forgotten, can keep the process for ever, with its sockets long closed.

So a watchdog thread enforces the last limit.  It needs only the interpreter: when the limit passes, it writes one
line and ends the process.  A timer of the kernel backs it up, for an interpreter stuck in an extension that never
releases the GIL: SIGALRM with its default action needs no Python at all.

Operators often stop a server when its machine runs out of threads or memory.  So the thread starts with the server,
before the first connection is accepted; if one of the two means fails when the limit is set, the other one stays.
"""

from __future__ import annotations

import _thread
import atexit
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

from attrs import frozen
from twisted.logger import Logger

from graceful.threads.start import REFUSALS, NoThread

log = Logger(namespace="graceful")

#: Exit status of a drain that finished everything in flight.
FINISHED: Final = 0

#: Exit status of a drain that took some exchanges down, all of whose threads ended.
TAKEN_DOWN: Final = 70

#: Exit status of a drain that abandoned threads, because they did not end.
ABANDONED: Final = 71

#: Seconds after a drain's deadline for taking down the exchanges that still run.
TAKEDOWN: Final = 5.0

#: Seconds after that for writing reports of them.
REPORTS: Final = 5.0

#: Seconds after that for the exit itself.
EXIT_SECONDS: Final = 2.0

#: Seconds that the kernel's timer grants the watchdog to end the process itself, and to write its line.
KERNEL_AFTER: Final = 3.0


def latest_exit(lame_duck: float, deadline: float) -> float:
    """Return the seconds from the start of a drain after which the process has ended in any case.

    There is no other formula for it: a supervisor may kill the process after that time, and not before.

    :param lame_duck: seconds between "going down" and the closing of the sockets.
    :param deadline: seconds that exchanges have from then on.
    """
    return lame_duck + deadline + TAKEDOWN + REPORTS + EXIT_SECONDS


@frozen
class System:
    """The calls of the operating system that a limit needs; tests replace them."""

    monotonic: Callable[[], float] = time.monotonic
    leave: Callable[[int], Any] = os._exit
    write: Callable[[int, bytes], Any] = os.write
    setitimer: Callable[[int, float], Any] = signal.setitimer
    signal: Callable[[int, Any], Any] = signal.signal
    start_thread: Callable[[Callable[[], None], tuple[()]], Any] = _thread.start_new_thread


class LastLimit:
    """The moment at which this process ends, if it has not ended before.

    `arm`, `verdict` and `leave` belong to the main thread, where signal handlers run.  A signal handler may
    call `arm` in the middle of anything, also of another `arm`, so nothing here takes a lock: fields are
    assigned whole, and a `SimpleQueue`, whose `put` is reentrant, wakes the watchdog.  For the same reason
    the thread is started without `threading.Thread`, which keeps its books under a lock.

    :ivar log_fd: where the watchdog writes its line, beside standard error; -1 if nowhere.  May be set at any
        time, by any thread, as when a log is reopened.
    :ivar missing: which guard of the limit could not be set, and why, for the log; empty if none.  Main thread.
    """

    def __init__(self, log_fd: int = -1, system: System | None = None) -> None:
        self.log_fd = log_fd
        self._system = system or System()
        # Written by the main thread, read by the watchdog:
        self._limit: float | None = None  # on the monotonic clock
        self._verdict: int | None = None
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._watched = self._installed = False  # main thread only
        self.missing = ""

    def start(self) -> None:
        """Start the watchdog, which has nothing to do yet.  Main thread, after every fork of start-up.

        :raises NoThread: the system refuses another thread; a server without a watchdog must not accept.
        """
        if not self._watched:
            try:
                self._system.start_thread(self._watch, ())
            except REFUSALS as error:
                raise NoThread("the watchdog thread", error) from error
            self._watched = True

    def arm(self, seconds: float) -> None:
        """End the process `seconds` from now, instead of at an earlier limit.  Raises nothing.

        Main thread only; signal handlers may call it.  Any alarm(2) that the application has set is replaced.

        :param seconds: until the watchdog ends the process; the kernel does `KERNEL_AFTER` seconds later.
        """
        seconds = max(0.0, seconds)
        missing = []
        try:
            self._system.signal(signal.SIGALRM, signal.SIG_DFL)
            self._system.setitimer(signal.ITIMER_REAL, seconds + KERNEL_AFTER)
        except (OSError, ValueError) as error:
            missing.append(f"the kernel's timer cannot be set: {error}")
        self._limit = self._system.monotonic() + seconds
        try:
            self.start()
        except NoThread as error:
            missing.append(str(error))
        self._wakes.put(None)
        self.missing = "; ".join(missing)

    def log_missing(self) -> None:
        """Log which guard of the limit could not be set.  Not in a signal handler."""
        if self.missing:
            log.error("the last limit is not guarded as it should be: {missing}", missing=self.missing)

    @property
    def remaining_seconds(self) -> float | None:
        """The seconds until the process ends in any case; None before `arm`.  Main thread."""
        return None if self._limit is None else max(0.0, self._limit - self._system.monotonic())

    def verdict(self, status: int, within: float) -> None:
        """Set the exit status of a finished drain, and end the process soon.

        Threads that cannot be ended then delay the exit by no more than `within`.

        :param status: the process's exit status: `FINISHED`, `TAKEN_DOWN` or `ABANDONED`.
        :param within: seconds from now until the watchdog ends the process with that status.
        """
        self._verdict = status
        self.arm(within)

    def install(self, register: Callable[[Callable[[], None]], Any] = atexit.register) -> None:
        """Make the verdict the exit status, however the interpreter ends.

        Functions registered earlier than this are not called once there is a verdict, so call it early.  Only the
        first call has an effect.
        """
        if not self._installed:
            self._installed = True
            register(self.leave)

    def leave(self) -> None:
        """End the process with the verdict's status, at once and without finalizing the interpreter.

        Finalization would crash into threads that were abandoned in the middle of something.  What is
        buffered is flushed before.  Without a verdict this does nothing: the process ends as it would have.
        """
        if self._verdict is None:
            return
        # Handlers and streams may be the application's, and fail in any way.  That must not cost the status:
        # an exception here would be printed by the interpreter, which then ends with 0.
        try:
            logging.shutdown()
        except Exception:
            with suppress(Exception):
                traceback.print_exc()
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            if stream is not None:
                # Closed, or without a reader: what is left in its buffer is lost anyway.
                with suppress(Exception):
                    stream.flush()
        self._system.leave(self._verdict)

    def _watch(self) -> None:
        """Wait for the limit, in the watchdog thread, and end the process when it passes."""
        while True:
            limit = self._limit
            if limit is None:
                self._wakes.get()
                continue
            left = limit - self._system.monotonic()
            if left <= 0:
                self._strike()
                return
            with suppress(Empty):
                self._wakes.get(timeout=left)

    def _strike(self) -> None:
        """End the process.  Nothing here may wait for a lock: others may hold it for ever."""
        status = ABANDONED if self._verdict is None else self._verdict
        if self._verdict is None:
            what = "has not come to its end before its last limit"
        else:
            what = "is held by threads that do not end"
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        line = f"{now} [graceful#critical] process {os.getpid()} {what}: exit status {status} now\n"
        for fd in {2, self.log_fd}:
            if fd >= 0:
                with suppress(OSError):
                    self._system.write(fd, line.encode())
        self._system.leave(status)
