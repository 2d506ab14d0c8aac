"""The end that comes in any case: somebody else owns the last limit.

A drain runs in the reactor, and so do its deadlines.  If the reactor is stuck (a blocking call in somebody's
callback, a lock that is never released), no deadline passes, and nothing ends.  And after a drain has gone
well, the interpreter waits for every thread that is not a daemon: the reactor's own pool in a long
`getaddrinfo`, or a thread that the application has forgotten, can hold the process for ever, with its sockets
long closed.

So the last limit is not the reactor's.  A watchdog thread owns it, which needs nothing but the interpreter:
when the limit passes, it writes one line and ends the process.  Behind it stands a timer of the kernel, for
an interpreter that is itself stuck, in an extension that never releases the GIL: SIGALRM at its default
action needs no Python at all.

A stop is asked for just when a system is short of everything.  So the thread is started with the server, before the
first connection is accepted; and what cannot be had when the limit is set costs that one means, never the stop.
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

#: The exit statuses of a drain: everything in flight was finished; some exchanges were taken down, and all
#: their threads have ended; some threads could not be brought down and were abandoned.
FINISHED: Final = 0
TAKEN_DOWN: Final = 70
ABANDONED: Final = 71

#: Seconds that follow the deadline of a drain: for taking down what still runs, for writing reports of it,
#: and for the exit itself.
TAKEDOWN: Final = 5.0
REPORTS: Final = 5.0
EXIT_SECONDS: Final = 2.0

#: Seconds after the watchdog's limit at which the kernel ends the process.
KERNEL_AFTER: Final = 3.0


def latest_exit(lame_duck: float, deadline: float) -> float:
    """Return after how many seconds from its start a drain has ended the process, whatever happens.

    This is the one formula for it; who supervises the process may kill it later than that, and not before.

    :param lame_duck: seconds between "going down" and the closing of the sockets.
    :param deadline: seconds that exchanges have from then on.
    """
    return lame_duck + deadline + TAKEDOWN + REPORTS + EXIT_SECONDS


@frozen
class System:
    """What we ask of the operating system."""

    monotonic: Callable[[], float] = time.monotonic
    leave: Callable[[int], Any] = os._exit
    write: Callable[[int, bytes], Any] = os.write
    setitimer: Callable[[int, float], Any] = signal.setitimer
    signal: Callable[[int, Any], Any] = signal.signal
    start_thread: Callable[[Callable[[], None], tuple[()]], Any] = _thread.start_new_thread


class NoWatchdog(Exception):
    """The watchdog thread cannot be started.  Its text is one line for the operator."""


class LastLimit:
    """The moment at which this process ends, if it has not ended before.

    `arm`, `verdict` and `leave` belong to the main thread, where signal handlers run.  A signal handler may
    call `arm` in the middle of anything, also of another `arm`, so nothing here takes a lock: fields are
    assigned whole, and a `SimpleQueue`, whose `put` is reentrant, wakes the watchdog.  For the same reason
    the thread is started without `threading.Thread`, which keeps its books under a lock.

    :ivar log_fd: where the watchdog writes its line, beside standard error; -1 if nowhere.  May be set at any
        time, by any thread, as when a log is reopened.
    :ivar missing: what guards the limit no more, and why, for the log; empty if nothing is missing.  Main thread.
    """

    def __init__(self, log_fd: int = -1, system: System | None = None) -> None:
        self.log_fd = log_fd
        self._system = system or System()
        # Written by the main thread, read by the watchdog:
        self._limit: float | None = None  # on the monotonic clock
        self._verdict: int | None = None
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._watched = False  # main thread only
        self.missing = ""

    def start(self) -> None:
        """Start the watchdog, which has nothing to do yet.  Main thread, after every fork of start-up.

        :raises NoWatchdog: the system refuses another thread; a server without a watchdog must not accept.
        """
        if not self._watched:
            try:
                self._system.start_thread(self._watch, ())
            except (RuntimeError, MemoryError) as error:
                raise NoWatchdog(
                    f"the watchdog thread cannot be started: {error}; raise the limit on processes and threads"
                    " (ulimit -u, a container's pids limit) or on memory"
                ) from error
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
        except NoWatchdog as error:
            missing.append(str(error))
        self._wakes.put(None)
        self.missing = "; ".join(missing)

    @property
    def remaining_seconds(self) -> float | None:
        """Seconds until the process ends in any case; None if nobody has said when.  Main thread."""
        return None if self._limit is None else max(0.0, self._limit - self._system.monotonic())

    def verdict(self, status: int, within: float) -> None:
        """Say how it went, and that the process has to be gone soon.

        Threads that nobody waits for, and nobody can end, then hold the exit no longer than this.

        :param status: the process's exit status: `FINISHED`, `TAKEN_DOWN` or `ABANDONED`.
        :param within: seconds from now until the watchdog ends the process with that status.
        """
        self._verdict = status
        self.arm(within)

    def install(self, register: Callable[[Callable[[], None]], Any] = atexit.register) -> None:
        """See to it that the verdict becomes the exit status, however the interpreter comes to its end.

        Functions registered earlier than this are not called once there is a verdict, so call it early.
        """
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
                # Closed, or nobody reads it any more: it has no use for what is left.
                with suppress(Exception):
                    stream.flush()
        self._system.leave(self._verdict)

    def _watch(self) -> None:
        """What the watchdog thread does."""
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
        line = f"{now} [graceful.process.exit#critical] process {os.getpid()} {what}: exit status {status} now\n"
        for fd in {2, self.log_fd}:
            if fd >= 0:
                with suppress(OSError):
                    self._system.write(fd, line.encode())
        self._system.leave(status)
