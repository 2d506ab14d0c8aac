"""Polling the status of all workers: the last one of each, and the counts of those that have ended.

A worker is asked over the connection that the supervisor has to it, so there is always a picture, no older than a
second: for those who look on, for what must be known when a worker was killed, and for one that does not answer.

What a worker has counted must not be lost with it, since Prometheus takes a counter that goes down for a restart.
So when one has ended, what it has said last is carried over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Final, Protocol

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from graceful.control.client import ANSWERS_IN, ClientError, ControlRefused
from graceful.control.status import KEPT
from graceful.control.totals import Picture, Totals
from graceful.workers.aggregate import named
from graceful.workers.worker import WorkerState

log = Logger(namespace="graceful")


#: Seconds between two polls of a worker: the oldest that a status may be.
EVERY: Final = 1.0

#: Seconds between two polls in a drain, when every change is of interest.
EVERY_IN_DRAIN: Final = 0.25

#: Seconds that a worker has to answer; then it counts as silent.
SAID_IN: Final = 2.0

#: How many exchanges of each worker are listed in every poll: what a crash report can name.
LISTED: Final = 200


class PolledWorker(Protocol):
    """One worker process; the same object as long as that lives."""

    @property
    def number(self) -> int:
        """Of its slot, from 1."""

    @property
    def pid(self) -> int:
        """Its process."""

    @property
    def state(self) -> str:
        """What the supervisor knows of it; `starting` until it can be asked."""

    def ask(
        self, method: str, target: str, values: dict[str, Any] | None = None, timeout: float = ANSWERS_IN
    ) -> Deferred[Any]:
        """Ask it (see :meth:`graceful.workers.worker_client.WorkerClient.ask`)."""


class PolledPool(Protocol):
    """All workers of a supervisor."""

    def workers(self) -> Sequence[PolledWorker]:
        """Those whose processes are there, by their slots, and in a slot the youngest first."""


@define(eq=False)
class Known:
    """What is known of a worker.

    :ivar picture: what it has said last; empty before.
    :ivar at: when that was.
    :ivar silent: it was asked since, and has not answered.
    :ivar asked: it is asked just now, as all are all the time.
    :ivar newest: the id of the exchange that has ended last, of those that we have heard of.
    """

    picture: Picture = field(factory=dict)
    at: float = 0.0
    silent: bool = False
    asked: bool = False
    newest: Any = None


@define(eq=False)
class StatusPoller:
    """Polls all workers.  Reactor thread.

    :param pool: the workers.
    :param clock: times the polls.
    :ivar began: when a drain began, seconds of the clock; None before.
    :ivar carried: what was counted by those that have ended.
    :ivar ended: the last exchanges that have ended in the drain, newest first.
    """

    pool: PolledPool
    clock: IReactorTime
    began: float | None = None
    carried: Totals = field(factory=Totals)
    ended: deque[dict[str, Any]] = field(factory=lambda: deque(maxlen=KEPT))
    _known: dict[PolledWorker, Known] = field(factory=dict)
    _next: IDelayedCall | None = None

    @property
    def draining(self) -> bool:
        """Whether a drain has begun: polls are more frequent, and ended exchanges are remembered."""
        return self.began is not None

    def start(self) -> None:
        """Poll now, and from now on."""
        self._next = self.clock.callLater(EVERY_IN_DRAIN if self.draining else EVERY, self.start)
        for worker, known in self.all():
            if worker.state != WorkerState.STARTING and not known.asked:
                known.asked = True
                self.look(worker).addCallback(self._looked, known)

    def stop(self) -> None:
        """Stop polling."""
        if self._next is not None and self._next.active():
            self._next.cancel()

    @staticmethod
    def _looked(ignored: object, known: Known) -> None:
        known.asked = False

    def drain(self) -> None:
        """A drain begins: what has finished is counted for it from now on."""
        self.all()
        self.carried = evolve(self.carried, drained=0)
        self.began = self.clock.seconds()
        if self._next is not None and self._next.active():
            self._next.reset(0)

    def all(self) -> list[tuple[PolledWorker, Known]]:
        """The workers that are there, and what is known of them."""
        workers = self.pool.workers()
        for worker in [worker for worker in self._known if worker not in workers]:
            self.carried = self.carried.plus([self._known.pop(worker).picture])
        return [(worker, self._known.setdefault(worker, Known())) for worker in workers]

    def _of(self, worker: PolledWorker) -> Known | None:
        """What is known of a worker; None if the pool no longer has it."""
        return dict(self.all()).get(worker)

    def said(self) -> list[Known]:
        """What is known of all, and maybe of some that have just ended; nothing is changed by this.

        In a signal handler, too.
        """
        return list(self._known.values())

    def silent_for(self, worker: PolledWorker) -> float:
        """For how many seconds a worker has not answered; 0 if it does."""
        known = self._of(worker)
        return self.clock.seconds() - known.at if known is not None and known.silent else 0.0

    def last(self, worker: PolledWorker) -> Picture | None:
        """What a worker has said last; None if it has not said anything yet, or the pool has it no more."""
        known = self._of(worker)
        return known.picture if known is not None and known.picture else None

    def fresh(self, limit: int | None) -> Deferred[Any]:
        """Look at all that may answer; fires when they have, or have had their time.

        :param limit: how many exchanges have to be known at least; None for all.
        """
        return DeferredList([self.look(worker, limit) for worker, _ in self.answering()])

    def answering(self) -> list[tuple[PolledWorker, Known]]:
        """Returns the workers to ask: a caller does not wait again for one that was silent last time."""
        return [
            (worker, known)
            for worker, known in self.all()
            if worker.state != WorkerState.STARTING and not known.silent
        ]

    def look(self, worker: PolledWorker, limit: int | None = 0) -> Deferred[None]:
        """Ask a worker how it is; fires also if it does not say."""
        how = "" if limit is None else f"?limit={max(limit, LISTED)}"

        def plainly(failure: Failure) -> Any:
            if not refused(failure, 404):
                return failure
            return worker.ask("GET", f"/status{how}", timeout=SAID_IN)  # it is of another version

        def silent(failure: Failure) -> None:
            known = self._known.get(worker)
            if known is None or known.silent:
                return
            known.silent = True
            if failure.check(ClientError) is None:
                log.failure("worker {pid} says what cannot be understood", failure, pid=worker.pid)

        said = worker.ask("GET", f"/tally{how}", timeout=SAID_IN).addErrback(plainly)
        return said.addCallback(lambda picture: self.update(worker, picture)).addErrback(silent)

    def update(self, worker: PolledWorker, picture: Picture) -> None:
        """Take note of a worker's status: an answer, or its last message, while the pool still has it.

        :param picture: as :meth:`graceful.server.server_status.ServerStatus.snapshot_with_counters` makes it.
        """
        known = self._of(worker)
        if known is None:
            return  # what it had counted is carried over already
        ended = picture.get("ended") or []
        fresh = [named(worker.pid, one) for one in takewhile(lambda one: one["id"] != known.newest, ended)]
        if fresh:
            known.newest = ended[0]["id"]
        if self.draining:
            self.ended.extendleft(reversed(fresh))
        known.picture = {**picture, "in_flight": [named(worker.pid, one) for one in picture["in_flight"]]}
        known.at, known.silent = self.clock.seconds(), False


def refused(failure: Failure, status: int) -> bool:
    """Whether a worker has refused what was asked, with this HTTP status."""
    return isinstance(failure.value, ControlRefused) and failure.value.status == status
