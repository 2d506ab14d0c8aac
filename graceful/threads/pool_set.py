"""The pools of all applications that one server runs.

Applications that were given the same `ThreadPool` of Twisted's share its number of threads, so each such object
stands for one pool here, and None stands for the pool that the settings size.  An application deep in a tree of
resources is found with its first request only, so a pool may be asked for while the server serves, by any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.logger import Logger

from graceful.threads.pool import Pool
from graceful.threads.start import NoThread

log = Logger(namespace="graceful")

Job = TypeVar("Job")


class PoolSet(Generic[Job]):
    """Finds, wakes and describes pools; a `graceful.web.hub.Batch`.

    :param size: how many threads a pool has for applications that name no `ThreadPool`.
    :param make: returns a new pool with this number of threads, which is not started.
    """

    def __init__(self, size: int, make: Callable[[int], Pool[Job]]) -> None:
        self._size = size
        self._make = make
        self._pools: dict[Any, Pool[Job]] = {}  # any thread; single dict operations are atomic
        self._all: tuple[Pool[Job], ...] = ()  # its values; the hub reads it for each batch
        self._lacks_threads = False

    def find(self, threadpool: Any) -> Pool[Job]:
        """Returns the pool of all applications that have this `ThreadPool`, or None, and starts it.  Any thread.

        :raises NoThread: the system refuses a thread; it is tried again with the next request.
        """
        known = self._pools.get(threadpool)
        if known is not None:
            return known
        made = self._make(self._size if threadpool is None else threadpool.max)
        try:
            made.start()
        except NoThread as error:
            if not self._lacks_threads:
                log.error("requests for the application are answered with 503: {error}", error=error)
            self._lacks_threads = True
            raise
        self._lacks_threads = False
        pool = self._pools.setdefault(threadpool, made)
        if pool is not made:
            made.stop(0)
        self._all = tuple(self._pools.values())
        return pool

    def hold(self) -> None:
        """A batch begins: wake no thread before :meth:`kick`.  Reactor thread."""
        for pool in self._all:
            pool.hold()

    def kick(self) -> None:
        """The batch is over: wake a thread of each pool that has work.  Reactor thread."""
        for pool in self._all:
            pool.kick()

    def working(self) -> dict[Job, int]:
        """Returns the jobs that a thread works on, each with its thread.  Any thread."""
        return {job: thread for pool in self._all for thread, job in pool.working.copy().items()}

    def queued(self) -> list[Job]:
        """Returns the jobs that wait for a thread."""
        return [job for pool in self._all for job in pool.backlog.copy()]

    def withdraw(self, job: Job) -> bool:
        """Take a job out of the queue that it waits in; returns False if it waits in none.  Any thread."""
        return any(pool.withdraw(job) for pool in self._all)

    def replace(self, thread: int) -> bool:
        """Start another thread in place of one that does not return.  Returns whether it was started."""
        pool = next((pool for pool in self._all if thread in pool.working), None)
        return pool is not None and pool.replace(thread)

    def thread_names(self) -> dict[int, str]:
        """Returns the names of all threads, by their `threading.get_ident()`."""
        return {thread.ident or 0: thread.name for pool in self._all for thread in pool.threads}

    def counts(self) -> tuple[int, int, int]:
        """Returns how many threads are busy, how many there are, and how many jobs wait for one."""
        busy, size = sum(len(pool.working) for pool in self._all), sum(pool.size for pool in self._all)
        return busy, size or self._size, sum(pool.queued for pool in self._all)

    def stop(self, idle: float) -> None:
        """End the threads.  Blocks.

        :param idle: seconds to wait for those that are idle; none at all if a job still has a thread, which
            may never end.
        """
        timeout = 0 if self.working() else idle
        for pool in self._all:
            pool.stop(timeout)
