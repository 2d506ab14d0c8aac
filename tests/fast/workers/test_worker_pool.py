"""Keeping every slot staffed, whatever happens in whatever order."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

from graceful.control.client import Silent
from graceful.workers.boot import ENDS_IN
from graceful.workers.slot import BACKOFF, HOPELESS, STEADY
from graceful.workers.worker_pool import SAME_SIGNAL, STOPPING, CannotStart
from tests.fast.workers.workforce import NEW, OLD, TCP, TIMEOUT, WorkerProcess, Workforce, kept


class StartTests(Workforce):
    """All together."""

    def test_all_accept_once_told(self) -> None:
        """They accept when all are told to, not when they are ready; `all_accept` is told when all do."""
        for worker in self.coming():
            worker.says("ready")
            self.assertEqual(worker.told(), [])
        workers = self.coming()
        self.pool.accept()
        self.assertEqual([worker.told("accept") for worker in workers], [["accept"]] * 3)
        for worker in workers:
            self.assertEqual(self.events, [])
            worker.says("accepts")
        self.assertEqual(self.events, ["open"])
        self.assertEqual(self.pool.workers(), workers)
        self.no_timers()

    def test_ready_late(self) -> None:
        """One that is ready later is told then."""
        worker = self.coming()[0]
        self.pool.accept()
        self.assertEqual(worker.told(), [])
        worker.says("ready")
        self.assertEqual(worker.told(), ["accept"])

    def test_never_accepts(self) -> None:
        """From the moment it may, each has its time to accept; then it is killed, and another one is started."""
        workers = self.coming()
        for worker in workers:
            worker.says("ready")
        self.pool.accept()
        for worker in workers[1:]:
            worker.says("accepts")
        self.clock.advance(TIMEOUT)
        self.assertEqual([worker.signals for worker in workers], [[signal.SIGKILL], [], []])
        workers[0].says("accepts")  # it was about to
        self.assertIs(self.slot(1).worker, None)
        workers[0].end()
        self.clock.advance(0)
        self.arrive()
        self.assertEqual(self.events, ["open"])
        self.no_timers()

    def test_start_failure_says_which_where_and_why(self) -> None:
        """A process that cannot be started says which, where, and why."""
        self.cannot = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        error = self.assertRaises(CannotStart, self.pool.start)
        self.assertEqual(str(error), "twistd cannot be started in /srv/old: No such file or directory")


class RestartTests(Workforce):
    """One is gone."""

    def setUp(self) -> None:
        """All accept."""
        super().setUp()
        self.first, self.second, self.third = self.open()
        self.lines()

    def test_dead_worker_is_replaced_and_covered_by_a_sibling(self) -> None:
        """Another one is started at once, and a sibling accepts meanwhile; when it accepts, that one lets go."""
        self.clock.advance(STEADY)
        self.first.end()
        self.assertEqual(self.events, ["open", f"lost {self.first.pid}"])
        self.assertEqual(self.second.told(), [("sockets", [1])])
        self.clock.advance(0)
        worker = self.next()
        self.assertEqual([one.key for one in worker.sockets], [1, 9])
        worker.says("ready", "accepts")
        self.assertEqual(self.second.told(), [("release", [1])])
        self.assertEqual([one.key for one in self.second.sockets], [2, 9])
        self.assertEqual(self.third.told(), [])
        self.assertEqual(self.pool.serving(), [worker, self.second, self.third])
        self.no_timers()

    def test_the_keeper_dies(self) -> None:
        """Then the next sibling accepts for both; and nobody twice for the same."""
        self.first.end()
        self.second.end()
        self.assertEqual(self.third.told(), [("sockets", [1]), ("sockets", [2])])
        self.clock.advance(0)
        one, two = self.coming()
        two.says("ready", "accepts")
        self.assertEqual(self.third.told(), [("release", [2])])
        self.assertEqual(two.told("sockets"), [])  # the first slot has its keeper
        one.says("ready", "accepts")
        self.assertEqual(self.third.told(), [("release", [1])])

    def test_all_die(self) -> None:
        """The first that accepts again does so for all."""
        for worker in (self.first, self.second, self.third):
            worker.end()
        self.clock.advance(0)
        one, _, three = self.coming()
        one.says("ready", "accepts")
        self.assertEqual(one.told("sockets"), [("sockets", [2]), ("sockets", [3])])
        three.says("ready", "accepts")
        self.assertEqual(one.told(), [("release", [3])])

    def test_least_is_asked(self) -> None:
        """Who accepts from more sockets already is asked last."""
        self.second.sockets.append(kept(7, 7, TCP))
        self.first.end()
        self.assertEqual((self.second.told(), self.third.told()), ([], [("sockets", [1])]))

    def test_pauses_grow(self) -> None:
        """One that dies again and again is started after longer and longer pauses; one that has served is not."""
        self.first.end()
        for pause in BACKOFF[1:4]:
            self.clock.advance(0)
            self.next().end(1)
            self.assertEqual(self.coming(), [])
            self.clock.advance(pause - 0.01)
            self.assertEqual(self.coming(), [])
            self.clock.advance(0.01)
        self.arrive()
        self.clock.advance(STEADY)
        self.slot(1).worker.end()  # type: ignore[union-attr]
        self.clock.advance(0)
        self.assertEqual(len(self.coming()), 1)

    def test_logs_a_death_in_one_line(self) -> None:
        """What has happened, who is left, and when there is another one, in a line."""
        self.clock.advance(STEADY)
        self.first.end()
        self.assertEqual(
            self.lines(),
            [
                f"worker 1, process {self.first.pid}, has ended: signal 9; 2 of 3 workers accept, another one starts"
                " now"
            ],
        )
        self.clock.advance(0)
        worker = self.next()
        worker.says("failed", why="wiki cannot be imported")
        worker.end(1)
        self.assertEqual(
            self.lines(),
            [
                f"worker 1, process {worker.pid}, cannot start: wiki cannot be imported; 2 of 3 workers accept,"
                " another one starts in 0.25 s"
            ],
        )

    def test_no_process(self) -> None:
        """Without room for a process, it is tried again."""
        self.cannot = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.first.end()
        self.clock.advance(0)
        self.assertEqual(self.coming(), [])
        self.cannot = None
        self.clock.advance(BACKOFF[1])
        self.arrive()
        self.no_timers()

    def test_told_to_stop(self) -> None:
        """One that somebody else tells to stop is let go, and replaced; its word is waited for."""
        self.first.says("closing")
        self.assertEqual(self.first.told(), [])  # the same signal may reach us, too
        self.clock.advance(SAME_SIGNAL)
        self.assertEqual(self.first.told(), [("close", {"pid": os.getpid(), "alone": []})])
        self.assertEqual(self.second.told(), [("sockets", [1])])
        self.clock.advance(0)
        worker = self.arrive()
        self.assertEqual(self.second.told(), [("release", [1])])
        self.assertEqual(self.pool.workers(), [worker, self.first, self.second, self.third])
        self.first.finish()
        self.assertEqual(self.pool.workers(), [worker, self.second, self.third])
        self.assertEqual(self.events, ["open"])
        self.no_timers()

    def test_told_to_stop_again_and_again(self) -> None:
        """An application that ends each worker as soon as it serves is not restarted as fast as it can."""
        self.first.says("closing")
        self.clock.advance(SAME_SIGNAL)
        self.clock.advance(0)
        self.arrive().says("closing")
        self.clock.advance(SAME_SIGNAL)
        self.assertEqual(self.coming(), [])
        self.clock.advance(BACKOFF[1])
        self.assertEqual(len(self.coming()), 1)

    def test_told_to_stop_while_replaced(self) -> None:
        """Then there is one on its way already."""
        self.pool.replace(self.slot(1))
        self.first.says("closing")
        self.clock.advance(SAME_SIGNAL)
        worker = self.arrive()
        self.assertEqual(self.first.told("succeeded"), [])
        self.assertEqual(self.pool.leaving, [self.first])
        self.assertIs(self.slot(1).worker, worker)

    def test_told_to_stop_while_coming(self) -> None:
        """One that never comes to accept is no worker that stops, but one that cannot start."""
        replaced = self.pool.replace(self.slot(1))
        worker = self.next()
        worker.says("ready", "closing")
        self.clock.advance(SAME_SIGNAL)
        self.assertEqual(worker.told("close"), [("close", {"pid": os.getpid(), "alone": []})])
        worker.finish()
        self.assertEqual(self.successResultOf(replaced), "exit status 0")
        self.assertIs(self.slot(1).worker, self.first)

    def test_worker_without_channel_is_replaced(self) -> None:
        """One that can be heard no more is replaced, since it stops; one that does not serve yet is killed."""
        self.first.channel.open = False
        self.first._on_close()
        self.clock.advance(1)
        self.clock.advance(SAME_SIGNAL)
        self.assertEqual(self.pool.leaving, [self.first])
        self.clock.advance(0)
        worker = self.next()
        worker._on_close()
        self.clock.advance(1)
        self.assertEqual(worker.signals, [signal.SIGKILL])
        worker.says("ready", "accepts")
        self.assertIs(self.slot(1).worker, None)

    def test_dies_while_it_drains(self) -> None:
        """What it had in flight is reported, too; one that has said its last word has lost nothing."""
        for last, lost in (({}, True), ({"finished": 1}, False)):
            self.pool.replace(self.slot(1))
            former = self.slot(1).worker
            assert isinstance(former, WorkerProcess)
            self.arrive()
            former.end(-9, **last)
            self.assertEqual(f"lost {former.pid}" in self.events, lost)

    def test_known_while_it_is_reported(self) -> None:
        """One that has died is still among the workers when others are told, who look up what is known of it."""
        seen: list[Any] = []
        self.patch(self, "worker_ended", lambda worker: seen.append(worker in self.pool.workers()))
        self.patch(self, "worker_lost", lambda worker: seen.append(worker in self.pool.workers()))
        self.first.end()
        self.assertEqual(seen, [True, True])

    def test_hopeless_if_all_slots_fail_and_none_serves(self) -> None:
        """The instance is hopeless once every slot has failed often enough and no worker serves; not before."""
        self.first.end()
        self.clock.advance(0)
        for _ in range(HOPELESS + 2):
            self.next().end(1)
            self.clock.advance(max(BACKOFF))
        self.second.end()
        self.third.end()
        self.slot(1).coming.end(1)  # type: ignore[union-attr]
        self.assertNotIn("no worker can be started", str(self.events))
        for _ in range(HOPELESS - 1):
            self.assertNotIn("no worker can be started", self.events[-1])
            self.clock.advance(max(BACKOFF))
            for worker in self.coming():
                worker.end(1)
        self.assertIn("no worker can be started", self.events[-1])
        self.assertNotIn("no worker can be started", self.events[-2])

    def test_not_hopeless_while_one_serves(self) -> None:
        """While one worker serves, the instance stays, however often all slots have failed."""
        for worker in (self.first, self.second, self.third):
            worker.end()
        for _ in range(HOPELESS - 2):
            self.clock.advance(max(BACKOFF))
            for worker in self.coming():
                worker.end(1)
        self.clock.advance(max(BACKOFF))
        one, two, three = self.coming()
        one.end(1)
        three.end(1)
        self.clock.advance(max(BACKOFF))
        self.slot(1).coming.says("ready", "accepts")  # type: ignore[union-attr]
        two.end(1)
        self.slot(3).coming.end(1)  # type: ignore[union-attr]
        self.assertTrue(all(slot.backoff.hopeless for slot in self.pool.slots))
        self.assertNotIn("no worker can be started", str(self.events))

    def test_new_worker_leaves_rotation_before_it_accepts(self) -> None:
        """One that comes while all are out of the rotation leaves it before it accepts, or is silent."""
        self.pool.away = True
        for answer in ({}, Silent("")):
            self.pool.replace(self.slot(1))
            worker = self.next()
            worker.says("ready")
            ((target, _, asked),) = worker.asked
            self.assertEqual((target, worker.told()), ("/leave", []))
            asked.callback(answer) if isinstance(answer, dict) else asked.errback(answer)
            self.assertEqual(worker.told(), ["accept"])
            worker.says("accepts")


class ReplaceTests(Workforce):
    """Another one is wanted."""

    def setUp(self) -> None:
        """All accept."""
        super().setUp()
        self.first, self.second, self.third = self.open()

    def test_former_worker_drains_when_new_one_accepts(self) -> None:
        """It comes, and the former one lets go of all its sockets and drains."""
        replaced = self.pool.replace(self.slot(1), NEW)
        self.assertTrue(self.pool.busy)
        self.assertNoResult(replaced)
        worker = self.arrive()
        self.assertIs(worker.release, NEW)
        self.assertEqual(self.first.told(), [("succeeded", {"pid": worker.pid, "handed": [1, 9], "alone": []})])
        self.assertEqual(self.first.state, "leaving")
        self.assertIs(self.successResultOf(replaced), None)
        self.assertFalse(self.pool.busy)
        self.no_timers()

    def test_former_worker_stays_if_new_one_fails(self) -> None:
        """It fails, and the former one goes on; nobody else is started."""
        replaced = self.pool.replace(self.slot(1), NEW)
        self.next().end(1)
        self.assertEqual(self.successResultOf(replaced), "exit status 1")
        self.assertEqual((self.first.told(), self.coming(), self.slot(1).worker), ([], [], self.first))
        self.no_timers()

    def test_no_process(self) -> None:
        """Likewise if it cannot even be started."""
        self.cannot = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        replaced = self.pool.replace(self.slot(1), NEW)
        self.assertEqual(self.successResultOf(replaced), "twistd cannot be started in /srv/new: Too many open files")
        self.assertEqual(self.slot(1).worker, self.first)
        self.no_timers()

    def test_late_worker_is_killed(self) -> None:
        """It is killed; and not taken for one that accepts, even if it says so with its last breath."""
        replaced = self.pool.replace(self.slot(1), NEW)
        worker = self.next()
        worker.says("ready")
        self.clock.advance(TIMEOUT)
        worker.says("accepts")
        self.assertEqual(self.first.told(), [])
        worker.end()
        self.assertEqual(self.successResultOf(replaced), "it has not accepted within 60 s")
        self.no_timers()

    def test_the_former_dies(self) -> None:
        """Then the one that comes accepts for nobody less; if it does not, another one is started."""
        replaced = self.pool.replace(self.slot(1), NEW)
        self.first.end()
        self.clock.advance(0)
        self.arrive()
        self.assertIs(self.successResultOf(replaced), None)
        replaced = self.pool.replace(self.slot(2), NEW)
        self.second.end()
        self.next().end(1)
        self.assertEqual(self.successResultOf(replaced), "exit status 1")
        self.clock.advance(0)
        self.arrive()
        self.assertEqual(len(self.pool.serving()), 3)
        self.no_timers()

    def test_restart_pending(self) -> None:
        """Whoever was to be started later is started now, as what is wanted."""
        self.first.end()
        replaced = self.pool.replace(self.slot(1), NEW)
        self.assertIs(self.next().release, NEW)
        self.arrive()
        self.assertIs(self.successResultOf(replaced), None)
        self.no_timers()

    def test_another_is_coming(self) -> None:
        """It is let come, or fail; then what is wanted is started."""
        for fails in (False, True):
            release = NEW if not fails else OLD
            slot = self.slot(1)
            assert isinstance(slot.worker, WorkerProcess)
            slot.worker.end()
            self.clock.advance(BACKOFF[1])
            replaced = self.pool.replace(slot, release)
            self.next().end(1) if fails else self.arrive()
            self.assertNoResult(replaced)
            self.assertIs(self.next().release, release)
            self.arrive()
            self.assertIs(self.successResultOf(replaced), None)
            self.no_timers()

    def test_second_replacement_answers_the_first_caller(self) -> None:
        """Who has waited first is told that there will be another one, and not left waiting."""
        first = self.pool.replace(self.slot(1))
        second = self.pool.replace(self.slot(1), NEW)
        self.assertEqual(self.successResultOf(first), "another replacement is wanted")
        self.arrive()
        self.assertIs(self.next().release, NEW)
        self.arrive()
        self.assertIs(self.successResultOf(second), None)

    def test_too_many_leave(self) -> None:
        """The oldest of a slot is told to hurry if one more leaves than may; other slots count for themselves."""
        for slot in self.pool.slots:
            for _ in range(2):
                self.pool.replace(slot)
                self.arrive()
        self.assertEqual([worker.asked for worker in self.pool.leaving], [[]] * 6)  # type: ignore[attr-defined]
        self.pool.replace(self.slot(2))
        self.arrive()
        self.assertEqual(self.second.orders(), ["/hurry"])
        self.assertEqual((self.first.orders(), self.third.orders()), ([], []))

    def test_keeper_is_replaced(self) -> None:
        """Who has accepted for others lets go of all; the new one, or a sibling, does so now."""
        self.third.end()
        self.assertEqual(self.first.told(), [("sockets", [3])])
        self.pool.replace(self.slot(1))
        worker = self.coming()[0]
        worker.says("ready", "accepts")
        self.assertEqual(self.first.told(), [("succeeded", {"pid": worker.pid, "handed": [1, 9, 3], "alone": []})])
        self.assertEqual((worker.told("sockets"), self.second.told()), ([("sockets", [3])], []))


class DeployAtOnceTests(Workforce):
    """SIGHUP has come while the instance was starting."""

    def test_opens_once_all_accept(self) -> None:
        """It is open when all accept, whatever is on its way in their stead."""
        workers = self.coming()
        replaced = self.pool.replace(self.slot(1), NEW)
        for worker in workers:
            worker.says("ready")
        self.pool.accept()
        for worker in workers:
            worker.says("accepts")
        self.assertEqual(self.events, ["open"])
        self.assertNoResult(replaced)
        self.assertIs(self.next().release, NEW)
        self.arrive()
        self.assertIs(self.successResultOf(replaced), None)


class FleetDrain:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def closing(self, worker: Any) -> None:
        self.told.append(("closing", worker))

    def closed(self, worker: Any) -> None:
        self.told.append(("closed", worker))

    def ended(self, worker: Any) -> None:
        self.told.append(("ended", worker))


class EndTests(Workforce):
    """Everybody leaves."""

    def setUp(self) -> None:
        """All accept."""
        super().setUp()
        self.fleet_drain = FleetDrain()

    def test_replaces_none_while_draining(self) -> None:
        """No worker is replaced in a drain: not one that ends, nor a pending one, nor by order."""
        first, second, _ = self.open()
        first.end()
        self.pool.leave_with(self.fleet_drain)
        second.end()
        self.clock.advance(max(BACKOFF))
        self.assertEqual(self.coming(), [])
        self.assertEqual(self.fleet_drain.told, [("ended", second)])
        self.assertEqual(self.successResultOf(self.pool.replace(self.slot(2), NEW)), STOPPING)
        self.no_timers()

    def test_starting_worker_ends_with_the_drain(self) -> None:
        """It is told to, then killed; whoever waits for it is told why it does not come."""
        self.open()
        replaced = self.pool.replace(self.slot(1))
        worker = self.next()
        self.pool.leave_with(self.fleet_drain)
        self.assertEqual(self.successResultOf(replaced), STOPPING)
        self.assertEqual(worker.signals, [signal.SIGTERM])
        worker.says("ready")
        self.assertEqual(worker.told(), [])
        self.clock.advance(ENDS_IN)
        self.assertEqual(worker.signals, [signal.SIGTERM, signal.SIGKILL])
        worker.end()
        self.no_timers()

    def test_who_comes_ends_in_time(self) -> None:
        """Then nobody is killed, and nothing is left to be done."""
        self.open()
        self.pool.replace(self.slot(1))
        worker = self.next()
        self.pool.leave_with(self.fleet_drain)
        worker.end(0)
        self.no_timers()

    def test_accepts_all_the_same(self) -> None:
        """One that was told to accept a moment before does; the former one is still there, and not forgotten."""
        first, second, third = self.open()
        self.pool.replace(self.slot(1))
        worker = self.next()
        worker.says("ready")
        self.pool.leave_with(self.fleet_drain)
        worker.says("accepts")
        self.assertEqual(self.pool.workers(), [worker, first, second, third])
        self.clock.advance(ENDS_IN)
        self.assertEqual(worker.signals, [signal.SIGTERM])
        first.finish()
        self.assertEqual(self.fleet_drain.told, [("ended", first)])
        self.assertEqual(self.pool.workers(), [worker, second, third])

    def test_before_they_accept(self) -> None:
        """Nobody is told to accept any more."""
        workers = self.coming()
        for worker in workers:
            worker.says("ready")
        self.pool.leave_with(self.fleet_drain)
        self.pool.accept()
        for worker in workers:
            self.assertEqual(worker.told(), [])
            worker.finish()
        self.no_timers()

    def test_out_of_the_rotation(self) -> None:
        """Nor is one that has left the rotation meanwhile."""
        self.open()
        self.pool.away = True
        self.pool.replace(self.slot(1))
        worker = self.next()
        worker.says("ready")
        self.pool.leave_with(self.fleet_drain)
        worker.asked[0][2].callback({})
        self.assertEqual(worker.told(), [])

    def test_events_go_to_the_drain(self) -> None:
        """What workers report during a drain goes to the drain."""
        first, second, third = self.open()
        self.pool.leave_with(self.fleet_drain)
        first.says("closing", "closed")
        second.end()
        self.assertEqual(self.fleet_drain.told, [("closing", first), ("closed", first), ("ended", second)])
        self.assertEqual((first.told(), third.told(), self.events), ([], [], ["open", f"lost {second.pid}"]))
