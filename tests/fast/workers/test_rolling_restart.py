"""Deploying with workers: forward one at a time, and the way back."""

from __future__ import annotations

import errno
import os
from typing import Any, cast

from graceful.workers.fleet_drain import FleetDrain
from graceful.workers.rolling_restart import RollingRestart
from tests.fast.workers.workforce import NEW, OLD, WorkerProcess, Workforce, origin


class Paths:
    """How the supervisor was started; the paths lead to another release each time."""

    def __init__(self) -> None:
        self.leads_to = NEW

    def fixed(self) -> Any:
        return self.leads_to


class RollingRestartTests(Workforce):
    """Three workers of the old release."""

    def setUp(self) -> None:
        """All accept."""
        super().setUp()
        self.paths, self.why_not = Paths(), cast("str | None", None)
        self.roll = RollingRestart(self.pool, cast(Any, self.paths), OLD, lambda: self.why_not)
        self.open()
        self.lines()

    def running(self) -> list[str]:
        """What runs in each slot."""
        return [slot.worker.release.application if slot.worker else "" for slot in self.pool.slots]

    def said(self) -> list[str]:
        """What was logged of the deploy."""
        return [line for line in self.lines() if "deploy" in line or "no way back" in line or "again" in line]

    def test_each_accepts_before_the_next_starts(self) -> None:
        """Each one accepts before the next one is started."""
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

    def test_first_fails(self) -> None:
        """Then nothing has changed."""
        self.roll.begin()
        worker = self.next()
        worker.says("failed", why="wiki cannot be imported")
        worker.end(1)
        self.assertEqual(self.said()[1:], ["no deploy: wiki cannot be imported; the old release serves on"])
        self.assertEqual((self.coming(), self.running()), ([], ["/srv/old"] * 3))
        self.assertFalse(self.roll.under_way)
        self.no_timers()

    def test_later_one_fails(self) -> None:
        """Then what was replaced is replaced once more, and whatever is started next is of the old release."""
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

    def test_no_process(self) -> None:
        """Likewise if one cannot even be started."""
        self.roll.begin()
        self.cannot = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.arrive()
        self.assertIn("no way back in all places: twistd cannot be started in /srv/old", self.said()[-1])
        self.assertEqual(self.running(), ["/srv/new", "/srv/old", "/srv/old"])
        self.assertFalse(self.roll.under_way)
        self.no_timers()

    def test_no_way_back(self) -> None:
        """One slot that cannot go back keeps no other from it; what is started there later is of the old release."""
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

    def test_refuses_a_second_deploy_at_once(self) -> None:
        """One at a time; and the next one knows what this one has deployed."""
        self.roll.begin()
        self.roll.begin()
        self.assertEqual(self.said()[1:], ["no deploy: one is under way; the workers serve on"])
        for _ in range(3):
            self.arrive()
        self.paths.leads_to = origin("newer")
        self.said()
        self.roll.begin()
        self.assertIn("deploy: workers that run /srv/newer (was /srv/new)", self.said()[0])

    def test_refuses_while_something_else_is_under_way(self) -> None:
        """There may be something else under way."""
        self.why_not = "a successor is on its way"
        self.roll.begin()
        self.assertEqual(self.said(), ["no deploy: a successor is on its way; the workers serve on"])
        self.assertEqual(self.coming(), [])

    def test_one_dies(self) -> None:
        """One that was replaced, and dies, is started again as what it was; and goes back with the others."""
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
        """A deploy is over when everybody leaves: nothing is started, and nobody is left waiting."""
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

    def test_stop_on_the_way_back(self) -> None:
        """Likewise."""
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
