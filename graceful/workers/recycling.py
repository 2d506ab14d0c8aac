"""Replacing workers that have served long enough, or have become too large.

It is the remedy for an application that leaks: not a good one, but often the only one at hand.  Nothing is lost by
it, since a worker is replaced as in a deploy.  One at a time, and each slot has a limit of its own by chance, so
that workers which were started together do not end together.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from graceful.workers.fleet_status import memory_of
from graceful.workers.worker import WorkerProcess
from graceful.workers.worker_pool import ANOTHER, REMOVED, STOPPING, WorkerPool

log = Logger(namespace="graceful")


#: Seconds that a worker serves before it is replaced for its memory.
SETTLES: Final = 5.0

#: Calls of `look` that are skipped after a replacement has failed: each attempt imports the application.
PAUSE: Final = 30


class Recycling:
    """Looks once in a while.  Reactor thread.

    :param pool: whose workers.
    :param max_requests: how many requests a worker serves, and give or take how many; None for any number.
    :param max_rss: bytes that it may hold; None for any number.
    :param finished: how many requests a worker has finished, as far as is known.
    :param rss: how many bytes a process holds; None if that cannot be known.
    :param jitter: a random number between two.
    """

    def __init__(
        self,
        pool: WorkerPool,
        max_requests: tuple[int, int] | None,
        max_rss: int | None,
        finished: Callable[[WorkerProcess], int],
        rss: Callable[[int], int | None] = memory_of,
        jitter: Callable[[int, int], int] = random.randint,
    ) -> None:
        self._pool = pool
        self._max_requests = max_requests
        self._max_rss = max_rss
        self._finished = finished
        self._rss = rss
        self._jitter = jitter
        self._limits: dict[WorkerProcess, int] = {}
        self._wait = 0

    def look(self) -> None:
        """Replace one worker that has had its time, if none is being started just now."""
        self._limits = {worker: self._limit(worker) for worker in self._pool.serving()}
        self._wait -= 1
        if self._pool.busy or self._pool.fleet_drain is not None or self._wait > 0:
            return
        for worker in sorted(self._limits, key=lambda one: one.served_for, reverse=True):
            why = self._why(worker)
            if why is not None:
                log.info("worker {number}, process {pid}, {why}: another one takes its place",
                              number=worker.number, pid=worker.pid, why=why)  # fmt: skip
                replaced = self._pool.replace(self._pool.slots[worker.number - 1])
                replaced.addCallback(self._tell, worker)
                return

    def _limit(self, worker: WorkerProcess) -> int:
        known = self._limits.get(worker)
        if known is None:
            most, jitter = self._max_requests or (0, 0)
            known = most + self._jitter(-jitter, jitter)
        return known

    def _why(self, worker: WorkerProcess) -> str | None:
        finished = self._finished(worker)
        if self._max_requests is not None and finished >= self._limits[worker]:
            return f"has served {finished} requests"
        if worker.served_for < SETTLES:
            return None  # one that is too large from the start would be replaced for ever, and no other one ever
        rss = self._rss(worker.pid) if self._max_rss is not None else None
        if self._max_rss is not None and rss is not None and rss >= self._max_rss:
            return f"holds {rss >> 20} MiB"
        return None

    def _tell(self, why_not: str | None, worker: WorkerProcess) -> None:
        if why_not not in (None, ANOTHER, REMOVED, STOPPING):
            self._wait = PAUSE
            log.error(
                "worker {number}, process {pid}, goes on: {why}", number=worker.number, pid=worker.pid, why=why_not
            )
