"""Timers that a step of the wall clock does not move.

The reactor's `seconds()` is the wall clock.  When NTP, an administrator or a resumed virtual machine sets
that clock, every time-out in the process moves with it: a step of some minutes makes every deadline expire at
once, and takes down every request in flight.

`MonotonicClock` provides `IReactorTime` on CLOCK_MONOTONIC instead.  A timer of the reactor would bring the wall
clock back in, so the kernel wakes the clock through a timerfd, one more descriptor in the reactor.  It is meant for
the few timers of a server's sweeps and its drain.
"""

from __future__ import annotations

import ctypes
import heapq
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from typing import Any, Final, Protocol

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

log = Logger(namespace="graceful")


class Alarm(Protocol):
    """Something that wakes the clock once, after a while."""

    def set(self, seconds: float) -> None:
        """Wake the clock in `seconds`, at least 0, instead of at the time set before."""

    def close(self) -> None:
        """Never wake again."""


@implementer(IReactorTime)
class MonotonicClock:
    """`IReactorTime` on CLOCK_MONOTONIC.  Reactor thread only, as all timers of a reactor are."""

    def __init__(
        self,
        make_alarm: Callable[[Callable[[], None]], Alarm],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a clock that calls nothing until `start`; `monotonic_clock` makes the usual one.

        :param make_alarm: called at `start` with the function that the alarm calls when it goes off.
        :param monotonic: returns the monotonic time in seconds.
        """
        self._make_alarm = make_alarm
        self._monotonic = monotonic
        self._alarm: Alarm | None = None
        self._set_for: float | None = None  # the time for which the alarm is set
        self._calls: list[DelayedCall] = []  # a heap, by time
        self._fresh: list[DelayedCall] = []  # calls made while others run: not before the next turn
        self._running = False

    def start(self) -> None:
        """Begin to make calls.  Call it after a daemonizing fork: it opens a descriptor."""
        if self._alarm is None:
            self._alarm = self._make_alarm(self._run)
            self._set_alarm()

    def stop(self) -> None:
        """Make no further calls, and close the descriptor."""
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None
            self._set_for = None

    def seconds(self) -> float:
        """Return the seconds since a fixed moment in the past, the same one while the process lives."""
        return self._monotonic()

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kw: object) -> DelayedCall:
        """Schedule a call in `delay` seconds, in the reactor thread.

        :returns: an `IDelayedCall`.
        """
        if delay < 0:
            raise ValueError(f"a call cannot be made {-delay} s ago")
        due = self.seconds() + delay
        call = DelayedCall(due, callable, args, kw, self._cancelled, self._moved, self.seconds)
        if self._running:
            self._fresh.append(call)
        else:
            heapq.heappush(self._calls, call)
            self._set_alarm()
        return call

    def getDelayedCalls(self) -> list[IDelayedCall]:
        """Return the calls that are still to be made."""
        return [*self._calls, *self._fresh]

    def _cancelled(self, call: DelayedCall) -> None:
        if call in self._fresh:
            self._fresh.remove(call)
        else:
            self._calls.remove(call)
            heapq.heapify(self._calls)

    def _moved(self, call: DelayedCall) -> None:
        """Reorder the calls: one was moved to an earlier time.  (A later time only changes `delayed_time`.)"""
        heapq.heapify(self._calls)
        self._set_alarm()

    def _run(self) -> None:
        """Make the calls that are due."""
        self._set_for = None
        self._running = True
        now = self.seconds()
        while self._calls and self._calls[0].time <= now:
            call = heapq.heappop(self._calls)
            if call.delayed_time > 0:
                call.activate_delay()
                heapq.heappush(self._calls, call)
                continue
            call.called = 1
            try:
                call.func(*call.args, **call.kw)
            except Exception:
                log.failure("a delayed call failed")
        self._running = False
        for call in self._fresh:
            heapq.heappush(self._calls, call)
        self._fresh = []
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is None or self._running or not self._calls:
            return
        earliest = self._calls[0].time
        if self._set_for is None or earliest < self._set_for:
            self._set_for = earliest
            self._alarm.set(max(0.0, earliest - self.seconds()))


def monotonic_clock(reactor: Any) -> MonotonicClock:
    """Return the clock that a server uses.

    :param reactor: provides `IReactorFDSet`, and `IReactorTime` for systems without timerfd.
    """

    def make_alarm(wake: Callable[[], None]) -> Alarm:
        calls = _timerfd_calls()
        if calls is None:
            log.warn("this system has no timerfd: a step of the wall clock can delay time-outs")
            return ReactorAlarm(reactor, wake)
        return TimerfdAlarm(reactor, wake, *calls)

    return MonotonicClock(make_alarm)


@implementer(IReadDescriptor)
class TimerfdAlarm:
    """An alarm of the kernel, timerfd_create(2): a descriptor that becomes readable when the time comes."""

    def __init__(
        self,
        reactor: IReactorFDSet,
        wake: Callable[[], None],
        create: Callable[[], int],
        settime: Callable[[int, float], None],
    ) -> None:
        self._reactor = reactor
        self._wake = wake
        self._settime = settime
        self._fd = create()
        reactor.addReader(self)

    def set(self, seconds: float) -> None:
        self._settime(self._fd, seconds)

    def close(self) -> None:
        if self._fd >= 0:
            self._reactor.removeReader(self)
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        return self._fd

    def doRead(self) -> None:
        # If it was set again after it went off, there is nothing to read; it goes off later.
        with suppress(BlockingIOError):
            os.read(self._fd, 8)
            self._wake()

    def connectionLost(self, reason: Failure) -> None:
        self.close()

    def logPrefix(self) -> str:
        return "clock"


class ReactorAlarm:
    """An alarm on the reactor's own timer, for systems without timerfd.

    The clock's time stays monotonic; only its wake-ups come late or early when the wall clock is set.
    """

    def __init__(self, reactor: IReactorTime, wake: Callable[[], None]) -> None:
        self._reactor = reactor
        self._wake = wake
        self._call: IDelayedCall | None = None

    def set(self, seconds: float) -> None:
        self.close()
        self._call = self._reactor.callLater(seconds, self._went_off)

    def close(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _went_off(self) -> None:
        self._call = None
        self._wake()


def _nanoseconds(seconds: float) -> int:
    # Zero would switch the timer off; rounded down, it would go off before anything is due.
    return max(1, ceil(seconds * 1e9))


class _Itimerspec(ctypes.Structure):
    """`struct itimerspec`: the interval, which we do not use, and the time to go off."""

    _fields_ = tuple((field, ctypes.c_long) for field in ("interval_s", "interval_ns", "value_s", "value_ns"))


def _timerfd_calls() -> tuple[Callable[[], int], Callable[[int, float], None]] | None:
    """Return functions that create a timerfd and set it; None where the system has none."""
    if sys.version_info >= (3, 13) and hasattr(os, "timerfd_create"):

        def create() -> int:
            return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

        def settime(fd: int, seconds: float) -> None:
            os.timerfd_settime_ns(fd, initial=_nanoseconds(seconds))

        return create, settime

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "timerfd_create"):
        return None
    # <sys/timerfd.h> defines its flags as these.
    flags: Final = os.O_NONBLOCK | os.O_CLOEXEC

    def checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def create_by_libc() -> int:
        return checked(libc.timerfd_create(time.CLOCK_MONOTONIC, flags))

    def settime_by_libc(fd: int, seconds: float) -> None:
        whole, rest = divmod(_nanoseconds(seconds), 10**9)
        checked(libc.timerfd_settime(fd, 0, ctypes.byref(_Itimerspec(0, 0, whole, rest)), None))

    return create_by_libc, settime_by_libc
