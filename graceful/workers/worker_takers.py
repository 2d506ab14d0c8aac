"""Which worker takes the connections of one that leaves, so that no client has to connect again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.logger import Logger

from graceful.workers.slot import Slot
from graceful.workers.worker import WorkerProcess, WorkerState

log = Logger(namespace="graceful")


class Leavers(Protocol):
    """The workers; :class:`graceful.workers.worker_pool.WorkerPool`.

    :ivar leaving: those that drain.
    """

    leaving: list[WorkerProcess]

    def serving(self) -> list[WorkerProcess]:
        """Returns the workers that accept, by their slots."""

    def slot_of(self, worker: WorkerProcess) -> Slot:
        """Returns the slot that a worker works in."""


class WorkerTakers:
    """Has the connections of workers that leave move to others.  Reactor thread.

    :param workers: the workers.
    """

    def __init__(self, workers: Leavers) -> None:
        self._workers = workers

    def move_connections(self, worker: WorkerProcess) -> None:
        """Have the connections of a worker that leaves move to the one that takes its place.

        Without that one they move to a sibling of its release: no old code starts a new request.
        """
        slot = self._workers.slot_of(worker)
        takers = self._takers(worker, slot)
        if not worker.moves or not takers:
            return

        def by_preference(one: WorkerProcess) -> tuple[bool, int]:
            return one is not slot.worker, sum(other.taker is one for other in self._workers.leaving)

        worker.taker = min(takers, key=by_preference)
        try:
            link = worker.link()
        except OSError as error:
            log.warn("the connections of {worker}, stay there: {error}", worker=worker, error=error.strerror)
            return
        worker.taker.take_connections(link)

    def _takers(self, worker: WorkerProcess, slot: Slot) -> Sequence[WorkerProcess]:
        release = slot.worker.release if slot.worker is not None else slot.release
        serving = [one for one in self._workers.serving() if one.state == WorkerState.SERVING and one.moves]
        return [one for one in serving if one.release is release and one is not worker]

    def move_on(self) -> None:
        """Find another taker for the connections of each worker that leaves and has lost its taker."""
        for worker in self._workers.leaving:
            if worker.taker is not None and worker.taker.state != WorkerState.SERVING:
                self.move_connections(worker)
