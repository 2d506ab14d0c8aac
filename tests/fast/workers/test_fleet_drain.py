"""The drain of all workers: when sockets are closed, what the log says, and with which status it ends."""

from __future__ import annotations

import os
import re
import signal
from typing import Any, cast

from graceful.control.client import Silent
from graceful.drain.result import DrainResult
from graceful.workers.fleet_drain import FleetDrain
from graceful.workers.worker_pool import SAME_SIGNAL
from tests.fast.workers.workforce import TCP, UNIX, WorkerProcess, Workforce, kept

SUCCESSOR = 4711


class Case(Workforce):
    """Three workers that accept, and the drain of all of them."""

    def setUp(self) -> None:
        """Make the drain."""
        super().setUp()
        self.states: list[str] = []
        self.endings: list[DrainResult] = []
        self.fleet_drain = FleetDrain(self.clock, self.pool, self.sockets, self.states.append, self.endings.append)
        self.first, self.second, self.third = self.workers = self.open()
        self.lines()

    def held(self) -> list[int]:
        """Returns the keys of the sockets that the supervisor holds."""
        return [one.key for one in self.sockets.kept if one.open]

    def closed(self) -> list[str]:
        """Returns the addresses that the log called closed since the last call."""
        said = [re.fullmatch(r"socket (.*) closed \(pid (\d+)\)", line) for line in self.lines()]
        self.assertLessEqual({found[2] for found in said if found}, {str(os.getpid())})
        return [found[1] for found in said if found]

    def may_close(self, worker: WorkerProcess) -> list[int]:
        """Have a worker ask whether it may close.  Returns the sockets that no other process holds."""
        worker.says("closing")
        ((word, values),) = worker.told("close")
        self.assertEqual((word, values["pid"]), ("close", 0))
        return cast(list[int], values["alone"])

    def over(self) -> DrainResult:
        """Check that the drain is over and nothing is left.  Returns its result."""
        self.no_timers()
        self.assertEqual((self.fleet_drain.state, self.held(), self.states.count("gone")), ("gone", [], 1))
        (ending,) = self.endings
        return ending


class StopTests(Case):
    """A drain that an order begins."""

    def test_address_closes_with_its_last_worker(self) -> None:
        """An address is closed when its last worker has closed it, and the log says so once."""
        self.fleet_drain.begin(False)
        self.assertEqual([worker.orders() for worker in self.workers], [[("/stop", {"quiet": False})]] * 3)
        self.assertEqual((self.states, self.held()), (["lame-duck"], [1, 2, 3, 9]))
        self.assertEqual(self.may_close(self.first), [1])
        self.assertEqual((self.states, self.held()), (["lame-duck", "closing"], [2, 3, 9]))
        self.first.says("closed")
        self.assertEqual(self.may_close(self.second), [2])
        self.second.says("closed")
        self.assertEqual(self.may_close(self.third), [3, 9])
        self.assertEqual((self.held(), self.closed()), ([], []))
        self.third.says("closed")
        self.assertEqual(self.closed(), [TCP, UNIX])
        self.assertEqual(self.states, ["lame-duck", "closing", "finishing"])
        self.clock.advance(7)
        for worker, finished in zip(self.workers, (1, 2, 3), strict=True):
            self.assertEqual(self.endings, [])
            worker.finish(finished)
        self.assertEqual(self.lines(), ["drained in 7.0 s: 6 finished, 0 taken down, 0 abandoned"])
        self.assertEqual(self.over(), DrainResult(0, 7.0, 6, 0, 0, ()))

    def test_a_worker_that_asked_before_the_drain_is_answered(self) -> None:
        """A worker that the signal reached before the supervisor is answered when the drain begins."""
        self.first.says("closing")
        self.assertEqual(self.first.told("close"), [])
        self.fleet_drain.begin(False)
        self.assertEqual(self.first.told("close"), [("close", {"pid": 0, "alone": [1]})])
        self.assertEqual(self.states, ["lame-duck", "closing"])
        self.clock.advance(SAME_SIGNAL)
        self.assertEqual(self.first.told("close"), [])
        self.assertEqual(self.coming(), [])

    def test_a_worker_that_asked_before_a_takeover_is_answered(self) -> None:
        """A worker that asked before a takeover is answered, and closes with care what the successor dropped."""
        self.first.says("closing")
        dropped = self.sockets.kept[0]
        self.fleet_drain.succeeded([one.bound for one in self.sockets.kept if one is not dropped], SUCCESSOR)
        self.assertEqual(
            self.first.told(),
            [("succeeded", {"pid": SUCCESSOR, "handed": [9], "alone": [1]}), ("close", {"pid": 0, "alone": [1]})],
        )

    def test_a_replaced_worker_that_asked_is_answered(self) -> None:
        """A worker that asked, and was replaced since, gets its answer."""
        self.first.says("closing")
        self.pool.replace(self.slot(1))
        self.arrive()
        self.first.told()
        self.fleet_drain.succeeded(self.sockets.open_sockets(), SUCCESSOR)
        self.assertEqual(self.first.told("close"), [("close", {"pid": 0, "alone": []})])

    def test_the_last_worker_that_asks_gets_the_shared_socket(self) -> None:
        """The last worker that asks gets the shared socket alone; each of the others keeps its address open."""
        self.fleet_drain.begin(False)
        self.assertEqual(self.may_close(self.first), [1])
        self.assertEqual(self.may_close(self.second), [2])
        self.assertEqual(self.held(), [3, 9])
        self.assertEqual(self.may_close(self.third), [3])
        self.assertEqual(self.held(), [])
        for worker in self.workers:
            self.assertEqual(self.closed(), [])
            worker.says("closed")
        self.assertEqual(self.closed(), [TCP, UNIX])

    def test_a_socket_that_another_process_holds_is_no_workers_alone(self) -> None:
        """A socket that another process holds, too, is not given to a worker alone."""
        self.sockets.kept[0].bound = kept(1, 1, TCP, shared=True).bound
        self.fleet_drain.begin(False)
        self.assertEqual(self.may_close(self.first), [])
        self.assertEqual(self.held(), [2, 3, 9])

    def test_a_former_worker_that_drains_keeps_its_slots_socket_shared(self) -> None:
        """While a former worker drains, its successor in the slot does not hold the socket alone."""
        self.pool.replace(self.slot(1))
        worker = self.begin_to_accept()
        self.fleet_drain.begin(False)
        self.assertEqual(self.first.orders(), [("/stop", {"quiet": False})])
        self.assertEqual(self.may_close(worker), [])
        self.first.says("closed")
        self.assertEqual(self.may_close(self.second), [2])
        for one in (worker, self.second, self.third):
            self.may_close(one)
            one.says("closed")
        self.assertEqual(self.closed(), [TCP, UNIX])

    def test_a_former_worker_that_asks_does_not_close_its_successors_socket(self) -> None:
        """A former worker that asks does not take the socket from which its successor accepts."""
        self.pool.replace(self.slot(1))
        self.arrive()
        self.fleet_drain.begin(False)
        self.assertEqual((self.may_close(self.first), self.held()), ([], [1, 2, 3, 9]))

    def test_the_sockets_of_a_former_worker_go_to_no_sibling(self) -> None:
        """When a former worker ends, no sibling gets its sockets, since its successor has them."""
        self.pool.replace(self.slot(1))
        self.arrive()
        self.fleet_drain.begin(False)
        self.first.finish()
        self.assertEqual([worker.told() for worker in (self.second, self.third)], [[], []])

    def test_queue_of_dead_worker_goes_to_one_that_accepts(self) -> None:
        """The queue of a worker that has died goes to one that still accepts, not to one that closes."""
        self.fleet_drain.begin(False)
        self.may_close(self.second)
        self.first.end()
        self.assertEqual(self.third.told(), [("sockets", [1])])
        self.assertEqual(self.second.told(), [])
        self.assertEqual(self.may_close(self.third), [3, 1])
        self.second.says("closed")
        self.third.says("closed")
        self.assertEqual(self.closed(), [TCP, UNIX])

    def test_a_dead_workers_socket_is_closed_if_no_worker_accepts(self) -> None:
        """If a worker dies when no other accepts, its socket is closed: clients must not wait in its queue."""
        self.fleet_drain.begin(False)
        self.may_close(self.second)
        self.may_close(self.third)
        self.first.end()
        self.assertEqual(self.held(), [])
        self.assertEqual(self.closed(), [])
        self.second.says("closed")
        self.assertEqual(self.closed(), [])
        self.third.says("closed")
        self.assertEqual(self.closed(), [TCP, UNIX])

    def test_a_worker_that_dies_after_the_answer_counts_as_closed(self) -> None:
        """A worker that dies after it was told to close has closed its sockets."""
        self.fleet_drain.begin(False)
        for worker in self.workers:
            self.may_close(worker)
        self.first.says("closed")
        self.second.says("closed")
        self.assertEqual(self.closed(), [])
        self.third.end()
        self.assertEqual(self.closed(), [TCP, UNIX])

    def test_the_drain_ends_if_all_workers_die(self) -> None:
        """If all workers die, the drain passes through all its states and ends."""
        self.fleet_drain.begin(False)
        for worker in self.workers:
            worker.end()
        self.assertEqual(self.states, ["lame-duck", "closing", "finishing", "gone"])
        self.assertEqual(self.closed(), [TCP, UNIX])
        self.assertEqual(self.over().exit_status, 70)

    def test_drains_without_workers(self) -> None:
        """A drain without any worker ends at once."""
        for worker in self.workers:
            worker.end()
        self.lines()
        self.fleet_drain.begin(True)
        self.assertEqual(self.states, ["lame-duck", "closing", "finishing", "gone"])
        self.assertEqual(self.closed(), [TCP, UNIX])
        self.assertEqual(self.over().exit_status, 0)  # what was lost was lost before

    def test_a_drain_ends_once_although_a_dead_worker_had_asked(self) -> None:
        """The drain ends only once, although a worker that is gone had asked."""
        self.first.says("closing")
        for worker in self.workers:
            worker.end()
        self.fleet_drain.begin(True)
        self.assertEqual((self.states.count("gone"), len(self.endings)), (1, 1))

    def test_keeper_accepts_until_it_closes(self) -> None:
        """A worker that accepts for an empty slot goes on with that until it closes."""
        self.first.end()
        self.second.told()
        self.fleet_drain.begin(False)
        self.assertEqual([worker.told() for worker in (self.second, self.third)], [[], []])
        self.assertEqual(self.may_close(self.second), [2, 1])

    def test_waits_for_worker_told_to_accept(self) -> None:
        """The drain waits for a worker that was told to accept just before it began."""
        self.pool.replace(self.slot(1))
        worker = self.next()
        worker.says("ready")
        self.fleet_drain.begin(False)
        worker.says("accepts")
        for one in self.workers:
            self.may_close(one)
            one.says("closed")
            one.finish()
        self.assertEqual((self.closed(), self.endings), ([], []))
        self.may_close(worker)
        worker.says("closed")
        self.assertEqual(self.closed(), [TCP, UNIX])
        worker.finish()
        self.over()

    def test_starting_worker_is_not_asked(self) -> None:
        """A worker that is not ready is not asked, since it accepts from no socket."""
        self.pool.replace(self.slot(1))
        worker = self.next()
        self.fleet_drain.begin(False)
        self.assertEqual(worker.orders(), [])
        for one in self.workers:
            self.may_close(one)
            one.says("closed")
            one.finish()
        self.assertEqual(self.closed(), [TCP, UNIX])
        self.assertEqual(self.endings, [])
        worker.end(-15)
        self.assertEqual(self.over().exit_status, 0)

    def test_second_order_passes_on_what_is_new(self) -> None:
        """A second order passes on to the workers what is new, and does nothing else."""
        self.fleet_drain.begin(False)
        self.fleet_drain.begin(True, 3.0)
        self.assertEqual(
            self.first.orders(), [("/stop", {"quiet": False}), ("/stop", {"quiet": True, "deadline": 3.0})]
        )
        self.assertEqual(self.states, ["lame-duck"])

    def test_hurry_is_passed_on_in_any_state(self) -> None:
        """`hurry` begins a drain, or hurries the one that runs."""
        self.fleet_drain.hurry()
        self.assertEqual(self.first.orders(), [("/stop", {"quiet": True}), "/hurry"])
        self.fleet_drain.hurry()
        self.assertEqual(self.first.orders(), ["/hurry"])
        self.assertEqual(self.states, ["lame-duck"])

    def test_silent_worker_gets_a_signal(self) -> None:
        """A worker that does not answer gets a signal, which it obeys as soon as it can; a dead one gets none."""
        self.fleet_drain.begin(False)
        self.fleet_drain.hurry()
        for _, _, answer in self.first.asked:
            answer.errback(Silent("the worker has not answered"))
        self.assertEqual(self.first.signals, [signal.SIGTERM, signal.SIGQUIT])
        self.second.end()
        self.lines()
        for _, _, answer in self.second.asked:
            answer.errback(Silent("the worker has not answered"))
        self.assertEqual((self.second.signals, self.lines()), ([], []))

    def test_a_silent_worker_that_does_not_accept_gets_no_second_signal(self) -> None:
        """A worker that does not accept yet gets SIGTERM only: a second signal might kill it."""
        self.pool.replace(self.slot(1))
        worker = self.next()
        worker.says("ready")
        self.fleet_drain.hurry()
        for _, _, answer in worker.asked:
            answer.errback(Silent("the worker has not answered"))
        self.assertEqual(worker.signals, [signal.SIGTERM])

    def test_kill_kills_the_workers_that_are_left(self) -> None:
        """`kill` sends SIGKILL to each worker that has not ended."""
        self.fleet_drain.begin(False)
        self.first.end()
        self.fleet_drain.kill()
        self.assertEqual([worker.signals for worker in self.workers], [[], [signal.SIGKILL], [signal.SIGKILL]])
        for worker in (self.second, self.third):
            worker.end(-signal.SIGKILL)
        self.assertEqual(self.over().exit_status, 71)


class StatusTests(Case):
    """The exit status: the worst one of the workers."""

    def ended(self, *how: dict[str, Any]) -> DrainResult:
        """Have each worker end in a given way.  Returns the result."""
        self.fleet_drain.begin(False)
        for worker, one in zip(self.workers, how, strict=True):
            worker.finish(**one)
        return self.over()

    def test_abandoned_is_worse_than_taken_down(self) -> None:
        """A worker that abandoned a thread decides the exit status, not one that took an exchange down."""
        ending = self.ended({"finished": 2}, {"taken_down": 1}, {"abandoned": 1})
        self.assertEqual((ending.exit_status, ending.abandoned), (71, 1))

    def test_taken_down_is_worse_than_finished(self) -> None:
        """A worker that took exchanges down decides the exit status; the numbers are sums."""
        ending = self.ended({"finished": 2}, {"taken_down": 1}, {"taken_down": 2})
        self.assertEqual((ending.exit_status, ending.finished, ending.taken_down), (70, 2, 3))

    def test_the_status_of_a_process_counts_even_if_its_word_is_better(self) -> None:
        """The exit status of a worker's process counts, even if its last word was better."""
        self.assertEqual(self.ended({}, {"status": 71}, {"status": 70}).exit_status, 71)

    def test_an_unknown_exit_status_counts_as_taken_down(self) -> None:
        """Any other exit status than 0 counts as taken down."""
        self.assertEqual(self.ended({}, {"status": 1}, {}).exit_status, 70)

    def test_killed_worker_counts_its_last_in_flight(self) -> None:
        """The exchanges that a killed worker had in flight when it was last asked count as taken down."""
        self.fleet_drain.begin(False)
        self.first.picture = {"in_flight_count": 2}
        self.first.end()
        self.second.picture = {"in_flight_count": 5}
        self.second.finish(5)
        self.third.finish(1)
        ending = self.over()
        self.assertEqual((ending.exit_status, ending.finished, ending.taken_down), (70, 6, 2))

    def test_a_worker_that_ends_well_without_a_word_has_lost_nothing(self) -> None:
        """A worker that ends with 0, without a last word and with nothing in flight, has lost nothing."""
        self.fleet_drain.begin(False)
        self.first.end(0)
        self.second.finish()
        self.third.finish()
        self.assertEqual(self.over().exit_status, 0)

    def test_collects_reports_of_all(self) -> None:
        """The result has the reports of all workers."""
        self.fleet_drain.begin(False)
        for worker in self.workers:
            worker.end(70, taken_down=1, reports=[f"report-{worker.number}"])
        self.assertEqual(self.over().reports, ("report-1", "report-2", "report-3"))


class SuccessionTests(Case):
    """A drain because a successor accepts."""

    def handed(self, *keys: int) -> None:
        """Hand sockets over to the successor, by their keys."""
        self.fleet_drain.succeeded([one.bound for one in self.sockets.kept if one.key in keys], SUCCESSOR)

    def test_all_let_go_of_all_sockets(self) -> None:
        """All workers release all sockets, and an address is closed when the last one has."""
        self.handed(1, 2, 3, 9)
        self.assertEqual(
            self.lines(), [f"socket {TCP} handed to {SUCCESSOR}", f"socket {UNIX} handed to {SUCCESSOR}"]
        )
        for worker in self.workers:
            self.assertEqual(
                worker.told(), [("succeeded", {"pid": SUCCESSOR, "handed": [worker.number, 9], "alone": []})]
            )
        self.assertEqual((self.held(), self.states), ([], ["closing"]))
        for worker in self.workers:
            self.assertEqual(self.closed(), [])
            worker.says("closed")
        self.assertEqual(self.closed(), [TCP, UNIX])
        self.assertEqual(self.states, ["closing", "finishing"])
        for worker in self.workers:
            worker.finish()
        self.assertEqual(self.over().exit_status, 0)

    def test_sockets_that_the_successor_drops_are_closed_with_care(self) -> None:
        """A socket that the successor does not want is closed with care by each worker that holds it."""
        self.handed(1)
        told = [worker.told()[0][1] for worker in self.workers]
        self.assertEqual([one["handed"] for one in told], [[1], [], []])
        self.assertEqual([one["alone"] for one in told], [[], [2], [3]])
        for worker in self.workers:
            self.assertEqual(self.closed(), [])
            worker.says("closed")
        self.assertEqual(self.closed(), [TCP, UNIX])

    def test_a_successor_may_come_to_a_lame_duck(self) -> None:
        """A successor may come during the lame duck, while the workers still accept."""
        self.fleet_drain.begin(False)
        self.handed(1, 2, 3, 9)
        self.assertEqual(self.states, ["lame-duck", "closing"])
        for worker in self.workers:
            worker.says("closed")
        self.assertEqual(self.states, ["lame-duck", "closing", "finishing"])

    def test_worker_about_to_accept_is_told_of_successor(self) -> None:
        """A worker that is being started is told of the successor, too; if it does not accept, it is ended."""
        self.pool.replace(self.slot(1))
        worker = self.next()
        self.handed(1, 2, 3, 9)
        self.assertEqual(worker.told("succeeded")[0][1]["handed"], [1, 9])
        self.clock.advance(2)
        self.assertEqual(worker.signals, [signal.SIGTERM, signal.SIGKILL])

    def test_sockets_of_dead_worker_stay_with_successor(self) -> None:
        """The sockets of a worker that dies belong to the successor: no sibling gets them."""
        self.handed(1, 2, 3, 9)
        for worker in self.workers:
            worker.told()
        self.first.end()
        self.assertEqual([worker.told() for worker in (self.second, self.third)], [[], []])
