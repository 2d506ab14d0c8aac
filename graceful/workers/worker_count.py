"""The number of workers, while they serve: more of them when there is much to do, fewer to save memory.

A worker that is added accepts when it is ready, and until then a sibling accepts for it.  A worker that is removed
drains as one does that is replaced: its siblings accept from its sockets, its connections move to them, and it
finishes what it has in flight.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from graceful.process.orders import OrderRefused
from graceful.sockets.binding import BindError
from graceful.workers.rolling_restart import RollingRestart
from graceful.workers.worker import WorkerProcess, WorkerState
from graceful.workers.worker_pool import WorkerPool

log = Logger(namespace="graceful")


class WorkerCount:
    """Changes the number of workers.  Reactor thread.

    :param pool: of the workers.
    :param rolling_restart: knows which release they run.
    :param may_not: says why the number has to stay as it is just now, or None.
    """

    def __init__(self, pool: WorkerPool, rolling_restart: RollingRestart, may_not: Callable[[], str | None]) -> None:
        self._pool = pool
        self._rolling_restart = rolling_restart
        self._may_not = may_not

    def set(self, count: int) -> int:
        """Have this number of workers; returns how many there were to be before.

        :raises OrderRefused: this cannot be done.
        """
        slots = self._pool.slots
        why = "one worker has to stay" if count < 1 else self._may_not()
        if count < len(slots) and not any(_accepts(slot.worker) for slot in slots[:count]):
            why = why or "none of the workers that would stay accepts yet"
        if why is not None:
            raise OrderRefused(f"{why}; workers: {len(slots)}")
        for _ in range(count, len(slots)):
            self._pool.remove_slot()
        try:
            self._pool.check_room(count)
            for _ in range(len(slots), count):
                self._pool.add_slot(self._rolling_restart.release)
        except BindError as error:
            raise OrderRefused(f"{error}; workers: {len(self._pool.slots)}") from None
        if count != len(slots):
            log.info("workers: {count} (were {before})", count=count, before=len(slots))
        return len(slots)

    def change(self, by: int) -> None:
        """Have more workers by this number, or fewer if it is negative; a refusal is logged."""
        try:
            self.set(len(self._pool.slots) + by)
        except OrderRefused as refused:
            log.error("no change of workers: {why}", why=str(refused))


def _accepts(worker: WorkerProcess | None) -> bool:
    return worker is not None and worker.state == WorkerState.SERVING
