"""More workers and fewer, while they serve: every socket has a process that accepts, and no request is lost."""

from __future__ import annotations

import os
import signal

from graceful.process.orders import OrderRefused
from graceful.sockets.binding import BindError
from graceful.workers.rolling_restart import RollingRestart
from graceful.workers.worker_count import WorkerCount
from graceful.workers.worker_pool import REMOVED
from tests.fast.workers.workforce import NEW, OLD, TCP, Workforce, kept


class WorkerCountTests(Workforce):
    """Three workers serve; the number changes."""

    def setUp(self) -> None:
        """Have all workers accept."""
        super().setUp()
        self.first, self.second, self.third = self.open()
        self.why_not: str | None = None
        self.count = WorkerCount(self.pool, RollingRestart(self.pool, OLD, OLD, lambda: None), lambda: self.why_not)
        self.lines()

    def refusal(self, count: int) -> str:
        """Returns why a number is refused."""
        return str(self.assertRaises(OrderRefused, self.count.set, count))

    def test_a_removed_worker_drains_and_its_sockets_are_its_siblings(self) -> None:
        """The last worker drains; its siblings accept from its socket before, so that no connection is reset."""
        self.assertEqual(self.count.set(2), 3)
        everything = {"pid": os.getpid(), "handed": [3, 9], "alone": []}
        self.assertEqual(self.third.told(), [("succeeded", everything)])
        self.assertEqual((self.first.told(), self.second.told()), ([("sockets", [3])], [("sockets", [3])]))
        self.assertEqual(self.pool.leaving, [self.third])
        self.assertEqual(
            self.lines(),
            [f"worker 3, process {self.third.pid}, is one too many, and drains", "workers: 2 (were 3)"],
        )
        self.third.finish()
        self.assertEqual(self.pool.workers(), [self.first, self.second])
        self.assertEqual((self.lines(), self.coming()), ([], []))  # it is not replaced
        self.no_timers()

    def test_connections_of_a_removed_worker_move_to_a_sibling(self) -> None:
        """The connections of a removed worker move to a sibling."""
        for worker in (self.first, self.second, self.third):
            worker.moves = True
        self.count.set(2)
        self.assertIs(self.third.taker, self.first)
        self.assertEqual(self.first.told("take"), [("take", {"pid": self.third.pid})])

    def test_an_added_worker_is_covered_until_it_accepts(self) -> None:
        """A sibling accepts from the socket of an added worker until that accepts itself."""
        self.sockets.kept.append(kept(4, 4, TCP))
        self.assertEqual(self.count.set(4), 3)
        self.assertEqual(self.first.told(), [("sockets", [4])])
        worker = self.next()
        self.assertEqual([one.key for one in worker.sockets], [9, 4])
        worker.says("ready", "accepts")
        self.assertEqual(self.first.told(), [("release", [4])])
        self.assertEqual(self.pool.serving(), [self.first, self.second, self.third, worker])
        self.no_timers()

    def test_a_worker_that_comes_back_has_its_socket_for_itself(self) -> None:
        """A worker that is added after one was removed takes that one's socket, which all siblings let go of."""
        self.count.set(2)
        self.third.finish()
        self.first.told(), self.second.told()
        self.count.set(3)
        self.arrive()
        self.assertEqual((self.first.told(), self.second.told()), ([("release", [3])], [("release", [3])]))
        self.assertEqual([one.key for one in self.first.sockets], [1, 9])

    def test_a_worker_that_was_started_before_gets_the_sockets_that_are_left(self) -> None:
        """A worker that was being started while a sibling was removed accepts from that one's socket as well."""
        self.first.end()
        self.clock.advance(0)
        worker = self.next()
        self.count.set(2)
        worker.says("ready", "accepts")
        self.assertEqual(worker.told("sockets"), [("sockets", [3])])

    def test_added_workers_run_what_was_deployed_last(self) -> None:
        """An added worker runs the release of the last deploy."""
        self.count._rolling_restart.release = NEW
        self.count.set(4)
        self.assertIs(self.next().release, NEW)

    def test_a_removed_worker_that_was_being_started_is_ended(self) -> None:
        """A worker that does not accept yet is ended, and no other one follows it."""
        self.count.set(4)
        worker = self.next()
        self.count.set(3)
        self.assertEqual(worker.signals, [signal.SIGTERM])
        worker.end(-15)
        self.assertEqual(self.coming(), [])
        self.assertEqual(self.pool.slots[-1].number, 3)
        self.no_timers()

    def test_a_removed_worker_that_was_told_to_accept_drains(self) -> None:
        """A worker that accepts a moment after it was removed drains at once."""
        self.count.set(4)
        worker = self.next()
        worker.says("ready")
        self.count.set(3)
        worker.says("accepts")
        self.assertEqual([word for word, _ in worker.told("succeeded")], ["succeeded"])
        self.assertEqual(self.pool.serving(), [self.first, self.second, self.third])
        worker.finish()
        self.no_timers()

    def test_a_removed_slot_is_not_filled_again(self) -> None:
        """The pause before the next attempt in a slot ends with the slot."""
        self.third.end(1)
        self.count.set(2)
        self.clock.advance(60)
        self.assertEqual(self.coming(), [])
        self.assertEqual(self.first.told(), [("sockets", [3])])

    def test_a_replacement_in_a_removed_slot_is_answered(self) -> None:
        """The caller that waits for a replacement in a removed slot is told."""
        awaited = self.pool.replace(self.slot(3))
        self.count.set(2)
        self.assertEqual(self.successResultOf(awaited), REMOVED)

    def test_refuses_what_cannot_be(self) -> None:
        """No worker at all, a time that does not suit, and a rest that does not accept are refused in one line."""
        self.assertEqual(self.refusal(0), "one worker has to stay; workers: 3")
        self.why_not = "a deploy is under way"
        self.assertEqual(self.refusal(2), "a deploy is under way; workers: 3")
        self.why_not = None
        self.first.end()
        self.assertEqual(self.refusal(1), "none of the workers that would stay accepts yet; workers: 3")
        self.assertEqual(self.third.told("succeeded"), [])

    def test_says_how_many_there_are_if_one_has_no_socket(self) -> None:
        """If there is no socket for one of several, the refusal says how many there are now."""

        def fail() -> None:
            raise BindError("cannot listen")

        self.patch(self.pool, "add_slot", lambda release: fail())
        self.assertEqual(self.refusal(5), "cannot listen; workers: 3")

    def test_a_signal_changes_the_number_by_one(self) -> None:
        """The order of a signal changes the number by one; its refusal is logged."""
        self.count.change(-1)
        self.count.change(1)
        self.assertEqual(len(self.pool.slots), 3)
        self.lines()
        self.count.change(-3)
        self.assertEqual(self.lines(), ["no change of workers: one worker has to stay; workers: 3"])
