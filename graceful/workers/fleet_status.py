"""The status of a supervisor: the statuses of all its workers, put together.

A program that reads a status does not have to know how many processes serve.  So the supervisor's status has the keys
of a single process's, and one more, `workers`.  A client that asks for the status gets a fresh one, as soon as all
workers have answered, or their time for that is over.  The live status page and the answer to an order have what the
workers last told.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from graceful._version import __version__
from graceful.control.client import ClientError
from graceful.control.health import Health
from graceful.control.status import ExitTime, HasSuccessor, StateHistory, rotation_of
from graceful.control.totals import Picture, Totals
from graceful.process.exit import latest_exit
from graceful.process.interpreter import is_compiled
from graceful.web.exchange import PHASES
from graceful.workers.aggregate import certificates, merged, named, phases, sockets, sums
from graceful.workers.status_poller import SAID_IN, Known, PolledWorker, StatusPoller, refused
from graceful.workers.worker import WorkerState
from graceful.workers.worker_client import OBEYED_IN

#: The state of a worker that has not answered in time, or whose answer cannot be understood.
SILENT: Final = "silent"

#: The keys of a worker's status that its row in `workers` repeats.
TOLD: Final = (
    "since",
    "in_flight_count",
    "threads",
    "connections",
    "finished",
    "taken_down",
    "app_version",
    "version",
)


def memory_of(pid: int) -> int | None:
    """Returns the resident memory of a process, in bytes; None if it cannot be read (proc(5), statm)."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None


@define(eq=False)
class FleetStatus(StateHistory):
    """Puts the statuses of all workers together; a :class:`graceful.control.status.StatusSource`.  Reactor thread.

    :param settings: the settings of the supervisor.
    :param poller: knows the last status of each worker.
    :param fork_servers: returns the processes that workers are forked from.
    :param memory: returns the memory of a process in bytes, by its id.
    :ivar health: the health that the supervisor's own sites tell a balancer; None while it starts.
    :ivar exit_time: knows when the supervisor has ended; None while it starts, when :attr:`at_most` counts instead.
    """

    poller: StatusPoller = field(kw_only=True)
    fork_servers: Callable[[], list[dict[str, Any]]] = field(default=list, kw_only=True)
    memory: Callable[[int], int | None] = field(default=memory_of, kw_only=True)
    health: Health | None = None
    exit_time: ExitTime | None = None
    _sockets: dict[str, str] = field(factory=dict)

    def read_from(self, health: Health, exit_time: ExitTime, takeover: HasSuccessor) -> None:
        """Set what the status is read from, once the supervisor is complete."""
        self.health, self.exit_time, self.takeover = health, exit_time, takeover

    def _drain_begins(self) -> None:
        self.poller.drain()

    # -- the last known status ----------------------------------------------------------------------------

    def _pictures(self) -> list[Picture]:
        return [known.picture for _, known in self.poller.all() if known.picture]

    def _left(self, key: str) -> list[float]:
        """Returns the seconds that remain for each worker: those that it told, less the seconds since then.

        The seconds of a worker that has not answered since the drain began count from that beginning: it may never
        answer again.

        :param key: the key of the seconds in a worker's status.
        """
        now, found = self.poller.clock.seconds(), []
        began = now if self.poller.began is None else self.poller.began
        for known in self.poller.said():
            left = known.picture.get(key)
            if left is not None:
                since = known.at if known.picture.get("drain") else max(known.at, began)
                found.append(max(0.0, left - (now - since)))
        return found

    @property
    def deadline(self) -> float | None:
        """Seconds until the last of the workers' deadlines; None while none runs."""
        return max(self._left("deadline"), default=None) if self.draining else None

    @property
    def latest_exit(self) -> float:
        """Seconds until the supervisor has ended in any case; before a drain, counted from its beginning."""
        return self.exit_time.latest_exit() if self.exit_time is not None else self.at_most

    @property
    def at_most(self) -> float:
        """Seconds until all workers have ended in any case, by what they told.  Also read in a signal handler."""
        usual = 0.0 if self.draining else latest_exit(self.settings.lame_duck, self.settings.deadline)
        return max(self._left("latest_exit"), default=usual)

    @property
    def in_flight_count(self) -> int:
        """The number of exchanges in flight in all workers."""
        return sum(picture["in_flight_count"] for picture in self._pictures())

    def snapshot(self, limit: int | None = None) -> dict[str, Any]:
        """Returns the whole status as it is known, ready for JSON."""
        pictures, deadline, ending = self._pictures(), self.deadline, self.ending
        totals = self.poller.carried.plus(pictures)
        # The supervisor knows that all sockets are closed before the workers' next statuses tell it.
        self._sockets = sockets(pictures if not self.state.closed else (), self._sockets)
        return {
            "pid": os.getpid(),
            "state": self.state,
            "since": self._states[-1]["since"],
            "deadline": round(deadline, 3) if deadline is not None else None,
            "sockets": [{"name": name, "state": state} for name, state in self._sockets.items()],
            "certificates": certificates(pictures),
            "in_flight": merged((one for picture in pictures for one in picture["in_flight"]), limit),
            "in_flight_count": self.in_flight_count,
            "threads": sums(pictures, "threads", ("busy", "size", "queued")),
            "connections": sums(pictures, "connections", ("idle", "busy")),
            "moved": {"in": totals.moved_in, "out": totals.moved_out},
            "finished": totals.finished,
            "taken_down": totals.taken_down,
            "latest_exit": round(self.latest_exit, 3),
            "rotation": rotation_of(self.health),
            "states": self._states,
            "drain": {"began": self._began, "finished": totals.drained} if self.draining else None,
            "takeover": self._successor(),
            "exit_status": ending.exit_status if ending is not None else None,
            "app_version": self.settings.app_version or None,
            "version": __version__,
            "compiled": is_compiled(),
            "workers": [self._shown(worker, known) for worker, known in self.poller.all()],
            "fork_servers": self.fork_servers(),
        }

    def _shown(self, worker: PolledWorker, known: Known) -> dict[str, Any]:
        """Returns the row of a worker in `workers`; null where a value is not known."""
        state = worker.state if worker.state == WorkerState.STARTING else known.picture.get("state", worker.state)
        return {
            "number": worker.number,
            "pid": worker.pid,
            "state": SILENT if known.silent else state,
            "memory": self.memory(worker.pid),
            **{key: known.picture.get(key) for key in TOLD},
        }

    def recently_ended(self) -> Sequence[dict[str, Any]]:
        """Returns the last exchanges that ended in the drain, newest first."""
        return self.poller.ended

    def totals(self) -> Totals:
        """Returns what all workers have counted, as far as it is known, also those that have ended."""
        pictures = self._pictures()  # which carries over those that have just ended
        return self.poller.carried.plus(pictures)

    def _with_counters(self, limit: int | None) -> Picture:
        pictures = self._pictures()
        totals = self.poller.carried.plus(pictures)
        tallies = [picture["tally"] for picture in pictures if picture.get("tally")]
        tally = {
            "backlog": [queue for one in tallies for queue in one.get("backlog", ())],
            "phases": phases(tallies, PHASES),
            "queue_oldest": max((one.get("queue_oldest", 0.0) for one in tallies), default=0.0),
            "abandoned": totals.abandoned,
            "downloaded": totals.downloaded,
            "ended": totals.ended,
            "waited": totals.waited,
        }
        return {**self.snapshot(limit), "ended": list(self.recently_ended()), "tally": tally}

    # -- statuses for which the workers are asked ---------------------------------------------------------

    def fresh_snapshot(self, limit: int | None = None) -> Deferred[dict[str, Any]]:
        """Returns the whole status as soon as all workers have answered, or their time for that is over."""
        return self.poller.fresh(limit).addCallback(lambda ignored: self.snapshot(limit))

    def snapshot_with_counters(self, limit: int | None = None) -> Deferred[dict[str, Any]]:
        """Returns a fresh status with the numbers behind the metrics (`tally`), and what ended recently (`ended`)."""
        return self.poller.fresh(limit).addCallback(lambda ignored: self._with_counters(limit))

    def exchanges(self, limit: int | None = None) -> Deferred[list[dict[str, Any]]]:
        """Returns the exchanges in flight, oldest first, each with its thread's stack; null if its worker is silent.

        :param limit: how many to return at most; None for all.
        """
        how = "" if limit is None else f"?limit={limit}"

        def known_of(known: Known) -> list[dict[str, Any]]:
            return [{**exchange, "stack": None} for exchange in known.picture.get("in_flight", ())]

        def instead(failure: Failure, known: Known) -> list[dict[str, Any]]:
            failure.trap(ClientError)
            return known_of(known)

        def ask(worker: PolledWorker, known: Known) -> Deferred[list[dict[str, Any]]]:
            said = worker.ask("GET", f"/exchanges{how}", timeout=SAID_IN)
            said.addCallback(lambda found: [named(worker.pid, exchange) for exchange in found])
            return said.addErrback(instead, known)

        silent = [one for _, known in self.poller.all() if known.silent for one in known_of(known)]
        asked = [ask(worker, known) for worker, known in self.poller.answering()]
        together: Deferred[Any] = DeferredList(asked, fireOnOneErrback=True, consumeErrors=True)
        return together.addCallback(
            lambda found: merged([*silent, *(one for _, some in found for one in some)], limit)
        )

    def exchange(self, which: str) -> dict[str, Any] | Deferred[dict[str, Any] | None] | None:
        """Returns the exchange in flight with an id; None if there is none."""
        worker, number = self._find(which)
        if worker is None:
            return None
        said = worker.ask("GET", f"/exchanges/{number}", timeout=OBEYED_IN)
        return said.addCallback(lambda shown: named(worker.pid, shown)).addErrback(_not_found, None)

    def take_down(self, which: str) -> Sequence[str] | Deferred[Sequence[str]]:
        """Take down an exchange and those queued behind it.  Returns the ids of those interrupted.

        It fails with a `ClientError` if the worker does not answer.
        """
        worker, number = self._find(which)
        if worker is None:
            return []
        said = worker.ask("POST", f"/exchanges/{number}/takedown", {}, OBEYED_IN)
        said.addCallback(lambda told: [f"{worker.pid}-{number}" for number in told["taken_down"]])
        return said.addErrback(_not_found, [])

    def _find(self, which: str) -> tuple[PolledWorker | None, str]:
        """Returns the worker that an exchange's id names, and the exchange's number in that worker."""
        pid, _, number = which.partition("-")
        if number.isascii() and number.isdigit():
            for worker, _ in self.poller.all():
                if str(worker.pid) == pid:
                    return worker, number
        return None, ""


def _not_found(failure: Failure, instead: Any) -> Any:
    """Returns `instead` if the worker does not know the exchange; else the failure."""
    return instead if refused(failure, 404) else failure
