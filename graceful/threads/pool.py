"""A pool of threads, in which the application answers requests.

`twisted.python.threadpool` silently drops jobs that come after its stop, and joins its threads without a limit.  It
takes two locks and a condition for each job; at tens of thousands of requests a second, waking threads is the larger
half of the cost.  So this pool

* keeps its jobs in one deque and wakes at most one thread at a time: a woken thread wakes the next one while there is
  work; and while the hub works through a batch of reads, no thread is woken before the end of the batch;
* refuses a job when the queue is full, instead of letting jobs grow old;
* has daemon threads, so that a thread that never ends cannot hold the process, and at its stop one deadline for all
  of them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

from twisted.logger import Logger

from graceful.threads.start import NoThread, start_thread

log = Logger(namespace="graceful")


Job = TypeVar("Job")


class Pool(Generic[Job]):
    """Threads that run one function on each job.

    It needs no lock, since operations of `list` and `deque` are atomic in CPython, and since each side looks again
    after each change.

    :param size: the number of threads.
    :param queue: how many jobs may wait when all threads are busy.
    :param run: called with each job in a thread.  An exception that it raises is logged.
    :param failed: called with a job for which `run` has raised, in the `except` block.
    :param on_idle: called by each thread that has run out of jobs, before it waits; must be short.
    :ivar backlog: the jobs that wait; any thread.
    :ivar working: the job of each busy thread, by its `threading.get_ident()`; each thread writes its own entry.
    """

    def __init__(
        self,
        size: int,
        queue: int,
        run: Callable[[Job], None],
        failed: Callable[[Job], object] | None = None,
        on_idle: Callable[[], object] | None = None,
    ) -> None:
        self.size = size
        self._most = size + queue
        self._on_idle = on_idle
        self._run = run
        self._failed = failed
        self.backlog: deque[Job] = deque()
        self.working: dict[int, Job] = {}
        self.threads: list[threading.Thread] = []
        self._idle: list[threading.Lock] = []
        self._lost: set[int] = set()  # the reactor thread adds a lost thread, which removes itself if it comes back
        self._number = 0
        self._waking = self._holding = self._stopping = False

    def start(self) -> None:
        """Start the threads.  Called after the fork, since threads do not survive one.

        :raises NoThread: the system refuses one of them; then the others end, and this pool cannot be used.
        """
        try:
            for _ in range(self.size):
                self._start()
        except NoThread:
            self.stop(0)
            raise

    def _start(self) -> None:
        self._number += 1
        self.threads.append(start_thread(self._work, f"graceful-{self._number}"))

    def offer(self, job: Job) -> bool:
        """Queue a job for the next free thread.  Any thread.

        :returns: False if the queue is full.
        """
        if len(self.backlog) + len(self.working) - len(self._lost) >= self._most:
            return False
        self.backlog.append(job)
        if not self._holding and not self._waking and self._idle:
            self._wake()
        return True

    def withdraw(self, job: Job) -> bool:
        """Take a job out of the queue.  Any thread.

        :returns: False if it does not wait there.
        """
        try:
            self.backlog.remove(job)  # atomic, since jobs are compared by their identity
        except ValueError:
            return False
        return True

    @property
    def queued(self) -> int:
        """The number of jobs that wait for a thread."""
        return len(self.backlog)

    def hold(self) -> None:
        """Begin a batch: wake no thread before :meth:`kick`.  Reactor thread."""
        self._holding = True

    def kick(self) -> None:
        """End the batch: wake a thread if there is work.  Reactor thread."""
        self._holding = False
        if self.backlog and not self._waking and self._idle:
            self._wake()

    def replace(self, thread: int) -> bool:
        """Start a thread in the place of one that is lost: one that a takedown could not end.  Reactor thread.

        If the lost thread finishes its job after all, it ends.

        :param thread: the lost thread's `threading.get_ident()`.
        :returns: False if the pool has lost `size` threads already, or if the system refuses another one.
        """
        if len(self._lost) >= self.size:
            return False
        self._lost.add(thread)
        try:
            self._start()
        except NoThread as error:
            self._lost.discard(thread)
            log.error("{error}", error=error)
            return False
        return True

    def stop(self, timeout: float) -> list[threading.Thread]:
        """End the threads, each when it has no job left.  Blocks.

        :param timeout: seconds to wait at most for all of them together.
        :returns: the threads that have not ended.
        """
        self._stopping = True
        while self._idle:
            self._wake()
        until = monotonic() + timeout
        for thread in self.threads:
            thread.join(max(0.0, until - monotonic()))
        return [thread for thread in self.threads if thread.is_alive()]

    def _give_up(self, job: Job) -> None:
        if self._failed is not None:
            try:
                self._failed(job)
            except BaseException:
                log.failure("a job that has failed could not be ended")

    def _wake(self) -> None:
        try:
            sleeper = self._idle.pop()
        except IndexError:
            return
        self._waking = True
        sleeper.release()

    def _work(self) -> None:
        mine = threading.Lock()
        mine.acquire()
        idle, backlog, working, run = self._idle, self.backlog, self.working, self._run
        on_idle = self._on_idle
        me = threading.get_ident()
        while True:
            woken = False
            if not backlog:
                if self._stopping:
                    return
                if on_idle is not None:
                    try:
                        on_idle()
                    except Exception:
                        log.failure("a thread of the pool goes on after this")
                idle.append(mine)
                if (backlog and not self._waking) or self._stopping:
                    # A job, or the stop, came after this thread had looked and before it was in the list.
                    try:
                        idle.remove(mine)
                        continue
                    except ValueError:
                        pass  # another thread has chosen this one and is about to release its lock
                mine.acquire()
                self._waking = False
                woken = True
            try:
                job = backlog.popleft()
            except IndexError:
                continue  # another thread was faster
            if woken and backlog and idle:
                self._wake()
            working[me] = job
            try:
                run(job)
            except BaseException:
                log.failure("a thread of the pool goes on after this")
                self._give_up(job)
            del working[me]
            del job
            if me in self._lost:
                self._lost.discard(me)
                self.threads.remove(threading.current_thread())
                if backlog and idle and not self._waking:
                    self._wake()
                return
