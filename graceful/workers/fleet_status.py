"""How several workers are, as one: what a supervisor says when it is asked for its status.

It has the keys that a plain instance's has, so that nothing which reads a status has to know how many processes
serve; beside them it has `workers`.  Who asks for it is told a fresh one, as soon as all workers have answered, or
have had their time for that; who looks on, and who is answered within an order, is told what they have said last.
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
from graceful.process.exit import latest_exit
from graceful.web.exchange import PHASES
from graceful.workers.aggregate import Picture, merged, named, phases, sockets, sums
from graceful.workers.status_poller import SAID_IN, Known, PolledWorker, StatusPoller, refused
from graceful.workers.worker import WorkerState
from graceful.workers.worker_client import OBEYED_IN

#: The state of a worker that has not answered in time, or what cannot be understood.
SILENT: Final = "silent"

#: What is told of each worker as it tells it.
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
    """How many bytes of memory a process holds; None if that cannot be known (proc(5), statm)."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None


@define(eq=False)
class FleetStatus(StateHistory):
    """Says how all workers are together; a :class:`graceful.control.status.StatusSource`.  Reactor thread.

    :param settings: of the supervisor.
    :param poller: what is known of the workers.
    :param memory: how many bytes a process holds.
    :ivar health: what the supervisor's own sites tell a balancer; None while it starts.
    :ivar exit_time: says when the supervisor is gone; None for as soon as all workers are.
    """

    poller: StatusPoller = field(kw_only=True)
    memory: Callable[[int], int | None] = field(default=memory_of, kw_only=True)
    health: Health | None = None
    exit_time: ExitTime | None = None
    _sockets: dict[str, str] = field(factory=dict)

    def read_from(self, health: Health, exit_time: ExitTime, takeover: HasSuccessor) -> None:
        """Read these from now on: the supervisor is put together."""
        self.health, self.exit_time, self.takeover = health, exit_time, takeover

    def _drain_begins(self) -> None:
        self.poller.drain()

    # -- what is known ------------------------------------------------------------------------------------

    def _pictures(self) -> list[Picture]:
        return [known.picture for _, known in self.poller.all() if known.picture]

    def _left(self, key: str) -> list[float]:
        """What each worker has said that it has left, seconds; in a drain less what has passed since.

        One that has not said anything since the drain began may never do so again: its time passes, too.
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
        """In how many seconds the supervisor is gone in any case; before a drain, from its beginning."""
        return self.exit_time.latest_exit() if self.exit_time is not None else self.at_most

    @property
    def at_most(self) -> float:
        """In how many seconds all workers are gone in any case, by what they have said; in a signal handler, too."""
        usual = 0.0 if self.draining else latest_exit(self.settings.lame_duck, self.settings.deadline)
        return max(self._left("latest_exit"), default=usual)

    @property
    def in_flight_count(self) -> int:
        """How many exchanges are in flight."""
        return sum(picture["in_flight_count"] for picture in self._pictures())

    def count(self) -> None:
        """Workers count by themselves."""

    def snapshot(self, limit: int | None = None) -> dict[str, Any]:
        """Returns the whole status as it is known, ready for JSON."""
        pictures, deadline, ending = self._pictures(), self.deadline, self.ending
        totals = self.poller.carried.plus(pictures)
        # That all are closed the supervisor knows before anybody has told it again.
        self._sockets = sockets(pictures if not self.state.closed else (), self._sockets)
        return {
            "pid": os.getpid(),
            "state": self.state,
            "since": self._states[-1]["since"],
            "deadline": round(deadline, 3) if deadline is not None else None,
            "sockets": [{"name": name, "state": state} for name, state in self._sockets.items()],
            "in_flight": merged((one for picture in pictures for one in picture["in_flight"]), limit),
            "in_flight_count": self.in_flight_count,
            "threads": sums(pictures, "threads", ("busy", "size", "queued")),
            "connections": sums(pictures, "connections", ("idle", "busy")),
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
            "workers": [self._shown(worker, known) for worker, known in self.poller.all()],
        }

    def _shown(self, worker: PolledWorker, known: Known) -> dict[str, Any]:
        """A worker, with what is known of it; null where nothing is."""
        state = worker.state if worker.state == WorkerState.STARTING else known.picture.get("state", worker.state)
        return {
            "number": worker.number,
            "pid": worker.pid,
            "state": SILENT if known.silent else state,
            "memory": self.memory(worker.pid),
            **{key: known.picture.get(key) for key in TOLD},
        }

    def recently_ended(self) -> Sequence[dict[str, Any]]:
        """The last exchanges that ended since the way out began, newest first."""
        return self.poller.ended

    def _with_counters(self, limit: int | None) -> Picture:
        pictures = self._pictures()
        totals = self.poller.carried.plus(pictures)
        tallies = [picture["tally"] for picture in pictures if picture.get("tally")]
        tally = {
            "phases": phases(tallies, PHASES),
            "queue_oldest": max((one.get("queue_oldest", 0.0) for one in tallies), default=0.0),
            "abandoned": totals.abandoned,
            "downloaded": totals.downloaded,
            "ended": totals.ended,
        }
        return {**self.snapshot(limit), "ended": list(self.recently_ended()), "tally": tally}

    # -- what has to be asked for -------------------------------------------------------------------------

    def fresh_snapshot(self, limit: int | None = None) -> Deferred[dict[str, Any]]:
        """Returns the whole status as soon as all workers have answered, or have had their time for that."""
        return self.poller.fresh(limit).addCallback(lambda ignored: self.snapshot(limit))

    def snapshot_with_counters(self, limit: int | None = None) -> Deferred[dict[str, Any]]:
        """Returns a fresh status with the numbers behind the metrics (`tally`), and what ended recently (`ended`)."""
        return self.poller.fresh(limit).addCallback(lambda ignored: self._with_counters(limit))

    def exchanges(self, limit: int | None = None) -> Deferred[list[dict[str, Any]]]:
        """What is in flight now, oldest first, each with the stack of its thread; null if its worker is silent."""
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
        """One of them by its id; None if that is not in flight."""
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
        """The worker that an id names, and the number that the exchange has there."""
        pid, _, number = which.partition("-")
        if number.isascii() and number.isdigit():
            for worker, _ in self.poller.all():
                if str(worker.pid) == pid:
                    return worker, number
        return None, ""


def _not_found(failure: Failure, instead: Any) -> Any:
    """What is said instead, if a worker does not know an exchange."""
    return instead if refused(failure, 404) else failure
