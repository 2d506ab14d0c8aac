"""The way out of all workers together: what is closed when, what is said of it, and how it ends."""

from __future__ import annotations

import os
import re
import signal
from typing import Any, cast

from graceful.control.client import Silent
from graceful.drain import DrainResult
from graceful.workers.fleet_drain import FleetDrain
from graceful.workers.worker_pool import SAME_SIGNAL
from tests.fast.workers.workforce import TCP, UNIX, WorkerProcess, Workforce, kept

SUCCESSOR = 4711


class Case(Workforce):
    """All accept, and may be told to stop."""

    def setUp(self) -> None:
        """Have a way out."""
        super().setUp()
        self.states: list[str] = []
        self.endings: list[DrainResult] = []
        self.fleet_drain = FleetDrain(self.clock, self.pool, self.sockets, self.states.append, self.endings.append)
        self.first, self.second, self.third = self.workers = self.open()
        self.lines()

    def held(self) -> list[int]:
        """The sockets that the supervisor holds."""
        return [one.key for one in self.sockets.kept if one.open]

    def closed(self) -> list[str]:
        """The addresses that were said to be closed since this was asked last."""
        said = [re.fullmatch(r"socket (.*) closed \(pid (\d+)\)", line) for line in self.lines()]
        self.assertLessEqual({found[2] for found in said if found}, {str(os.getpid())})
        return [found[1] for found in said if found]

    def may_close(self, worker: WorkerProcess) -> list[int]:
        """Have one ask; what it has alone."""
        worker.says("closing")
        ((word, values),) = worker.told("close")
        self.assertEqual((word, values["pid"]), ("close", 0))
        return cast(list[int], values["alone"])

    def over(self) -> DrainResult:
        """Check that it is over, and nothing is left; how it has ended."""
        self.no_timers()
        self.assertEqual((self.fleet_drain.state, self.held(), self.states.count("gone")), ("gone", [], 1))
        (ending,) = self.endings
        return ending


class StopTests(Case):
    """By order."""

    def test_address_closes_with_its_last_worker(self) -> None:
        """Side by side; an address is closed when the last has closed it, and said to be once."""
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

    def test_one_has_asked_before(self) -> None:
        """A signal to all has reached it first: it is answered when it has reached us, as if it had asked then."""
        self.first.says("closing")
        self.assertEqual(self.first.told("close"), [])
        self.fleet_drain.begin(False)
        self.assertEqual(self.first.told("close"), [("close", {"pid": 0, "alone": [1]})])
        self.assertEqual(self.states, ["lame-duck", "closing"])
        self.clock.advance(SAME_SIGNAL)
        self.assertEqual(self.first.told("close"), [])
        self.assertEqual(self.coming(), [])

    def test_one_has_asked_before_a_takeover(self) -> None:
        """Then it is answered; what the successor has dropped it closes with care, like everybody."""
        self.first.says("closing")
        dropped = self.sockets.kept[0]
        self.fleet_drain.succeeded([one.bound for one in self.sockets.kept if one is not dropped], SUCCESSOR)
        self.assertEqual(
            self.first.told(),
            [("succeeded", {"pid": SUCCESSOR, "handed": [9], "alone": [1]}), ("close", {"pid": 0, "alone": [1]})],
        )

    def test_one_has_asked_and_was_replaced(self) -> None:
        """It still waits for its answer, and would for ever."""
        self.first.says("closing")
        self.pool.replace(self.slot(1))
        self.arrive()
        self.first.told()
        self.fleet_drain.succeeded(self.sockets.open_sockets(), SUCCESSOR)
        self.assertEqual(self.first.told("close"), [("close", {"pid": 0, "alone": []})])

    def test_all_ask_at_once(self) -> None:
        """What is for all goes with the last who asks; who may still accept from it keeps it from being ended."""
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

    def test_others_hold_it(self) -> None:
        """What somebody outside holds, too, nobody has alone."""
        self.sockets.kept[0].bound = kept(1, 1, TCP, shared=True).bound
        self.fleet_drain.begin(False)
        self.assertEqual(self.may_close(self.first), [])
        self.assertEqual(self.held(), [2, 3, 9])

    def test_a_former_one_drains(self) -> None:
        """It has let go long ago, or is just about to: then its successor has nothing alone, and nothing is said."""
        self.pool.replace(self.slot(1))
        worker = self.arrive()
        self.fleet_drain.begin(False)
        self.assertEqual(self.first.orders(), [("/stop", {"quiet": False})])
        self.assertEqual(self.may_close(worker), [])
        self.first.says("closed")
        self.assertEqual(self.may_close(self.second), [2])
        for one in (worker, self.second, self.third):
            self.may_close(one)
            one.says("closed")
        self.assertEqual(self.closed(), [TCP, UNIX])

    def test_a_former_one_asks(self) -> None:
        """What its successor accepts from is not let go of for it."""
        self.pool.replace(self.slot(1))
        self.arrive()
        self.fleet_drain.begin(False)
        self.assertEqual((self.may_close(self.first), self.held()), ([], [1, 2, 3, 9]))

    def test_a_former_one_ends(self) -> None:
        """Then nothing is left behind, and nobody gets anything."""
        self.pool.replace(self.slot(1))
        self.arrive()
        self.fleet_drain.begin(False)
        self.first.finish()
        self.assertEqual([worker.told() for worker in (self.second, self.third)], [[], []])

    def test_queue_of_dead_worker_goes_to_one_that_accepts(self) -> None:
        """What is left in its queue is for one that still accepts, and not for one that closes already."""
        self.fleet_drain.begin(False)
        self.may_close(self.second)
        self.first.end()
        self.assertEqual(self.third.told(), [("sockets", [1])])
        self.assertEqual(self.second.told(), [])
        self.assertEqual(self.may_close(self.third), [3, 1])
        self.second.says("closed")
        self.third.says("closed")
        self.assertEqual(self.closed(), [TCP, UNIX])

    def test_dies_when_nobody_accepts(self) -> None:
        """Then nobody ever will: clients are not left waiting, until everybody is gone, in a queue."""
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

    def test_dies_after_the_answer(self) -> None:
        """One that cannot say any more that it has closed, has."""
        self.fleet_drain.begin(False)
        for worker in self.workers:
            self.may_close(worker)
        self.first.says("closed")
        self.second.says("closed")
        self.assertEqual(self.closed(), [])
        self.third.end()
        self.assertEqual(self.closed(), [TCP, UNIX])

    def test_all_die(self) -> None:
        """It is over, and everything said in its order."""
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

    def test_one_has_asked_and_is_gone(self) -> None:
        """It is over once, though there is somebody to be answered."""
        self.first.says("closing")
        for worker in self.workers:
            worker.end()
        self.fleet_drain.begin(True)
        self.assertEqual((self.states.count("gone"), len(self.endings)), (1, 1))

    def test_keeper_accepts_until_it_closes(self) -> None:
        """Who has accepted for others goes on until it closes."""
        self.first.end()
        self.second.told()
        self.fleet_drain.begin(False)
        self.assertEqual([worker.told() for worker in (self.second, self.third)], [[], []])
        self.assertEqual(self.may_close(self.second), [2, 1])

    def test_waits_for_worker_told_to_accept(self) -> None:
        """One that was told to accept a moment before keeps it from being over, and addresses from closed."""
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
        """One that is not ready accepts from nothing, and cannot be asked."""
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
        """What is new in a second order is passed on; nothing else happens."""
        self.fleet_drain.begin(False)
        self.fleet_drain.begin(True, 3.0)
        self.assertEqual(
            self.first.orders(), [("/stop", {"quiet": False}), ("/stop", {"quiet": True, "deadline": 3.0})]
        )
        self.assertEqual(self.states, ["lame-duck"])

    def test_hurry(self) -> None:
        """From wherever it is."""
        self.fleet_drain.hurry()
        self.assertEqual(self.first.orders(), [("/stop", {"quiet": True}), "/hurry"])
        self.fleet_drain.hurry()
        self.assertEqual(self.first.orders(), ["/hurry"])
        self.assertEqual(self.states, ["lame-duck"])

    def test_silent_worker_gets_a_signal(self) -> None:
        """One that does not answer gets a signal, which reaches it as soon as it can be reached at all."""
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

    def test_silent_while_coming(self) -> None:
        """One that does not accept has got its signal; another one might kill it."""
        self.pool.replace(self.slot(1))
        worker = self.next()
        worker.says("ready")
        self.fleet_drain.hurry()
        for _, _, answer in worker.asked:
            answer.errback(Silent("the worker has not answered"))
        self.assertEqual(worker.signals, [signal.SIGTERM])

    def test_kill(self) -> None:
        """Whoever is left."""
        self.fleet_drain.begin(False)
        self.first.end()
        self.fleet_drain.kill()
        self.assertEqual([worker.signals for worker in self.workers], [[], [signal.SIGKILL], [signal.SIGKILL]])


class StatusTests(Case):
    """The worst of them."""

    def ended(self, *how: dict[str, Any]) -> DrainResult:
        """Have them end."""
        self.fleet_drain.begin(False)
        for worker, one in zip(self.workers, how, strict=True):
            worker.finish(**one)
        return self.over()

    def test_abandoned_is_worse_than_taken_down(self) -> None:
        """Abandoned is worse than taken down, by what they say."""
        ending = self.ended({"finished": 2}, {"taken_down": 1}, {"abandoned": 1})
        self.assertEqual((ending.exit_status, ending.abandoned), (71, 1))

    def test_taken_down(self) -> None:
        """Likewise."""
        ending = self.ended({"finished": 2}, {"taken_down": 1}, {"taken_down": 2})
        self.assertEqual((ending.exit_status, ending.finished, ending.taken_down), (70, 2, 3))

    def test_by_status(self) -> None:
        """By how its process has ended, also if it has said something better before."""
        self.assertEqual(self.ended({}, {"status": 71}, {"status": 70}).exit_status, 71)

    def test_unknown_status(self) -> None:
        """Anything else that is not well is no better than taken down."""
        self.assertEqual(self.ended({}, {"status": 1}, {}).exit_status, 70)

    def test_killed_worker_counts_its_last_in_flight(self) -> None:
        """What it had in flight when it was last asked is taken down."""
        self.fleet_drain.begin(False)
        self.first.picture = {"in_flight_count": 2}
        self.first.end()
        self.second.picture = {"in_flight_count": 5}
        self.second.finish(5)
        self.third.finish(1)
        ending = self.over()
        self.assertEqual((ending.exit_status, ending.finished, ending.taken_down), (70, 6, 2))

    def test_killed_by_itself(self) -> None:
        """One that has ended well without a word, and had nothing to lose, has lost nothing."""
        self.fleet_drain.begin(False)
        self.first.end(0)
        self.second.finish()
        self.third.finish()
        self.assertEqual(self.over().exit_status, 0)

    def test_collects_reports_of_all(self) -> None:
        """The reports of all workers are in the result."""
        self.fleet_drain.begin(False)
        for worker in self.workers:
            worker.end(70, taken_down=1, reports=[f"report-{worker.number}"])
        self.assertEqual(self.over().reports, ("report-1", "report-2", "report-3"))


class SuccessionTests(Case):
    """Another instance accepts."""

    def handed(self, *keys: int) -> None:
        """Hand over."""
        self.fleet_drain.succeeded([one.bound for one in self.sockets.kept if one.key in keys], SUCCESSOR)

    def test_all_let_go_of_all_sockets(self) -> None:
        """All let go of everything, and it is closed when they have."""
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

    def test_dropped(self) -> None:
        """What the successor does not want is closed with care, by all who have it."""
        self.handed(1)
        told = [worker.told()[0][1] for worker in self.workers]
        self.assertEqual([one["handed"] for one in told], [[1], [], []])
        self.assertEqual([one["alone"] for one in told], [[], [2], [3]])
        for worker in self.workers:
            self.assertEqual(self.closed(), [])
            worker.says("closed")
        self.assertEqual(self.closed(), [TCP, UNIX])

    def test_while_lame_duck(self) -> None:
        """A successor may come when it is stopping already, as long as it accepts."""
        self.fleet_drain.begin(False)
        self.handed(1, 2, 3, 9)
        self.assertEqual(self.states, ["lame-duck", "closing"])
        for worker in self.workers:
            worker.says("closed")
        self.assertEqual(self.states, ["lame-duck", "closing", "finishing"])

    def test_worker_about_to_accept_is_told_of_successor(self) -> None:
        """It is told, too, should it be about to accept; and if it is not, it ends like any other that comes."""
        self.pool.replace(self.slot(1))
        worker = self.next()
        self.handed(1, 2, 3, 9)
        self.assertEqual(worker.told("succeeded")[0][1]["handed"], [1, 9])
        self.clock.advance(2)
        self.assertEqual(worker.signals, [signal.SIGTERM, signal.SIGKILL])

    def test_sockets_of_dead_worker_stay_with_successor(self) -> None:
        """What it had is the successor's: no worker here gets it."""
        self.handed(1, 2, 3, 9)
        for worker in self.workers:
            worker.told()
        self.first.end()
        self.assertEqual([worker.told() for worker in (self.second, self.third)], [[], []])
