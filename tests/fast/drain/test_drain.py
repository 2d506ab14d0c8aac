"""The drain: which step follows which, for every event in every state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from graceful.drain.machine import Drain

DEADLINE = 200.0


OFTEN = 100


class StrictClock(Clock):
    """A clock that minds being asked for the past, as a reactor does."""

    def callLater(self, when: float, what: Callable[..., object], *args: Any, **kwargs: Any) -> DelayedCall:
        assert when >= 0, when
        return super().callLater(when, what, *args, **kwargs)


class Work:
    """A drainable that writes down what it is asked to do, and does it when the test says so.

    :param at_once: every step is done as soon as it is asked for.
    :ivar steps: what it was asked, in order.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.steps: list[str] = []
        self._at_once = at_once
        self.listeners_closed, self.empty, self.taken_down = Deferred[None](), Deferred[None](), Deferred[None]()
        self.seconds: float | None = None
        self.others, self.spares = True, False
        self._looks = 0

    def end_takedown(self) -> None:
        """The takedown that is under way is through; there may be another one."""
        ended, self.taken_down = self.taken_down, Deferred()
        ended.callback(None)

    def going_down(self) -> None:
        self.steps.append("going down")

    def has_leftovers(self) -> bool:
        self._looks += 1
        assert self._looks < OFTEN, "it looks again and again"
        return self.others

    def has_spared(self) -> bool:
        return self.spares

    def last_requests(self, quiet: bool) -> None:
        self.steps.append("last requests, quiet" if quiet else "last requests")

    def _step(self, name: str, done: Deferred[None]) -> Deferred[None]:
        self.steps.append(name)
        return succeed(None) if self._at_once else done

    def close_listeners(self) -> Deferred[None]:
        return self._step("close listeners", self.listeners_closed)

    def all_gone(self) -> Deferred[None]:
        return self._step("wait", self.empty)

    def take_down(self, everything: bool) -> Deferred[None]:
        return self._step("take everything down" if everything else "take down", self.taken_down)

    def finish(self, seconds: float) -> Deferred[None]:
        self.steps.append("gone")
        self.seconds = seconds
        return succeed(None)


class Case(SynchronousTestCase):
    """A drain, and what it works on."""

    def setUp(self) -> None:
        """Make a drain at a moment that is not zero."""
        self.clock = StrictClock()
        self.clock.advance(1000)
        self.work = Work()
        self.drain = Drain(self.clock, self.work, DEADLINE)

    def bring_to(self, state: str) -> None:
        """Make a new drain, and bring it to a state."""
        self.setUp()
        if state == "serving":
            return
        self.drain.begin()
        if state == "closing":
            return
        self.work.listeners_closed.callback(None)
        if state == "finishing":
            return
        if state == "takedown":
            self.clock.advance(DEADLINE)
        else:
            self.work.empty.callback(None)

    def follows(self, *steps: str, state: str) -> None:
        """Check which steps were taken since the last check, and the state by now."""
        taken, self.work.steps = self.work.steps, []
        self.assertEqual((taken, self.drain.state), (list(steps), state))


class OrderTests(Case):
    """The order of the steps."""

    def test_zero_deadline_takes_down_at_once(self) -> None:
        """With a deadline of no seconds the takedown follows at once, and does not wait for the second one."""
        self.drain = Drain(self.clock, self.work, 0, 3600)
        self.drain.begin()
        self.work.listeners_closed.callback(None)
        self.clock.advance(0.001)
        self.follows("going down", "last requests", "close listeners", "wait", "take down", state="takedown")

    def test_when_it_takes_down(self) -> None:
        """The time of the takedown is known from the beginning, and moves with the deadline."""
        self.drain = Drain(self.clock, self.work, DEADLINE, lame_duck=7)
        self.assertIsNone(self.drain.takedown_at())
        self.drain.begin()
        self.assertEqual(self.drain.takedown_at(), 1000 + 7 + DEADLINE)
        self.clock.advance(7)
        self.clock.advance(1)
        self.work.listeners_closed.callback(None)
        self.assertEqual(self.drain.takedown_at(), 1008 + DEADLINE)
        self.drain.extend(50)
        self.assertEqual(self.drain.takedown_at(), 1058 + DEADLINE)
        self.drain.hurry()
        self.assertLessEqual(self.drain.takedown_at() or 0, 1008)

    def test_each_step_waits_for_the_one_before(self) -> None:
        """Last requests, listeners, wait, gone; each step only when the one before is done."""
        self.follows(state="serving")
        done = self.drain.begin()
        self.follows("going down", "last requests", "close listeners", state="closing")
        self.clock.advance(3)
        self.follows(state="closing")
        self.work.listeners_closed.callback(None)
        self.follows("wait", state="finishing")
        self.clock.advance(10)
        self.assertNoResult(done)
        self.work.empty.callback(None)
        self.follows("gone", state="gone")
        self.successResultOf(done)
        self.assertEqual(self.work.seconds, 13)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_takes_down_at_the_deadline(self) -> None:
        """At the deadline, which counts from when the sockets are closed, what is left is taken down."""
        done = self.drain.begin()
        self.clock.advance(DEADLINE + 50)
        self.follows("going down", "last requests", "close listeners", state="closing")
        self.work.listeners_closed.callback(None)
        self.clock.advance(DEADLINE - 0.1)
        self.follows("wait", state="finishing")
        self.clock.advance(0.1)
        self.follows("take everything down", state="takedown")
        self.assertEqual(self.drain.next_deadline, self.clock.seconds())
        self.clock.advance(5)
        self.assertNoResult(done)
        self.work.taken_down.callback(None)
        self.follows("gone", state="gone")
        self.successResultOf(done)
        self.assertEqual(self.work.seconds, 2 * DEADLINE + 55)

    def test_nothing_to_wait_for(self) -> None:
        """If every step is done at once, so is the whole."""
        self.work = Work(at_once=True)
        self.drain = Drain(self.clock, self.work, DEADLINE)
        self.successResultOf(self.drain.begin())
        self.follows("going down", "last requests", "close listeners", "wait", "gone", state="gone")
        self.assertEqual((self.work.seconds, self.clock.getDelayedCalls()), (0, []))

    def test_deadline_of_nothing(self) -> None:
        """A deadline of no seconds still lets go in order what is done by then."""
        for download_deadline, taken in ((0, "take everything down"), (3600, "take down")):
            self.setUp()
            self.drain = Drain(self.clock, self.work, 0, download_deadline)
            self.drain.begin()
            self.work.listeners_closed.callback(None)
            self.follows("going down", "last requests", "close listeners", "wait", state="finishing")
            self.clock.advance(0)
            self.follows(taken, state="takedown")

    def test_empty_after_the_deadline(self) -> None:
        """Becoming empty during the takedown does not end the drain before the takedown ends."""
        self.bring_to("takedown")
        self.work.empty.callback(None)
        self.assertEqual((self.drain.state, self.work.steps[-1]), ("takedown", "take everything down"))
        self.work.taken_down.callback(None)
        self.assertEqual((self.drain.state, self.work.steps[-1], self.work.steps.count("gone")), ("gone", "gone", 1))

    def test_empty_after_the_end(self) -> None:
        """Becoming empty after that changes nothing."""
        self.bring_to("takedown")
        self.work.taken_down.callback(None)
        self.work.steps.clear()
        self.work.empty.callback(None)
        self.follows(state="gone")


class AgainTests(Case):
    """A second request to stop."""

    def test_second_begin_changes_nothing(self) -> None:
        """A second `begin` changes nothing in any state, and fires when the drain is over."""
        for state in ("closing", "finishing", "takedown"):
            self.bring_to(state)
            self.work.steps.clear()
            self.clock.advance(1)
            again = self.drain.begin()
            self.follows(state=state)
            self.assertNoResult(again)
            for step in (self.work.listeners_closed, self.work.empty, self.work.taken_down):
                if not step.called:
                    step.callback(None)
            self.successResultOf(again)
            self.assertEqual(self.work.steps.count("gone"), 1)

    def test_does_not_move_the_deadline(self) -> None:
        """A second `begin` moves no deadline."""
        self.bring_to("finishing")
        self.clock.advance(DEADLINE - 1)
        self.drain.begin()
        self.drain.begin(quiet=True)
        self.clock.advance(1)
        self.assertEqual(self.drain.state, "takedown")

    def test_begin_after_the_end_fires_at_once(self) -> None:
        """When all is over it is over at once."""
        self.bring_to("gone")
        self.work.steps.clear()
        self.successResultOf(self.drain.begin())
        self.successResultOf(self.drain.begin(quiet=True))
        self.follows(state="gone")

    def test_second_begin_may_make_it_quiet(self) -> None:
        """A second `begin` may know that no client sends any more: then idle connections are closed."""
        for state in ("closing", "finishing", "takedown"):
            self.bring_to(state)
            self.work.steps.clear()
            self.drain.begin(quiet=True)
            self.follows("last requests, quiet", state=state)

    def test_quiet_from_the_start(self) -> None:
        """The first one may know it as well."""
        self.drain.begin(quiet=True)
        self.follows("going down", "last requests, quiet", "close listeners", state="closing")


class HurryTests(Case):
    """A caller wants the drain to stop waiting."""

    def test_hurry_while_serving_closes_first(self) -> None:
        """While it serves, the sockets are closed in order, then everything is taken down."""
        self.drain.hurry()
        self.follows("going down", "last requests, quiet", "close listeners", state="closing")
        self.clock.advance(3)
        self.work.listeners_closed.callback(None)
        self.clock.advance(0)
        self.follows("wait", "take everything down", state="takedown")
        self.work.taken_down.callback(None)
        self.follows("gone", state="gone")
        self.assertEqual(self.work.seconds, 3)

    def test_hurry_without_exchanges_takes_nothing_down(self) -> None:
        """If nothing is in flight by then, nothing is taken down."""
        self.drain.hurry()
        self.work.empty.callback(None)
        self.work.listeners_closed.callback(None)
        self.clock.advance(0)
        self.follows("going down", "last requests, quiet", "close listeners", "wait", "gone", state="gone")

    def test_hurry_while_closing_takes_down_next(self) -> None:
        """While the sockets are being closed, the takedown follows that at once."""
        self.bring_to("closing")
        self.work.steps.clear()
        self.drain.hurry()
        self.follows(state="closing")
        self.work.listeners_closed.callback(None)
        self.clock.advance(0)
        self.follows("wait", "take everything down", state="takedown")

    def test_hurry_while_finishing_takes_down_now(self) -> None:
        """While exchanges are waited for, they are taken down now, and the deadline does not come again."""
        self.bring_to("finishing")
        self.work.steps.clear()
        self.drain.hurry()
        self.follows("take everything down", state="takedown")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(2 * DEADLINE)
        self.follows(state="takedown")

    def test_hurry_after_the_takedown_changes_nothing(self) -> None:
        """A hurry that comes later changes nothing."""
        for state in ("takedown", "gone"):
            self.bring_to(state)
            self.work.steps.clear()
            self.drain.hurry()
            self.drain.hurry()
            self.follows(state=state)

    def test_begin_after_hurry_fires_at_the_end(self) -> None:
        """A `begin` after a hurry fires when the drain is over."""
        self.drain.hurry()
        done = self.drain.begin()
        self.work.listeners_closed.callback(None)
        self.clock.advance(0)
        self.assertNoResult(done)
        self.work.taken_down.callback(None)
        self.successResultOf(done)


class LameDuckTests(Case):
    """A balancer is given time to notice, while everything is served as always."""

    def setUp(self) -> None:
        super().setUp()
        self.drain = Drain(self.clock, self.work, DEADLINE, lame_duck=20)

    def test_time_to_notice(self) -> None:
        """Nothing is closed before that; then all goes on as without."""
        self.drain.begin()
        self.clock.advance(19.9)
        self.follows("going down", state="lame-duck")
        self.drain.begin()
        self.clock.advance(0.1)
        self.follows("last requests", "close listeners", state="closing")
        self.work.listeners_closed.callback(None)
        self.assertEqual(self.drain.next_deadline, self.clock.seconds() + DEADLINE)

    def test_quiet_ends_the_lame_duck(self) -> None:
        """A caller that knows that the balancer has noticed ends the lame duck, or it does not begin."""
        self.drain.begin()
        self.clock.advance(5)
        self.drain.begin(quiet=True)
        self.follows("going down", "last requests, quiet", "close listeners", state="closing")
        self.clock.advance(20)
        self.follows(state="closing")
        self.setUp()
        self.drain.begin(quiet=True)
        self.follows("going down", "last requests, quiet", "close listeners", state="closing")

    def test_hurry_ends_the_lame_duck(self) -> None:
        """A hurry ends the lame duck."""
        self.drain.begin()
        self.drain.hurry()
        self.follows("going down", "last requests, quiet", "close listeners", state="closing")
        self.work.listeners_closed.callback(None)
        self.clock.advance(0)
        self.follows("wait", "take everything down", state="takedown")


class SecondDeadlineTests(Case):
    """Downloads, which hold no thread, have more time."""

    def setUp(self) -> None:
        super().setUp()
        self.drain = Drain(self.clock, self.work, DEADLINE, 1000)
        self.work.spares = True
        self.drain.begin()
        self.work.listeners_closed.callback(None)
        self.work.steps.clear()

    def test_spares_downloads_until_the_second_deadline(self) -> None:
        """Other exchanges are taken down at the first deadline, downloads at the second."""
        self.assertEqual(self.drain.next_deadline, 1000 + DEADLINE)
        self.clock.advance(DEADLINE)
        self.follows("take down", state="takedown")
        self.work.end_takedown()
        self.follows("wait", state="finishing")
        self.assertEqual(self.drain.next_deadline, 1000 + 1000)
        self.clock.advance(1000 - DEADLINE - 1)
        self.follows(state="finishing")
        self.clock.advance(1)
        self.follows("take everything down", state="takedown")
        self.work.spares = False
        self.work.end_takedown()
        self.follows("gone", state="gone")

    def test_deadline_moved_into_the_past_still_counts(self) -> None:
        """A first deadline that is moved into the past is not passed over."""
        self.clock.advance(3)
        self.drain.extend(-DEADLINE)
        self.assertEqual(self.drain.next_deadline, 1000)
        self.clock.advance(0)
        self.follows("take down", state="takedown")

    def test_downloads_alone_pass_the_first_deadline(self) -> None:
        """When only downloads are left, nothing happens at the first deadline."""
        self.work.others = False
        self.clock.advance(DEADLINE)
        self.follows(state="finishing")
        self.clock.advance(1000 - DEADLINE)
        self.follows("take everything down", state="takedown")
        self.setUp()
        self.work.others = False
        self.clock.advance(DEADLINE)
        self.work.empty.callback(None)
        self.follows("gone", state="gone")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_drain_ends_with_the_last_download(self) -> None:
        """A download that ends before its deadline ends the drain."""
        self.clock.advance(DEADLINE)
        self.work.end_takedown()
        self.work.steps.clear()
        self.work.empty.callback(None)
        self.follows("gone", state="gone")

    def test_ends_during_the_takedown(self) -> None:
        """A drain whose downloads end during the takedown ends with the takedown."""
        self.clock.advance(DEADLINE)
        self.work.spares = False
        self.work.end_takedown()
        self.follows("take down", "gone", state="gone")

    def test_hurry_spares_nothing(self) -> None:
        """A hurry spares nothing, also if a takedown is under way."""
        self.drain.hurry()
        self.follows("take everything down", state="takedown")
        self.setUp()
        self.clock.advance(DEADLINE)
        self.drain.hurry()
        self.work.end_takedown()
        self.follows("take down", "take everything down", state="takedown")
        self.work.spares = False
        self.work.end_takedown()
        self.follows("gone", state="gone")


class ExtendTests(Case):
    """A caller moves the deadline."""

    def test_deadline_moves_both_ways(self) -> None:
        """The deadline moves, to and fro."""
        self.bring_to("finishing")
        self.clock.advance(DEADLINE - 1)
        self.drain.extend(50)
        self.assertEqual(self.drain.next_deadline, self.clock.seconds() + 51)
        self.clock.advance(50)
        self.assertEqual(self.drain.state, "finishing")
        self.drain.extend(-20)
        self.clock.advance(0)
        self.assertEqual(self.drain.state, "takedown")

    def test_extend_counts_before_the_sockets_close(self) -> None:
        """A deadline that is moved early counts when the sockets are closed."""
        self.drain.extend(50)
        self.drain.begin()
        self.assertIs(self.drain.next_deadline, None)
        self.work.listeners_closed.callback(None)
        self.clock.advance(DEADLINE + 49)
        self.assertEqual(self.drain.state, "finishing")

    def test_deadline_never_gets_negative(self) -> None:
        """A deadline never gets negative."""
        self.drain.extend(-10 * DEADLINE)
        self.drain.extend(50)
        self.drain.begin()
        self.work.listeners_closed.callback(None)
        self.assertEqual(self.drain.next_deadline, self.clock.seconds() + 50)

    def test_extend_does_not_stop_a_takedown(self) -> None:
        """An exchange that is being taken down gets no more time."""
        for state in ("takedown", "gone"):
            self.bring_to(state)
            self.drain.extend(50)
            self.assertEqual((self.drain.state, self.clock.getDelayedCalls()), (state, []))


class AheadTests(Case):
    """The seconds ahead of a drain at most in each state, and the states that are told."""

    def test_seconds_ahead_shrink_with_time(self) -> None:
        """The seconds shrink with time from the signal on, and count the deadline that holds."""
        told: list[str] = []
        self.drain = Drain(self.clock, self.work, DEADLINE, 3600, lame_duck=20, entered=told.append)
        self.assertEqual(
            (self.drain.seconds_ahead(False), self.drain.seconds_ahead(True)), ((20, DEADLINE), (20, 3600))
        )
        self.drain.begin()
        self.clock.advance(5)
        self.assertEqual(self.drain.seconds_ahead(False), (15, DEADLINE))
        self.clock.advance(15)
        self.assertEqual(self.drain.seconds_ahead(False), (0, DEADLINE))
        self.work.listeners_closed.callback(None)
        self.clock.advance(50)
        self.assertEqual(
            (self.drain.seconds_ahead(False), self.drain.seconds_ahead(True)), ((0, DEADLINE - 50), (0, 3550))
        )
        self.drain.extend(10)
        self.assertEqual(self.drain.seconds_ahead(False), (0, DEADLINE - 40))
        self.drain.set_deadline(60)
        self.assertEqual(self.drain.seconds_ahead(False), (0, 10))
        self.clock.advance(10)
        self.assertEqual(self.drain.seconds_ahead(True), (0, 0))
        self.work.taken_down.callback(None)
        self.assertEqual(told, ["lame-duck", "closing", "finishing", "takedown", "gone"])

    def test_into_the_past(self) -> None:
        """A deadline that is moved to a moment that has passed has come, also when there is a second one."""
        self.drain = Drain(self.clock, self.work, DEADLINE, 3600)
        self.drain.begin()
        self.work.listeners_closed.callback(None)
        self.clock.advance(50)
        self.drain.extend(-170)
        self.clock.advance(0)
        self.assertEqual(self.drain.state, "takedown")


class SucceededTests(SynchronousTestCase):
    """With the sockets in a successor's hands."""

    def test_successor_makes_the_lame_duck_needless(self) -> None:
        """No balancer needs time to look elsewhere."""
        work = Work()
        drain = Drain(StrictClock(), work, DEADLINE, lame_duck=30)
        drain.succeeded()
        self.assertEqual(drain.state, "closing")
        self.assertEqual(work.steps, ["going down", "last requests", "close listeners"])

    def test_from_the_lame_duck(self) -> None:
        """The lame duck ends at once when a successor accepts."""
        clock, work = StrictClock(), Work()
        drain = Drain(clock, work, DEADLINE, lame_duck=30)
        drain.begin()
        self.assertEqual(drain.state, "lame-duck")
        drain.succeeded()
        self.assertEqual(drain.state, "closing")
        work.listeners_closed.callback(None)
        self.assertEqual(drain.state, "finishing")

    def test_successor_changes_no_drain_under_way(self) -> None:
        """A drain that is under way goes on as it was."""
        work = Work()
        drain = Drain(StrictClock(), work, DEADLINE)
        drain.begin()
        work.listeners_closed.callback(None)
        steps = list(work.steps)
        drain.succeeded()
        self.assertEqual((drain.state, work.steps), ("finishing", steps))


class FailingStepTests(SynchronousTestCase):
    """A step that raises, or whose Deferred fails: the stop goes on to its end."""

    def drained(self, name: str, fail_with: Callable[[], Any]) -> Work:
        """Let a drain with a failing step pass."""
        clock, work = StrictClock(), Work(at_once=True)

        def fail(*arguments: object) -> Any:
            work.steps.append(f"{name} fails")
            return fail_with()

        self.patch(work, name, fail)
        drain = Drain(clock, work, DEADLINE, DEADLINE, 0.0, lambda state: None)
        done = drain.begin()
        clock.advance(DEADLINE)
        self.successResultOf(done)
        self.assertIn(f"{name} fails", work.steps)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        return work

    def test_the_stop_goes_on_when_a_step_raises(self) -> None:
        """The pid file, the balancer, the sockets, the takedown: none of them can lose the stop."""

        def raise_it() -> None:
            raise ZeroDivisionError

        for name in ("going_down", "last_requests", "close_listeners", "all_gone", "finish"):
            self.drained(name, raise_it)

    def test_the_stop_goes_on_when_a_deferred_fails(self) -> None:
        """A step that fails later is no different."""
        for name in ("close_listeners", "all_gone", "finish"):
            self.drained(name, lambda: fail(ZeroDivisionError()))

    def test_the_stop_goes_on_when_the_takedown_fails(self) -> None:
        """What could not be taken down is left to the end of the process."""
        clock, work = StrictClock(), Work(at_once=True)
        self.patch(work, "all_gone", lambda: Deferred())
        self.patch(work, "take_down", lambda everything: fail(ZeroDivisionError()))
        done = Drain(clock, work, DEADLINE, DEADLINE, 0.0, lambda state: None).begin()
        clock.advance(DEADLINE)
        self.successResultOf(done)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_the_stop_goes_on_when_a_listener_to_its_states_fails(self) -> None:
        """The service manager or a client of control may not take its states."""

        def fail_with(state: object) -> None:
            raise ZeroDivisionError

        done = Drain(StrictClock(), Work(at_once=True), DEADLINE, DEADLINE, 0.0, fail_with).begin()
        self.successResultOf(done)
        self.assertGreater(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
