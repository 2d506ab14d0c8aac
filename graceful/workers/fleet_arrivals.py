"""What moves from a predecessor to an instance with workers: each worker gets its share.

The supervisor has no connections of clients, and takes none.  It passes the links on, on which the predecessor's
processes give theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graceful.takeover.connection_arrivals import Source
from graceful.takeover.connection_links import Link
from graceful.workers.worker import WorkerProcess, WorkerState
from graceful.workers.worker_pool import WorkerPool


class FleetArrivals:
    """Passes links on to the workers; a :class:`graceful.takeover.predecessor.Taking`.

    :param pool: the workers.
    :param call: calls a function in the reactor thread, from any thread.
    :ivar count: how many workers take.
    """

    def __init__(self, pool: WorkerPool, call: Callable[..., object]) -> None:
        self._pool = pool
        self._call = call
        self.count = len(pool.slots)

    def take(self, links: Sequence[Link]) -> None:
        """Have the workers take in what moves on these links, one after the other.  Any thread."""
        self._call(self._pass_on, links)

    def take_from(self, source: Source, pid: int, dead: Callable[[], bool], end: Callable[[], object]) -> None:
        """Take nothing from the predecessor itself: it has links to this instance's workers."""
        end()

    def _pass_on(self, links: Sequence[Link]) -> None:
        for number, link in enumerate(links):
            worker = self._worker(number)
            if worker is not None:
                worker.take_connections(link)
            else:
                link.close()

    def _worker(self, number: int) -> WorkerProcess | None:
        serving = [worker for worker in self._pool.serving() if worker.state == WorkerState.SERVING]
        return serving[number % len(serving)] if serving else None
