"""The pool keeps a worker in every slot, whatever happens in whatever order."""

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
    """The first start of all workers."""

    def test_all_accept_once_told(self) -> None:
        """Ready workers accept when they are told to; `all_accept` is told when all of them do."""
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

    def test_a_worker_that_is_ready_later_is_told_to_accept(self) -> None:
        """A worker that becomes ready after the others is told to accept then."""
        worker = self.coming()[0]
        self.pool.accept()
        self.assertEqual(worker.told(), [])
        worker.says("ready")
        self.assertEqual(worker.told(), ["accept"])

    def test_a_worker_that_does_not_accept_in_time_is_killed(self) -> None:
        """A worker that does not accept in its time is killed, and another one is started."""
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
        """The error of a process that cannot be started says which, where, and why."""
        self.cannot = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        error = self.assertRaises(CannotStart, self.pool.start)
        self.assertEqual(str(error), "twistd cannot be started in /srv/old: No such file or directory")


class RestartTests(Workforce):
    """A worker ends."""

    def setUp(self) -> None:
        """Have all workers accept."""
        super().setUp()
        self.first, self.second, self.third = self.open()
        self.lines()

    def test_dead_worker_is_replaced_and_covered_by_a_sibling(self) -> None:
        """Another worker is started at once; until it accepts, a sibling accepts for its slot."""
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

    def test_if_the_keeper_dies_the_next_sibling_accepts_for_both(self) -> None:
        """If the keeper of a slot dies, the next sibling accepts for both slots, and no slot has two keepers."""
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

    def test_the_first_worker_that_accepts_does_so_for_all_slots(self) -> None:
        """If all workers die, the first new one that accepts does so for all empty slots."""
        for worker in (self.first, self.second, self.third):
            worker.end()
        self.clock.advance(0)
        one, _, three = self.coming()
        one.says("ready", "accepts")
        self.assertEqual(one.told("sockets"), [("sockets", [2]), ("sockets", [3])])
        three.says("ready", "accepts")
        self.assertEqual(one.told(), [("release", [3])])

    def test_the_sibling_with_the_fewest_sockets_is_the_keeper(self) -> None:
        """The sibling that accepts from the fewest sockets becomes the keeper."""
        self.second.sockets.append(kept(7, 7, TCP))
        self.first.end()
        self.assertEqual((self.second.told(), self.third.told()), ([], [("sockets", [1])]))

    def test_pauses_grow_for_a_worker_that_dies_again_and_again(self) -> None:
        """The pauses before a restart grow for a worker that dies again and again, and begin again once it served."""
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
        """One line of the log says what happened, how many workers are left, and when another one starts."""
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

    def test_a_start_is_tried_again_if_no_process_can_be_had(self) -> None:
        """If no process can be started, the pool tries again after a pause."""
        self.cannot = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.first.end()
        self.clock.advance(0)
        self.assertEqual(self.coming(), [])
        self.cannot = None
        self.clock.advance(BACKOFF[1])
        self.arrive()
        self.no_timers()

    def test_a_worker_that_another_process_stops_is_replaced(self) -> None:
        """A worker that another process has told to stop may close, and is replaced; its last word still counts."""
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

    def test_workers_that_stop_as_soon_as_they_serve_restart_after_pauses(self) -> None:
        """An application that stops each worker as soon as it serves is restarted after growing pauses."""
        self.first.says("closing")
        self.clock.advance(SAME_SIGNAL)
        self.clock.advance(0)
        self.arrive().says("closing")
        self.clock.advance(SAME_SIGNAL)
        self.assertEqual(self.coming(), [])
        self.clock.advance(BACKOFF[1])
        self.assertEqual(len(self.coming()), 1)

    def test_a_worker_that_stops_while_it_is_replaced_needs_no_other(self) -> None:
        """If a worker stops while its replacement is coming, no other worker is started."""
        self.pool.replace(self.slot(1))
        self.first.says("closing")
        self.clock.advance(SAME_SIGNAL)
        worker = self.arrive()
        self.assertEqual(self.first.told("succeeded"), [])
        self.assertEqual(self.pool.leaving, [self.first])
        self.assertIs(self.slot(1).worker, worker)

    def test_a_worker_that_stops_before_it_accepts_cannot_start(self) -> None:
        """A worker that stops before it accepts counts as one that cannot start."""
        replaced = self.pool.replace(self.slot(1))
        worker = self.next()
        worker.says("ready", "closing")
        self.clock.advance(SAME_SIGNAL)
        self.assertEqual(worker.told("close"), [("close", {"pid": os.getpid(), "alone": []})])
        worker.finish()
        self.assertEqual(self.successResultOf(replaced), "exit status 0")
        self.assertIs(self.slot(1).worker, self.first)

    def test_worker_without_channel_is_replaced(self) -> None:
        """A worker that serves and whose channel is closed is replaced; one that does not serve yet is killed."""
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

    def test_a_worker_that_dies_in_its_drain_is_reported(self) -> None:
        """The exchanges of a worker that dies in its drain are reported, unless it has sent its last word."""
        for last, lost in (({}, True), ({"finished": 1}, False)):
            self.pool.replace(self.slot(1))
            former = self.slot(1).worker
            assert isinstance(former, WorkerProcess)
            self.arrive()
            former.end(-9, **last)
            self.assertEqual(f"lost {former.pid}" in self.events, lost)

    def test_a_dead_worker_is_still_listed_while_its_end_is_reported(self) -> None:
        """A worker that has died is still in the list while its end is reported, so that it can be looked up."""
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
        """While all are out of the rotation, a new worker leaves it before it accepts, or has not answered."""
        self.pool.leave_rotation()
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
    """A worker is replaced by order."""

    def setUp(self) -> None:
        """Have all workers accept."""
        super().setUp()
        self.first, self.second, self.third = self.open()

    def test_former_worker_drains_when_new_one_accepts(self) -> None:
        """When the new worker accepts, the former one releases all its sockets and drains."""
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
        """If the new worker fails, the former one serves on, and no other is started."""
        replaced = self.pool.replace(self.slot(1), NEW)
        self.next().end(1)
        self.assertEqual(self.successResultOf(replaced), "exit status 1")
        self.assertEqual((self.first.told(), self.coming(), self.slot(1).worker), ([], [], self.first))
        self.no_timers()

    def test_the_former_worker_stays_if_no_process_can_be_had(self) -> None:
        """If no process can be started, the former worker serves on."""
        self.cannot = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        replaced = self.pool.replace(self.slot(1), NEW)
        self.assertEqual(self.successResultOf(replaced), "twistd cannot be started in /srv/new: Too many open files")
        self.assertEqual(self.slot(1).worker, self.first)
        self.no_timers()

    def test_late_worker_is_killed(self) -> None:
        """A new worker that is too late is killed, and cannot accept any more."""
        replaced = self.pool.replace(self.slot(1), NEW)
        worker = self.next()
        worker.says("ready")
        self.clock.advance(TIMEOUT)
        worker.says("accepts")
        self.assertEqual(self.first.told(), [])
        worker.end()
        self.assertEqual(self.successResultOf(replaced), "it has not accepted within 60 s")
        self.no_timers()

    def test_a_replacement_goes_on_if_the_former_worker_dies(self) -> None:
        """If the former worker dies, the coming one takes its slot; if that fails, another one is started."""
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

    def test_a_pending_restart_becomes_the_replacement(self) -> None:
        """A worker that was to be started after a pause is started at once, in the release that is wanted."""
        self.first.end()
        replaced = self.pool.replace(self.slot(1), NEW)
        self.assertIs(self.next().release, NEW)
        self.arrive()
        self.assertIs(self.successResultOf(replaced), None)
        self.no_timers()

    def test_a_replacement_waits_for_the_worker_that_is_coming(self) -> None:
        """If a worker is coming already, it accepts or fails first; then the one that is wanted is started."""
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
        """A second order tells the caller of the first that another replacement is wanted."""
        first = self.pool.replace(self.slot(1))
        second = self.pool.replace(self.slot(1), NEW)
        self.assertEqual(self.successResultOf(first), "another replacement is wanted")
        self.arrive()
        self.assertIs(self.next().release, NEW)
        self.arrive()
        self.assertIs(self.successResultOf(second), None)

    def test_the_oldest_of_too_many_leaving_workers_is_hurried(self) -> None:
        """If too many workers of a slot drain, the oldest is hurried; each slot counts by itself."""
        for slot in self.pool.slots:
            for _ in range(2):
                self.pool.replace(slot)
                self.arrive()
        self.assertEqual([worker.asked for worker in self.pool.leaving], [[]] * 6)  # type: ignore[attr-defined]
        self.pool.replace(self.slot(2))
        self.arrive()
        self.assertEqual(self.second.orders(), ["/hurry"])
        self.assertEqual((self.first.orders(), self.third.orders()), ([], []))

    def test_a_replaced_keeper_releases_all_its_sockets(self) -> None:
        """A keeper that is replaced releases all its sockets; the new worker or a sibling becomes the keeper."""
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
        """The instance is open when all workers accept, even if replacements are coming."""
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
    """Records what the drain is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def closing(self, worker: Any) -> None:
        self.told.append(("closing", worker))

    def closed(self, worker: Any) -> None:
        self.told.append(("closed", worker))

    def ended(self, worker: Any) -> None:
        self.told.append(("ended", worker))


class EndTests(Workforce):
    """The drain of all workers."""

    def setUp(self) -> None:
        """Make what records the drain."""
        super().setUp()
        self.fleet_drain = FleetDrain()

    def test_replaces_none_while_draining(self) -> None:
        """No worker is started in a drain: not for one that ends, nor after a pause, nor by order."""
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
        """A worker that is coming gets SIGTERM, then SIGKILL; the caller that waits for it is told why."""
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

    def test_a_coming_worker_that_ends_in_time_is_not_killed(self) -> None:
        """A coming worker that ends in time is not killed."""
        self.open()
        self.pool.replace(self.slot(1))
        worker = self.next()
        self.pool.leave_with(self.fleet_drain)
        worker.end(0)
        self.no_timers()

    def test_a_worker_that_was_told_to_accept_still_does_in_a_drain(self) -> None:
        """A worker that was told to accept just before the drain does, and the former one stays listed."""
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

    def test_no_worker_is_told_to_accept_in_a_drain(self) -> None:
        """No worker is told to accept once the drain has begun."""
        workers = self.coming()
        for worker in workers:
            worker.says("ready")
        self.pool.leave_with(self.fleet_drain)
        self.pool.accept()
        for worker in workers:
            self.assertEqual(worker.told(), [])
            worker.finish()
        self.no_timers()

    def test_a_worker_that_has_left_the_rotation_does_not_accept_in_a_drain(self) -> None:
        """A worker that has just left the rotation is not told to accept once the drain has begun."""
        self.open()
        self.pool.leave_rotation()
        self.pool.replace(self.slot(1))
        worker = self.next()
        worker.says("ready")
        self.pool.leave_with(self.fleet_drain)
        worker.asked[0][2].callback({})
        self.assertEqual(worker.told(), [])

    def test_events_go_to_the_drain(self) -> None:
        """The events of workers go to the drain once it has begun."""
        first, second, third = self.open()
        self.pool.leave_with(self.fleet_drain)
        first.says("closing", "closed")
        second.end()
        self.assertEqual(self.fleet_drain.told, [("closing", first), ("closed", first), ("ended", second)])
        self.assertEqual((first.told(), third.told(), self.events), ([], [], ["open", f"lost {second.pid}"]))
