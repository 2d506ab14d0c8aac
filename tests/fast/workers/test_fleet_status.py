"""The status of all workers: no worker delays it, and none of its counters ever goes down."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from graceful.config.settings import Settings
from graceful.control import api
from graceful.control.api import ControlApi
from graceful.control.client import Silent
from graceful.control.counters import BOUNDS, CLASSES
from graceful.control.events import Events
from graceful.control.health import Health
from graceful.control.metrics import Metrics
from graceful.control.totals import Totals
from graceful.drain.result import DrainResult
from graceful.drain.state import State
from graceful.server.server_status import ServerStatus
from graceful.web.exchange import PHASES
from graceful.workers.aggregate import sockets
from graceful.workers.fleet_status import FleetStatus
from graceful.workers.status_poller import EVERY, EVERY_IN_DRAIN, LISTED, SAID_IN, StatusPoller
from graceful.workers.worker_client import WorkerClient
from tests.fast.doubles import Client, Engine
from tests.fast.workers.test_worker_client import answer

ADDRESS = "tcp:0.0.0.0:8080"


def rows(count: int) -> list[list[float]]:
    """Returns the counters of `count` exchanges that ended with 2xx, at once."""
    found: list[list[float]] = [[0] * (len(BOUNDS) + 1) + [0.0] for _ in CLASSES]
    found[2][0], found[2][-1] = count, count * 0.5
    return found


def exchange(number: int, age: float, **more: Any) -> dict[str, Any]:
    """Returns an exchange in flight, as a worker tells it."""
    return {"id": number, "method": "GET", "path": f"/{number}", "age": age, **more}


def picture(*in_flight: dict[str, Any], finished: int = 0, **more: Any) -> dict[str, Any]:
    """Returns the status of a worker."""
    told = ServerStatus(Settings()).snapshot(0) | {
        "state": "serving",
        "sockets": [{"name": ADDRESS, "state": "open"}],
        "in_flight": list(in_flight),
        "in_flight_count": len(in_flight),
        "threads": {"busy": 1, "size": 20, "queued": 2},
        "connections": {"idle": 3, "busy": 1},
        "moved": {"in": 2, "out": 1},
        "finished": finished,
        "ended": [],
        "tally": {
            "backlog": [[ADDRESS, 7, 2]],
            "phases": dict.fromkeys(PHASES, 0) | {"in the application": len(in_flight)},
            "queue_oldest": 0.25,
            "abandoned": 0,
            "downloaded": finished * 100,
            "ended": rows(finished),
        },
    }
    return told | more


class WorkerProcess:
    """A worker whose answers the test makes; the supervisor asks it as it asks a real one."""

    def __init__(self, clock: Clock, number: int, pid: int, state: str = "serving") -> None:
        self.number, self.pid, self.state = number, pid, state
        self.transport = StringTransport()
        ours, theirs = socket.socketpair()
        theirs.close()
        adopt = SimpleNamespace(
            adoptStreamConnection=lambda descriptor, family, factory: factory.buildProtocol(None).makeConnection(
                self.transport
            )
        )
        self.asking = WorkerClient(adopt, clock, ours, f"worker {pid}")
        self.ask = self.asking.ask

    def asked(self) -> list[str]:
        """Returns what the worker was asked since the last call."""
        data = self.transport.value().decode()
        self.transport.clear()
        return [line.removesuffix(" HTTP/1.1") for line in data.split("\r\n") if line.endswith("HTTP/1.1")]

    def says(self, value: Any, status: int = 200) -> None:
        """Have the worker answer."""
        self.asking.dataReceived(answer(value, status))

    def vanishes(self, said: bytes = b"") -> None:
        """Have the worker send some bytes, and close its connection."""
        if said:
            self.asking.dataReceived(said)
        self.asking.connectionLost(Failure(ConnectionDone()))


class FleetCase(SynchronousTestCase):
    """Two workers, and a supervisor that serves."""

    def setUp(self) -> None:
        """Make the workers and their status."""
        self.clock = Clock()
        self.first, self.second = WorkerProcess(self.clock, 1, 4711), WorkerProcess(self.clock, 2, 4712)
        self.workers = [self.first, self.second]
        self.poller = StatusPoller(cast(Any, SimpleNamespace(workers=lambda: self.workers)), self.clock)
        self.status = FleetStatus(Settings(), poller=self.poller, memory=lambda pid: pid * 1000)
        self.status.health = Health("/+haproxy")
        self.status.enter(State.SERVING)

    def receive(self, *pictures: dict[str, Any]) -> None:
        """Have both workers tell their status."""
        for worker, said in zip(self.workers, pictures, strict=True):
            self.poller.update(cast(Any, worker), said)


class TogetherTests(FleetCase):
    """The statuses of all workers, put together."""

    def test_the_same_keys(self) -> None:
        """The status has all the keys of a single process's, in their order, so that any program can read it."""
        for heard in (False, True):
            if heard:
                self.receive(picture(), picture())
            keys = [*ServerStatus(Settings()).snapshot(), "workers", "fork_servers"]
            self.assertEqual(list(self.status.snapshot()), keys)
        self.status.enter(State.GONE)
        self.status.ending = DrainResult(70, 1.5, 3, 1, 0, ("OOPS-1",))
        alone = ServerStatus(Settings())
        alone.ending = self.status.ending
        self.assertEqual(self.status.last_word(), alone.last_word())

    def test_the_counts_of_all_workers_are_added_up(self) -> None:
        """Counts are the sums over all workers."""
        self.receive(
            picture(exchange(1, 3.0), finished=10, taken_down=1),
            picture(exchange(1, 5.0), exchange(2, 1.0), finished=5),
        )
        told = self.status.snapshot()
        self.assertEqual((told["in_flight_count"], told["finished"], told["taken_down"]), (3, 15, 1))
        self.assertEqual(told["threads"], {"busy": 2, "size": 40, "queued": 4})
        self.assertEqual(told["connections"], {"idle": 6, "busy": 2})
        self.assertEqual(told["moved"], {"in": 4, "out": 2})
        self.assertEqual(told["sockets"], [{"name": ADDRESS, "state": "open"}])
        self.assertEqual((told["state"], told["rotation"], told["drain"]), ("serving", "in", None))
        numbers = self.status._with_counters(0)["tally"]
        self.assertEqual((numbers["downloaded"], numbers["queue_oldest"]), (1500, 0.25))
        self.assertEqual(numbers["backlog"], [[ADDRESS, 7, 2]] * 2)
        self.assertEqual((numbers["ended"], numbers["phases"]["in the application"]), (rows(15), 3))

    def test_exchanges_are_listed_oldest_first_with_their_worker(self) -> None:
        """Exchanges of all workers are listed oldest first, each with an id of its own and its worker."""
        self.receive(picture(exchange(1, 3.0), exchange(2, 2.0)), picture(exchange(1, 5.0)))
        told = self.status.snapshot()
        self.assertEqual([one["id"] for one in told["in_flight"]], ["4712-1", "4711-1", "4711-2"])
        self.assertEqual([one["worker"] for one in told["in_flight"]], [4712, 4711, 4711])
        self.assertEqual([one["id"] for one in self.status.snapshot(1)["in_flight"]], ["4712-1"])
        self.assertEqual(self.status.snapshot(0)["in_flight_count"], 3)

    def test_each_worker_has_a_row(self) -> None:
        """Each worker has a row, also one whose status is not known yet."""
        self.workers.append(WorkerProcess(self.clock, 3, 4713, "starting"))
        self.poller.update(cast(Any, self.first), picture(exchange(1, 3.0), finished=7))
        first, second, third = self.status.snapshot()["workers"]
        self.assertEqual(
            (first["number"], first["pid"], first["state"], first["memory"]), (1, 4711, "serving", 4711000)
        )
        self.assertEqual((first["in_flight_count"], first["finished"], first["threads"]["busy"]), (1, 7, 1))
        self.assertEqual((second["state"], second["in_flight_count"], second["threads"]), ("serving", None, None))
        self.assertEqual((third["number"], third["state"]), (3, "starting"))
        self.status.memory = lambda pid: None
        self.assertIsNone(self.status.snapshot()["workers"][0]["memory"])

    def test_socket_is_open_if_any_worker_accepts(self) -> None:
        """A socket is open if any worker accepts there; it is closed, and stays listed, when none does."""
        for states, expected in (
            (("open", "closed"), "open"),
            (("closed", "paused"), "paused"),
            (("new",), "closed"),
        ):
            told = [picture(sockets=[{"name": ADDRESS, "state": state}]) for state in states]
            self.assertEqual(sockets(told, []), {ADDRESS: expected})
        self.receive(picture(), picture(sockets=[]))
        self.assertEqual(self.status.snapshot()["sockets"], [{"name": ADDRESS, "state": "open"}])
        self.status.enter(State.FINISHING)  # the workers have not told that yet
        self.assertEqual(self.status.snapshot()["sockets"], [{"name": ADDRESS, "state": "closed"}])
        self.workers.clear()
        self.assertEqual(self.status.snapshot()["sockets"], [{"name": ADDRESS, "state": "closed"}])

    def test_the_last_deadline_counts_and_its_time_passes(self) -> None:
        """The last deadline counts, and its time passes between two statuses; before a drain there is none."""
        drain = {"began": 1.0, "finished": 0}
        self.assertEqual(self.status.latest_exit, 212)
        self.receive(picture(latest_exit=100.0), picture(latest_exit=50.0, deadline=40.0, drain=drain))
        self.clock.advance(3)
        self.assertEqual((self.status.latest_exit, self.status.deadline), (100.0, None))
        self.status.enter(State.FINISHING)
        self.assertEqual(self.status.deadline, 37.0)
        self.receive(picture(latest_exit=30.0, deadline=20.0, drain=drain), picture(latest_exit=25.0, drain=drain))
        self.clock.advance(1)
        told = self.status.snapshot()
        self.assertEqual((told["deadline"], told["latest_exit"]), (19.0, 29.0))
        self.status.exit_time = SimpleNamespace(latest_exit=lambda: self.status.at_most + 7.0)
        self.assertEqual(self.status.snapshot()["latest_exit"], 36.0)
        self.workers.clear()
        # A signal handler reads this as well, which must not change anything for the code that it interrupts.
        self.assertEqual(self.status.at_most, 29.0)
        self.assertEqual(self.poller.carried, Totals())
        self.status.snapshot()
        self.assertEqual((self.status.deadline, self.status.at_most), (None, 0.0))

    def test_the_time_of_a_silent_worker_passes_in_a_drain(self) -> None:
        """In a drain the time of a worker passes that sends no status, such as one that is stopped."""
        self.receive(picture(latest_exit=20.0), picture(latest_exit=15.0))
        self.clock.advance(5)
        self.status.enter(State.CLOSING)
        self.assertEqual(self.status.at_most, 20.0)
        self.clock.advance(4)
        self.assertEqual(self.status.at_most, 16.0)
        self.receive(picture(latest_exit=20.0), picture(latest_exit=15.0))  # the workers have not got the order yet
        self.assertEqual(self.status.at_most, 20.0)
        self.clock.advance(21)
        self.assertEqual(self.status.at_most, 0.0)


class CountersTests(FleetCase):
    """Counters never go down."""

    def counters(self) -> tuple[int, ...]:
        """Returns all numbers that Prometheus takes for counters."""
        told = self.status._with_counters(0)
        tally = told["tally"]
        return (
            told["finished"],
            told["taken_down"],
            tally["abandoned"],
            tally["downloaded"],
            sum(tally["ended"][2][:-1]),
        )

    def test_the_counts_of_an_ended_worker_stay(self) -> None:
        """The counts of a worker that has ended stay, and those of its replacement are added."""
        self.receive(picture(finished=10), picture(finished=20, taken_down=2))
        before = self.counters()
        self.assertEqual(before, (30, 2, 0, 3000, 30))
        self.workers[1] = WorkerProcess(self.clock, 2, 4800)
        self.assertEqual(self.counters(), before)
        self.receive(picture(finished=11), picture(finished=1))
        self.assertEqual(self.counters(), (32, 2, 0, 3200, 32))
        self.assertEqual(len(self.status.snapshot()["workers"]), 2)

    def test_a_last_word_counts_and_later_answers_do_not(self) -> None:
        """A worker's last word counts; an answer that comes after its end changes nothing."""
        self.receive(picture(finished=10), picture(finished=20))
        asked = self.status.fresh_snapshot()
        last = picture(finished=25, taken_down=3)
        last["tally"]["abandoned"] = 1
        self.poller.update(cast(Any, self.second), last)
        self.workers.remove(self.second)
        self.assertEqual(self.counters(), (35, 3, 1, 3500, 35))
        self.second.says(picture(finished=25, taken_down=3))
        self.first.says(picture(finished=10))
        self.assertEqual(self.successResultOf(asked)["finished"], 35)
        self.assertEqual(self.counters(), (35, 3, 1, 3500, 35))

    def test_what_the_drain_has_finished(self) -> None:
        """A drain counts only what finished since it began, also in workers that have ended since."""
        self.receive(picture(finished=10), picture(finished=20, drain={"began": 1.0, "finished": 9}))
        self.workers.remove(self.second)  # replaced, before
        self.status.enter(State.LAME_DUCK)
        self.assertEqual(self.status.snapshot()["drain"]["finished"], 0)
        self.poller.update(cast(Any, self.first), picture(finished=12, drain={"began": 2.0, "finished": 2}))
        self.assertEqual(self.status.snapshot()["drain"]["finished"], 2)
        self.workers.clear()
        self.assertEqual((self.status.snapshot()["drain"]["finished"], self.status.snapshot()["finished"]), (2, 32))

    def test_a_worker_of_another_version_is_not_miscounted(self) -> None:
        """Values that a worker does not tell, or tells in another shape, are not counted, and nothing fails."""
        self.receive(picture(finished=10), picture(finished=20, tally={"ended": [[1, 2], [3]], "phases": {"new": 1}}))
        told = self.status._with_counters(0)
        self.assertEqual((told["finished"], told["tally"]["ended"]), (30, rows(10)))
        self.assertEqual(told["tally"]["phases"]["new"], 1)
        bare = {"in_flight": [], "in_flight_count": 0}
        self.assertEqual(Totals().plus([bare]), Totals())
        self.receive(bare, bare)
        self.assertEqual(self.status.snapshot()["threads"], {"busy": 0, "size": 0, "queued": 0})


class AskingAllTests(FleetCase):
    """A fresh status, and the regular polls."""

    def test_a_fresh_status_is_there_when_all_have_answered(self) -> None:
        """A fresh status is there as soon as all workers have answered."""
        asked = self.status.fresh_snapshot(5)
        self.assertEqual((self.first.asked(), self.second.asked()), ([f"GET /tally?limit={LISTED}"],) * 2)
        self.first.says(picture(finished=1))
        self.assertNoResult(asked)
        self.second.says(picture(finished=2))
        self.assertEqual(self.successResultOf(asked)["finished"], 3)
        self.status.fresh_snapshot()
        self.assertEqual(self.first.asked(), ["GET /tally"])

    def test_a_silent_worker_is_waited_for_two_seconds(self) -> None:
        """A worker that is stuck is waited for two seconds, and shown with its last status until it answers."""
        self.receive(picture(finished=10), picture(exchange(4, 1.0), finished=20))
        asked = self.status.fresh_snapshot()
        self.first.says(picture(finished=11))
        self.clock.advance(SAID_IN - 0.1)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        told = self.successResultOf(asked)
        self.assertEqual((told["finished"], told["in_flight"][0]["id"]), (31, "4712-4"))
        self.assertEqual([worker["state"] for worker in told["workers"]], ["serving", "silent"])
        self.assertEqual(told["workers"][1]["in_flight_count"], 1)
        self.assertEqual([self.poller.silent_for(worker) for worker in (self.first, self.second)], [0, SAID_IN])
        again = self.status.fresh_snapshot()
        self.assertNoResult(again)
        self.first.says(picture(finished=12))
        self.assertEqual(self.successResultOf(again)["finished"], 32)
        self.poller.start()
        self.first.says(picture(finished=12))
        self.second.says(picture())  # the answer to a question that was given up
        self.assertEqual(self.status.snapshot()["workers"][1]["state"], "silent")
        self.second.says(picture(finished=21))
        self.assertEqual(self.status.snapshot()["workers"][1]["state"], "serving")
        again = self.status.fresh_snapshot()
        self.first.says(picture(finished=12))
        self.assertNoResult(again)

    def test_a_worker_that_ends_in_mid_answer_delays_nothing(self) -> None:
        """A worker that ends in the middle of its answer delays nothing; its last status still counts."""
        self.receive(picture(finished=10), picture(finished=20))
        asked = self.status.fresh_snapshot()
        self.first.says(picture(finished=11))
        self.second.vanishes(answer(picture())[:-20])
        told = self.successResultOf(asked)
        self.assertEqual((told["finished"], told["workers"][1]["state"]), (31, "silent"))

    def test_an_older_worker_is_asked_for_its_status(self) -> None:
        """A worker without `/tally` is asked for its status; one that answers nonsense is silent."""
        asked = self.status.fresh_snapshot()
        self.first.says({"error": "there is no /tally here"}, 404)
        self.assertEqual(self.first.asked(), ["GET /tally", "GET /status"])
        self.first.says({key: value for key, value in picture(finished=3).items() if key not in ("tally", "ended")})
        self.second.says(["what?"])
        told = self.successResultOf(asked)
        self.assertEqual((told["finished"], told["workers"][1]["state"]), (3, "silent"))
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        self.assertIsNone(self.status._with_counters(0)["tally"]["ended"])

    def test_a_starting_worker_is_not_asked(self) -> None:
        """A worker that imports its application is neither asked nor waited for."""
        self.second.state = "starting"
        asked = self.status.fresh_snapshot()
        self.first.says(picture())
        self.assertEqual(
            [worker["state"] for worker in self.successResultOf(asked)["workers"]], ["serving", "starting"]
        )
        self.assertEqual(self.second.asked(), [])
        self.workers.clear()
        self.assertEqual(self.successResultOf(self.status.fresh_snapshot())["workers"], [])

    def test_polls_each_second_but_never_twice_at_once(self) -> None:
        """Each worker is polled once a second, more often in a drain, but never while it owes an answer."""
        heard: list[int] = []
        update = StatusPoller.update

        def note(poller: StatusPoller, worker: Any, said: Any) -> None:
            heard.append(worker.pid)
            update(poller, worker, said)

        self.patch(StatusPoller, "update", note)
        self.poller.start()
        self.assertEqual((self.first.asked(), self.second.asked()), ([f"GET /tally?limit={LISTED}"],) * 2)
        self.first.says(picture(exchange(1, 2.0)))
        self.clock.advance(EVERY)
        self.assertEqual((len(self.first.asked()), len(self.second.asked())), (1, 0))
        self.assertEqual(len(self.second.asking._waiting), 0)
        self.assertEqual(heard, [4711])
        self.assertEqual((self.poller.last(cast(Any, self.first)) or {})["in_flight"][0]["id"], "4711-1")
        self.assertIsNone(self.poller.last(cast(Any, self.second)))
        self.first.says(picture())
        self.status.enter(State.LAME_DUCK)
        self.clock.advance(0)
        self.first.says(picture())
        self.clock.advance(EVERY_IN_DRAIN)
        self.assertEqual(len(self.first.asked()), 2)
        self.poller.stop()
        self.clock.advance(10)
        self.assertEqual((self.first.asked(), self.clock.getDelayedCalls()), ([], []))

    def test_exchanges_that_end_in_a_drain_are_listed_once(self) -> None:
        """Exchanges that end in a drain are listed once, newest first; those that ended before are not."""
        ended = [{"id": number, "path": f"/{number}"} for number in (3, 2, 1)]
        self.receive(picture(ended=ended[2:]), picture())
        self.assertEqual(list(self.status.recently_ended()), [])
        self.status.enter(State.LAME_DUCK)
        self.receive(picture(ended=ended[1:]), picture(ended=ended[1:2]))
        self.receive(picture(ended=ended), picture(ended=ended[1:2]))
        self.assertEqual([one["id"] for one in self.status.recently_ended()], ["4711-3", "4712-2", "4711-2"])


class ExchangesTests(FleetCase):
    """Exchanges by their ids, and with their stacks."""

    def test_all_exchanges_are_listed_with_their_stacks(self) -> None:
        """All workers are asked for their exchanges; those of a silent one are listed without a stack."""
        self.receive(picture(), picture(exchange(9, 9.0)))
        asked = self.status.exchanges(2)
        self.assertEqual(self.first.asked(), ["GET /exchanges?limit=2"])
        self.first.says([exchange(1, 3.0, stack="here"), exchange(2, 2.0, stack="there")])
        self.clock.advance(SAID_IN)
        told = [(one["id"], one["stack"]) for one in self.successResultOf(asked)]
        self.assertEqual(told, [("4712-9", None), ("4711-1", "here")])
        self.poller.start()
        self.first.says(picture())
        self.clock.advance(SAID_IN)  # by now it is known to be silent
        asked = self.status.exchanges()
        self.first.asking.dataReceived(answer(picture()))
        self.first.says([])
        self.assertEqual([one["id"] for one in self.successResultOf(asked)], ["4712-9"])

    def test_an_exchange_is_asked_of_its_worker(self) -> None:
        """An exchange is asked of the worker that its id names."""
        asked = self.status.exchange("4712-17")
        assert isinstance(asked, Deferred)
        self.assertEqual((self.first.asked(), self.second.asked()), ([], ["GET /exchanges/17"]))
        self.second.says(exchange(17, 1.0, stack="here"))
        shown = self.successResultOf(asked)
        self.assertEqual((shown["id"], shown["stack"]), ("4712-17", "here"))
        asked = self.status.exchange("4712-18")
        assert isinstance(asked, Deferred)
        self.second.says({"error": "no exchange 18 is in flight"}, 404)
        self.assertIsNone(self.successResultOf(asked))

    def test_an_id_that_names_no_worker_has_no_exchange(self) -> None:
        """There is no exchange for an id that is malformed or names no worker."""
        for which in ("17", "4713-17", "4712-", "4712-x", "-17", "4712-1-7", "", "4712-²", "4712-1/takedown"):
            self.assertIsNone(self.status.exchange(which), which)
            self.assertEqual(self.status.take_down(which), [], which)
        self.assertEqual((self.first.asked(), self.second.asked()), ([], []))

    def test_a_takedown_is_passed_to_the_worker(self) -> None:
        """A takedown goes to the exchange's worker, and the ids that it returns name the worker."""
        taken = self.status.take_down("4711-17")
        assert isinstance(taken, Deferred)
        self.assertEqual((self.first.asked(), self.second.asked()), (["POST /exchanges/17/takedown"], []))
        self.first.says({"taken_down": [17, 18]})
        self.assertEqual(self.successResultOf(taken), ["4711-17", "4711-18"])
        taken = self.status.take_down("4711-17")
        assert isinstance(taken, Deferred)
        self.first.says({"error": "no exchange 17 is in flight"}, 404)
        self.assertEqual(self.successResultOf(taken), [])
        taken = self.status.take_down("4711-17")
        assert isinstance(taken, Deferred)
        self.clock.advance(5)
        self.failureResultOf(taken, Silent)


class ControlTests(FleetCase):
    """A supervisor's control, which answers when its workers have."""

    def setUp(self) -> None:
        """Make the control, and an object that obeys its orders."""
        super().setUp()
        self.patch(api, "said_by", lambda connection: "a test")
        self.engine = Engine(self)
        self.events = Events(self.status)
        self.metrics = Metrics(self.status)
        self.control = ControlApi(self.status, self.events, self.metrics)
        self.left: Deferred[None] = Deferred()
        orders = SimpleNamespace(
            take_down=self.status.take_down,
            leave=lambda: self.left,
            stop=lambda quiet, deadline: self.left,
        )
        self.control.obey(cast(Any, orders))
        self.engine.serve(self.control)

    def ask(self, target: str, method: str = "GET", body: bytes = b"") -> Client:
        """Send a request; its answer may still be to come."""
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        return self.engine.connect().send(head.encode() + body)

    def said(self, client: Client) -> tuple[int, Any]:
        """Returns the status and the JSON of an answer."""
        head, _, body = client.take().decode().partition("\r\n\r\n")
        return int(head.split()[1]), json.loads(body)

    def test_a_status_is_sent_when_all_workers_have_answered(self) -> None:
        """A status is sent when all workers have answered, also to a client that has half-closed."""
        client = self.ask("/status?limit=1")
        client.finish()
        self.assertEqual(client.take(), b"")
        self.first.says(picture(exchange(1, 1.0)))
        self.second.says(picture(exchange(1, 2.0)))
        code, told = self.said(client)
        self.assertEqual((code, told["in_flight_count"], told["in_flight"][0]["id"]), (200, 2, "4712-1"))

    def test_a_client_that_has_left_gets_no_answer(self) -> None:
        """A client that has left gets no answer, and the next client gets its own."""
        told: list[Any] = []
        patched = self.patch(self.control, "_json", lambda *said: told.append(said))
        self.ask("/status").close()
        self.first.says(picture())
        self.second.says(picture())
        self.assertEqual((told, self.engine.open), ([], 0))
        patched.restore()
        other = self.ask("/exchanges/4711-3")
        self.first.says(exchange(3, 1.0))
        self.assertEqual(self.said(other)[1]["id"], "4711-3")

    def test_exchanges_are_served_as_a_list_and_by_id(self) -> None:
        """Exchanges are served as a list and by id; an id that is not in flight is a 404."""
        client = self.ask("/exchanges")
        self.first.says([exchange(1, 1.0)])
        self.second.says([])
        self.assertEqual(self.said(client)[1][0]["id"], "4711-1")
        self.assertEqual(
            self.said(self.ask("/exchanges/4799-3")), (404, {"error": "no exchange 4799-3 is in flight"})
        )
        client = self.ask("/exchanges/4711-3")
        self.first.says({"error": "no exchange 3 is in flight"}, 404)
        self.assertEqual(self.said(client), (404, {"error": "no exchange 4711-3 is in flight"}))

    def test_a_takedown_is_answered_when_the_worker_has_obeyed(self) -> None:
        """A takedown is answered when the worker has obeyed, or with the reason why it has not."""
        client = self.ask("/exchanges/4712-17/takedown", "POST")
        self.assertEqual(client.take(), b"")
        self.second.says({"taken_down": [17]})
        self.assertEqual(self.said(client), (200, {"taken_down": ["4712-17"]}))
        client = self.ask("/exchanges/4712-17/takedown", "POST")
        self.second.says({"error": "no exchange"}, 404)
        self.assertEqual(self.said(client)[0], 404)
        client = self.ask("/exchanges/4712-17/takedown", "POST")
        self.clock.advance(5)
        self.assertEqual(self.said(client)[0], 504)
        client = self.ask("/exchanges/4711-17/takedown", "POST")
        self.first.vanishes()
        code, why = self.said(client)
        self.assertEqual((code, why["error"]), (502, "worker 4711 has ended without an answer"))

    def test_an_order_is_answered_when_it_is_obeyed(self) -> None:
        """An order is answered when it is obeyed; one that waits for the end is answered with the result."""
        client = self.ask("/leave", "POST")
        self.assertEqual(client.take(), b"")
        self.left.callback(None)
        self.assertEqual(self.said(client)[1]["state"], "serving")
        self.left = Deferred()
        client = self.ask("/stop", "POST", b'{"wait": "gone"}')
        self.left.callback(None)
        self.assertEqual(client.take(), b"")
        self.status.enter(State.GONE)
        self.status.ending = DrainResult(0, 1.0, 1, 0, 0)
        self.control.answer_waiting()
        self.assertEqual(self.said(client)[1]["exit_status"], 0)

    def test_metrics_are_the_sums_of_all_workers(self) -> None:
        """Metrics are the sums over all workers."""
        client = self.ask("/metrics")
        self.first.says(picture(finished=4))
        self.second.says(picture(finished=5))
        text = client.take().decode()
        self.assertIn('\ngraceful_requests_total{status="2xx"} 9.0\n', text)
        self.assertIn("\ngraceful_request_duration_seconds_sum 4.5\n", text)
        self.assertIn("\ngraceful_threads 40.0\n", text)

    def test_events_have_the_last_known_status(self) -> None:
        """Events have the last known status, and no worker is asked for them."""
        self.receive(picture(exchange(1, 1.0)), picture())
        client = self.ask("/events")
        self.events.remember_load()
        self.events.tick()
        data = client.take().decode()
        self.assertEqual(data.count('"id": "4711-1"'), 2)
        self.assertEqual((self.first.asked(), self.second.asked()), ([], []))

    def test_health_is_the_supervisors_own(self) -> None:
        """Health is the supervisor's own, and is answered at once."""
        assert self.status.health is not None
        self.status.health.leave()
        head = self.ask("/+haproxy").take()
        self.assertIn(b" 503 ", head)
        self.assertEqual(self.status.snapshot()["rotation"], "away")
