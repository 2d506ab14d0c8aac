"""A deploy with workers: each is replaced in turn, and all go back if one fails."""

from __future__ import annotations

import errno
import os
from typing import Any, cast

from graceful.workers.fleet_drain import FleetDrain
from graceful.workers.rolling_restart import RollingRestart
from graceful.workers.worker_pool import CLOSES_IN
from tests.fast.workers.workforce import NEW, OLD, WorkerProcess, Workforce, origin


class Paths:
    """The paths by which the supervisor was started; a test sets the release to which they lead."""

    def __init__(self) -> None:
        self.leads_to = NEW

    def fixed(self) -> Any:
        return self.leads_to


class RollingRestartTests(Workforce):
    """Three workers of the old release."""

    def setUp(self) -> None:
        """Have all workers accept."""
        super().setUp()
        self.paths, self.why_not = Paths(), cast("str | None", None)
        self.roll = RollingRestart(self.pool, cast(Any, self.paths), OLD, lambda: self.why_not)
        self.open()
        self.lines()

    def running(self) -> list[str]:
        """Returns the release that runs in each slot."""
        return [slot.worker.release.application if slot.worker else "" for slot in self.pool.slots]

    def replace_all(self) -> None:
        """Deploy until all new workers accept; the last one that they replace does so, too."""
        self.roll.begin()
        self.arrive()
        self.arrive()
        self.begin_to_accept()

    def said(self) -> list[str]:
        """Returns the lines of the log about the deploy."""
        return [line for line in self.lines() if "deploy" in line or "no way back" in line or "again" in line]

    def test_each_accepts_before_the_next_starts(self) -> None:
        """Each new worker accepts before the next one is started."""
        self.roll.begin()
        self.assertEqual(self.said(), ["deploy: workers that run /srv/new (was /srv/old), one at a time"])
        for number in (1, 2, 3):
            self.assertTrue(self.roll.under_way)
            self.assertEqual(self.next().number, number)
            self.arrive()
        self.assertEqual((self.coming(), self.running()), ([], ["/srv/new"] * 3))
        self.assertEqual(self.said(), ["deployed: all workers run /srv/new"])
        self.assertIs(self.roll.release, NEW)
        self.assertFalse(self.roll.under_way)
        self.no_timers()

    def test_it_is_done_when_no_former_worker_accepts_any_more(self) -> None:
        """What asks when the log says so is answered by the new release."""
        self.replace_all()
        self.assertEqual(self.said()[1:], [])
        self.assertTrue(self.roll.under_way)
        self.pool.leaving[-1].end()  # type: ignore[attr-defined]
        self.assertEqual(self.said(), ["deployed: all workers run /srv/new"])
        self.assertFalse(self.roll.under_way)
        self.no_timers()

    def test_the_way_back_is_done_when_no_newer_worker_accepts_any_more(self) -> None:
        """What asks when the log says so is answered by the release from before."""
        self.roll.begin()
        self.arrive()
        self.next().end(1)
        self.begin_to_accept()
        self.assertNotIn("all workers run /srv/old again", self.said())
        self.pool.leaving[-1].says("closed")  # type: ignore[attr-defined]
        self.assertEqual(self.said(), ["all workers run /srv/old again"])
        self.no_timers()

    def test_a_former_worker_that_hangs_is_not_waited_for_for_ever(self) -> None:
        """It may never say that it has closed its sockets."""
        self.replace_all()
        self.clock.advance(CLOSES_IN - 0.1)
        self.assertTrue(self.roll.under_way)
        self.clock.advance(0.1)
        self.assertIn("deployed: all workers run /srv/new", self.said())
        self.pool.leaving[-1].says("closed")  # type: ignore[attr-defined]
        self.assertFalse(self.roll.under_way)
        self.no_timers()

    def test_nothing_changes_if_the_first_worker_fails(self) -> None:
        """If the first new worker fails, nothing has changed."""
        self.roll.begin()
        worker = self.next()
        worker.says("failed", why="wiki cannot be imported")
        worker.end(1)
        self.assertEqual(self.said()[1:], ["no deploy: wiki cannot be imported; the old release serves on"])
        self.assertEqual((self.coming(), self.running()), ([], ["/srv/old"] * 3))
        self.assertFalse(self.roll.under_way)
        self.no_timers()

    def test_replaced_workers_go_back_if_a_later_one_fails(self) -> None:
        """If a later worker fails, those that were replaced go back, and later starts are of the old release."""
        self.roll.begin()
        self.arrive()
        self.arrive()
        self.next().end(1)
        self.assertEqual(self.said()[1:], ["no deploy: exit status 1; back to the old release in 2"])
        for number in (1, 2):
            worker = self.arrive()
            self.assertEqual((worker.number, worker.release), (number, OLD))
        self.assertEqual((self.coming(), self.running()), ([], ["/srv/old"] * 3))
        self.assertEqual(self.said(), ["all workers run /srv/old again"])
        self.assertEqual([slot.release for slot in self.pool.slots], [OLD] * 3)
        self.assertIs(self.roll.release, OLD)
        self.no_timers()

    def test_workers_stay_if_no_process_can_be_started(self) -> None:
        """If no process can be started on the way back, the new worker stays, and the log says so."""
        self.roll.begin()
        self.cannot = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.arrive()
        self.assertIn("no way back in all places: twistd cannot be started in /srv/old", self.said()[-1])
        self.assertEqual(self.running(), ["/srv/new", "/srv/old", "/srv/old"])
        self.assertFalse(self.roll.under_way)
        self.no_timers()

    def test_one_slot_that_cannot_go_back_does_not_keep_others(self) -> None:
        """If one slot cannot go back, the others do; the next start in that slot is of the old release."""
        self.roll.begin()
        self.arrive()
        self.arrive()
        self.next().end(1)
        self.said()
        self.next().end(2)
        self.arrive()
        self.assertEqual(self.said(), ["no way back in all places: exit status 2"])
        self.assertEqual(self.running(), ["/srv/new", "/srv/old", "/srv/old"])
        left = self.slot(1).worker
        assert isinstance(left, WorkerProcess)
        left.end()
        self.clock.advance(0)
        self.assertIs(self.arrive().release, OLD)

    def test_another_deploy_follows_the_one_that_is_under_way(self) -> None:
        """Of deploys that are asked for during one, a single one follows, of what the paths lead to by then."""
        self.roll.begin()
        for _ in range(2):
            self.roll.begin()
        self.assertEqual(self.said()[1:], ["deploy: one is under way; another one follows it"] * 2)
        self.paths.leads_to = origin("newer")
        for _ in range(3):
            self.arrive()
        self.assertIn("deploy: workers that run /srv/newer (was /srv/new)", " ".join(self.said()))
        for _ in range(3):
            self.arrive()
        self.assertFalse(self.roll.under_way)

    def test_refuses_while_something_else_is_under_way(self) -> None:
        """A deploy is refused while something else is under way."""
        self.why_not = "a successor is on its way"
        self.roll.begin()
        self.assertEqual(self.said(), ["no deploy: a successor is on its way; the workers serve on"])
        self.assertEqual(self.coming(), [])

    def test_a_replaced_worker_that_dies_restarts_in_the_new_release(self) -> None:
        """A replaced worker that dies is started again in the new release, and goes back with the others."""
        self.roll.begin()
        first = self.arrive()
        first.end()
        self.clock.advance(0)
        again, second = self.coming()
        self.assertEqual((again.release, second.release), (NEW, NEW))
        second.end(1)
        self.assertIs(self.next(), again)  # it is let come, since clients wait
        again.says("ready", "accepts")
        back = self.arrive()
        self.assertEqual((back.number, back.release), (1, OLD))
        self.assertEqual(self.running(), ["/srv/old"] * 3)
        self.no_timers()

    def test_stop_ends_the_deploy(self) -> None:
        """A stop ends a deploy: no worker is started, and the log says why."""
        fleet_drain = FleetDrain(self.clock, self.pool, self.sockets, lambda state: None, lambda ending: None)
        self.roll.begin()
        self.arrive()
        self.said()
        fleet_drain.begin(True)
        self.assertEqual(self.said(), ["no deploy: it is stopping"])
        self.assertFalse(self.roll.under_way)
        worker = self.next()
        worker.end(-15)
        self.assertEqual(self.coming(), [])

    def test_a_stop_ends_the_way_back(self) -> None:
        """A stop also ends the way back."""
        fleet_drain = FleetDrain(self.clock, self.pool, self.sockets, lambda state: None, lambda ending: None)
        self.roll.begin()
        self.arrive()
        self.next().end(1)
        self.said()
        fleet_drain.begin(True)
        self.assertEqual(self.said(), [])
        self.assertFalse(self.roll.under_way)
        self.next().end(-15)
        self.assertEqual(self.coming(), [])
