"""The application's threads.

`twisted.python.threadpool` drops what is offered after its stop without a word, joins its threads without a
limit, and takes two locks and a condition for each job; at tens of thousands of requests a second waking threads
is the larger half of the cost.  So this pool

* keeps its jobs in one deque and wakes at most one thread at a time: a woken thread wakes the next while there is
  work; and while the hub works through a batch of reads no thread is woken before its end;
* says no when as many jobs wait as may, instead of letting them grow old;
* has daemon threads, so that a thread that does not come to an end cannot hold the process, and one deadline for
  all of them when it stops.
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

    `list` and `deque` operations are atomic in CPython; that, and looking again after each change, is why there
    is no lock.

    :param size: how many threads.
    :param queue: how many jobs may wait when all threads are busy.
    :param run: called with each job in a thread.  What it raises is logged.
    :ivar backlog: jobs that wait; any thread.
    :ivar working: what each busy thread works on, by its `threading.get_ident()`; each thread writes its own.
    """

    def __init__(self, size: int, queue: int, run: Callable[[Job], None]) -> None:
        self.size = size
        self._most = size + queue
        self._run = run
        self.backlog: deque[Job] = deque()
        self.working: dict[int, Job] = {}
        self.threads: list[threading.Thread] = []
        self._idle: list[threading.Lock] = []
        self._lost: set[int] = set()  # added to by the reactor thread, left by each thread itself
        self._number = 0
        self._waking = self._holding = self._stopping = False

    def start(self) -> None:
        """Start the threads.  After the fork: threads do not survive one.

        :raises NoThread: the system refuses one of them; then the others end, and this pool is of no use.
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
        """Have a job run, unless as many wait as may.  Any thread."""
        if len(self.backlog) + len(self.working) - len(self._lost) >= self._most:
            return False
        self.backlog.append(job)
        if not self._holding and not self._waking and self._idle:
            self._wake()
        return True

    @property
    def queued(self) -> int:
        """How many jobs wait for a thread."""
        return len(self.backlog)

    def hold(self) -> None:
        """A batch begins: wake no thread before :meth:`kick`.  Reactor thread."""
        self._holding = True

    def kick(self) -> None:
        """The batch is over: wake a thread if there is work."""
        self._holding = False
        if self.backlog and not self._waking and self._idle:
            self._wake()

    def native(self, thread: int) -> int:
        """The kernel's number of a thread of ours, by its `threading.get_ident()`; 0 if it is not ours."""
        return next((one.native_id or 0 for one in self.threads if one.ident == thread), 0)

    def replace(self, thread: int) -> bool:
        """Start a thread in the place of one that does not come back.  Reactor thread.

        If it comes back all the same, it ends.  False: as many are lost already as the pool has threads, or the
        system refuses another one.
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
        """End the threads that are idle, and wait for the others at most `timeout` seconds together.

        Blocks.  Returns the threads that did not end.
        """
        self._stopping = True
        while self._idle:
            self._wake()
        until = monotonic() + timeout
        for thread in self.threads:
            thread.join(max(0.0, until - monotonic()))
        return [thread for thread in self.threads if thread.is_alive()]

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
        me = threading.get_ident()
        while True:
            try:
                job = backlog.popleft()
            except IndexError:
                if self._stopping:
                    return
                idle.append(mine)
                if (backlog and not self._waking) or self._stopping:
                    # Something came between looking and lying down.
                    try:
                        idle.remove(mine)
                        continue
                    except ValueError:
                        pass  # another thread chose this one meanwhile and is about to release the lock
                mine.acquire()
                self._waking = False
                try:
                    job = backlog.popleft()
                except IndexError:
                    continue
                if backlog and idle:
                    self._wake()
            working[me] = job
            try:
                run(job)
            except BaseException:
                log.failure("a thread of the pool goes on after this")
            del working[me]
            del job
            if me in self._lost:
                self._lost.discard(me)
                self.threads.remove(threading.current_thread())
                if backlog and idle and not self._waking:
                    self._wake()
                return
