"""The monotonic clock, which a step of the wall clock does not move."""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IReactorTime, IReadDescriptor
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from graceful.process import clock as module
from graceful.process.clock import MonotonicClock, ReactorAlarm, TimerfdAlarm, monotonic_clock


class Hand:
    """An alarm that goes off when the test says so.

    :ivar set_for: the seconds that it was last set for.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.set_for: float | None = None
        self.times_set = 0
        self.wake: Callable[[], None]

    def make(self, wake: Callable[[], None]) -> Hand:
        """Be the clock's alarm."""
        self.wake = wake
        return self

    def set(self, seconds: float) -> None:
        """Note it."""
        self.set_for = seconds
        self.times_set += 1

    def close(self) -> None:
        """Note it."""
        self.set_for = None

    def advance(self, seconds: float) -> None:
        """Let time pass, and the alarm go off if it is set for within that."""
        self.now += seconds
        if self.set_for is not None and self.set_for <= seconds:
            self.set_for = None
            self.wake()
        elif self.set_for is not None:
            self.set_for -= seconds


class ClockTests(SynchronousTestCase):
    """When calls are made."""

    def setUp(self) -> None:
        """Make a clock with an alarm in our hands."""
        self.hand = Hand()
        self.clock = MonotonicClock(self.hand.make, lambda: self.hand.now)
        self.clock.start()
        self.calls: list[Any] = []

    def test_the_clock_provides_IReactorTime(self) -> None:
        """It tells the time that it is given, as a reactor would."""
        self.assertTrue(verifyObject(IReactorTime, self.clock))
        self.assertEqual(self.clock.seconds(), 1000.0)

    def test_makes_calls_in_the_order_of_their_times(self) -> None:
        """Calls are made in the order of their times, with their arguments, and not before."""
        self.clock.callLater(3, self.calls.append, "c")
        self.clock.callLater(1, self.calls.append, "a")
        self.clock.callLater(2, lambda *args, **kw: self.calls.append((args, kw)), "b", more=1)
        self.hand.advance(0.5)
        self.assertEqual(self.calls, [])
        self.hand.advance(0.5)
        self.assertEqual(self.calls, ["a"])
        self.hand.advance(2)
        self.assertEqual(self.calls, ["a", (("b",), {"more": 1}), "c"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_alarm_is_set_seldom(self) -> None:
        """The alarm is only set when an earlier call comes, or when it has gone off."""
        self.clock.callLater(1, self.calls.append, 1)
        for _ in range(10):
            self.clock.callLater(2, self.calls.append, 2)
        self.assertEqual((self.hand.times_set, self.hand.set_for), (1, 1))
        self.clock.callLater(0.5, self.calls.append, 0)
        self.assertEqual((self.hand.times_set, self.hand.set_for), (2, 0.5))

    def test_does_not_make_a_cancelled_call(self) -> None:
        """A call that is cancelled is not made, and its function is released."""
        call = self.clock.callLater(1, self.calls.append, "no")
        self.clock.callLater(1, self.calls.append, "yes")
        call.cancel()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.hand.advance(1)
        self.assertEqual(self.calls, ["yes"])
        self.assertRaises(AlreadyCancelled, call.cancel)

    def test_a_call_can_cancel_another_that_is_due(self) -> None:
        """One call may cancel another that is due at the same time, or one that it has just asked for."""

        def cancels() -> None:
            second.cancel()
            third = self.clock.callLater(0, self.calls.append, "third")
            third.cancel()

        self.clock.callLater(1, cancels)
        second = self.clock.callLater(1, self.calls.append, "second")
        self.hand.advance(1)
        self.assertEqual((self.calls, self.clock.getDelayedCalls()), ([], []))

    def test_moves_calls_later_and_earlier(self) -> None:
        """A call can be put off, and drawn nearer."""
        off = self.clock.callLater(1, self.calls.append, "off")
        near = self.clock.callLater(9, self.calls.append, "near")
        off.reset(5)
        near.reset(0.5)
        self.hand.advance(0.5)
        self.assertEqual(self.calls, ["near"])
        self.hand.advance(1)
        self.assertEqual((self.calls, self.hand.set_for), (["near"], 3.5))
        self.hand.advance(3.5)
        self.assertEqual(self.calls, ["near", "off"])
        self.assertRaises(AlreadyCalled, off.reset, 1)

    def test_makes_new_calls_in_the_next_turn(self) -> None:
        """What a call asks for at once comes in the reactor's next turn: others are not kept waiting."""

        def again() -> None:
            self.calls.append(len(self.calls))
            assert len(self.calls) < 10
            self.clock.callLater(0, again)

        again()
        for turn in range(2, 5):
            self.hand.advance(0)
            self.assertEqual(len(self.calls), turn)

    def test_makes_the_other_calls_if_one_fails(self) -> None:
        """A call that fails is logged, and the others are made."""
        self.clock.callLater(1, lambda: 1 // 0)
        self.clock.callLater(1, self.calls.append, "other")
        self.hand.advance(1)
        self.assertEqual(self.calls, ["other"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_makes_no_calls_while_stopped(self) -> None:
        """A clock that is stopped calls nothing; one that is not started yet makes up for it then."""
        self.clock.stop()
        self.clock.stop()
        self.clock.callLater(1, self.calls.append, 1)
        self.hand.advance(5)
        self.assertEqual(self.calls, [])
        self.clock.start()
        self.assertEqual(self.hand.set_for, 0)
        self.hand.advance(0)
        self.assertEqual(self.calls, [1])

    def test_refuses_a_time_in_the_past(self) -> None:
        """Nothing can be done in the past."""
        self.assertRaises(ValueError, self.clock.callLater, -1, self.calls.append)


class Reactor:
    """A reactor whose wall clock is worth nothing."""

    def __init__(self) -> None:
        self.reading: list[Any] = []

    def addReader(self, reader: Any) -> None:
        """Watch it."""
        self.reading.append(reader)

    def removeReader(self, reader: Any) -> None:
        """Watch it no more."""
        self.reading.remove(reader)

    def turn(self) -> None:
        """Wait until something is readable, and read it."""
        (readable, _, _) = select.select(self.reading, [], [], 10)
        assert readable
        for reader in readable:
            reader.doRead()


class TimerfdTests(SynchronousTestCase):
    """The alarm by the kernel; with `os` as well as with ctypes, whichever this Python has."""

    def setUp(self) -> None:
        """Make the clock that a server has."""
        self.reactor = Reactor()
        self.clock = monotonic_clock(self.reactor)
        self.clock.start()
        self.addCleanup(self.clock.stop)

    def test_the_timer_provides_IReadDescriptor(self) -> None:
        """The timer is a reader for the reactor; other programs do not inherit it, and a read does not block."""
        (alarm,) = self.reactor.reading
        self.assertIsInstance(alarm, TimerfdAlarm)
        self.assertTrue(verifyObject(IReadDescriptor, alarm))
        self.assertFalse(os.get_inheritable(alarm.fileno()))
        alarm.doRead()
        self.assertEqual(alarm.logPrefix(), "clock")

    def test_wakes_by_monotonic_time(self) -> None:
        """Calls are made when their monotonic time has come, not sooner, and without the reactor's timers."""
        made: list[float] = []
        begun = time.monotonic()
        for delay in (0, 0.03, 0.01, 1e-9):
            self.clock.callLater(delay, lambda delay=delay: made.append(delay))
        while len(made) < 4:
            self.reactor.turn()
        self.assertGreaterEqual(time.monotonic() - begun, 0.03)
        self.assertEqual(made, [0, 1e-9, 0.01, 0.03])

    def test_stopping_closes_the_descriptor(self) -> None:
        """Stopping, by us or by a reactor that leaves, closes the descriptor."""
        (alarm,) = self.reactor.reading
        fd = alarm.fileno()
        alarm.connectionLost(Failure(RuntimeError("reactor")))
        self.assertEqual(self.assertRaises(OSError, os.fstat, fd).errno, errno.EBADF)
        self.assertEqual(self.reactor.reading, [])
        self.clock.stop()

    def test_raises_an_error_of_the_kernel(self) -> None:
        """An error of the kernel's is not taken for success."""
        calls = module._timerfd_calls()
        assert calls is not None
        with open(os.devnull) as no_timer:
            self.assertEqual(self.assertRaises(OSError, calls[1], no_timer.fileno(), 1.0).errno, errno.EINVAL)


class ReactorAlarmTests(SynchronousTestCase):
    """The alarm for systems without timerfd."""

    def test_warns_and_uses_the_timers_of_the_reactor(self) -> None:
        """The reactor's timers are used, and the log says what that costs."""
        self.patch(module, "_timerfd_calls", lambda: None)
        reactor = Clock()
        made: list[str] = []
        clock = monotonic_clock(reactor)
        with capturedLogs() as events:
            clock.start()
        self.assertIn("no timerfd", formatEvent(events[0]))
        self.assertIsInstance(clock._alarm, ReactorAlarm)
        clock.callLater(0, made.append, "now")
        clock.callLater(3600, made.append, "in an hour")
        reactor.advance(0)
        self.assertEqual(made, ["now"])
        clock.stop()
        self.assertEqual(cast(Any, reactor).getDelayedCalls(), [])
