"""Thread pools end within a deadline, or their threads are named and abandoned.

`twisted.python.threadpool.ThreadPool.stop` waits for every thread that the pool ever had, without a limit, in the
reactor thread.  One job that does not end holds the process for ever; and so does one that ends, if it has something
to ask the reactor first: `blockingCallFromThread` waits for a reactor that waits for it (Twisted's issue 10124).

Here, once a drain is over, all pools together have until one moment.  A thread that waits for the reactor is let go
with an error, since it will not answer any more.  Threads that are still there then are named, with their stacks, and
abandoned: they are daemons, so that the interpreter does not wait for them either.

Any code may make a pool, and stops it without asking a reactor.  So this module changes Twisted's class, but only in
a process that has installed the reactor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread, get_ident
from time import monotonic
from types import SimpleNamespace
from typing import Any, Final

from twisted.internet import threads
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from graceful.threads.stacks import stack_of

log = Logger(namespace="graceful")


#: Seconds of one `join` at most: a signal handler that moves the deadline must be noticed.
LOOK_AGAIN: Final = 0.1


class DaemonThread(Thread):
    """A thread that the interpreter does not wait for."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.daemon = True


class ReplyQueue(SimpleQueue[Any]):
    """The queue by which the reactor answers one waiting thread."""

    waiters: Waiters

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Wait for the answer, or until there will be none."""
        self.waiters.wait(self)
        try:
            return super().get(block, timeout)
        finally:
            self.waiters.discard(self)


class Waiters:
    """The threads that wait for the reactor in `blockingCallFromThread`, each for an answer of its own.  Any thread.

    A thread and its queue are registered before the wait begins.
    """

    def __init__(self) -> None:
        self._waiting: dict[ReplyQueue, int] = {}  # each entry is made and removed by the thread that waits
        self._is_refused: Callable[[int], bool] = lambda thread: False

    def answer(self) -> ReplyQueue:
        """Returns the queue for one call; stands in for `threads.Queue.Queue`."""
        answer = ReplyQueue()
        answer.waiters = self
        return answer

    def wait(self, answer: ReplyQueue) -> None:
        """Register a thread that is about to wait; if no answer will come, it gets an error at once."""
        thread = self._waiting[answer] = get_ident()
        if self._is_refused(thread):
            answer.put(_reactor_stopped())

    def discard(self, answer: ReplyQueue) -> None:
        """Forget a thread that has its answer."""
        self._waiting.pop(answer, None)

    def refuse(self, which: Callable[[int], bool]) -> None:
        """Give threads an error instead of an answer: those that wait now, and those that begin to wait later.

        :param which: returns whether the thread with an ident gets the error.
        """
        self._is_refused = which
        for answer, thread in list(self._waiting.items()):
            if which(thread):
                answer.put(_reactor_stopped())


def _reactor_stopped() -> Failure:
    return Failure(ReactorNotRunning("the reactor stops: it can call nothing for a thread any more"))


class Pools:
    """Stops all thread pools of the process within one deadline.

    :ivar until: the deadline, monotonic seconds; None while pools are stopped as Twisted stops them.  Main thread,
        and its signal handlers.
    :ivar abandoned: how many threads did not end in time.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.until: float | None = None
        self.abandoned = 0
        self._clock = clock
        self._waiters = Waiters()

    def install(self) -> None:
        """Replace `ThreadPool.stop` in this process."""
        stock = ThreadPool.stop

        def stop(pool: ThreadPool) -> None:
            """Shut the threads in the pool down."""
            if self.until is None:
                stock(pool)
            else:
                self.stop(pool)

        ThreadPool.stop = stop  # type: ignore[method-assign,assignment]
        ThreadPool.threadFactory = DaemonThread
        # `blockingCallFromThread` finds its queue's class by this name, wherever and whenever it was imported.
        threads.Queue = SimpleNamespace(Queue=self._waiters.answer)  # type: ignore[assignment,attr-defined]

    def stop(self, pool: ThreadPool) -> None:
        """Stop a pool; its backlog and running jobs have until the common deadline.  Blocks the reactor thread."""
        assert self.until is not None
        pool.joined, pool.started = True, False
        pool._team.quit()
        mine = {thread.ident for thread in pool.threads}
        self._waiters.refuse(mine.__contains__)
        for thread in pool.threads:
            while thread.is_alive() and (left := self.until - self._clock()) > 0:
                thread.join(min(left, LOOK_AGAIN))  # a signal handler may move the deadline
        for thread in pool.threads:
            if thread.is_alive():
                self.abandoned += 1
                log.warn(
                    "abandoning thread {name}, which is here:\n{stack}",
                    name=thread.name,
                    stack=stack_of(thread.ident or 0),
                )

    def reactor_gone(self) -> None:
        """The reactor has stopped: it gives no more answers."""
        main = threading.main_thread().ident
        self._waiters.refuse(lambda thread: thread != main)
