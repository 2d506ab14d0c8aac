"""The tasks that work for exchanges: the asyncio counterpart of a pool of threads.

A drain, a takedown and the status ask who works for an exchange.  For a WSGI application that is a thread, for an
ASGI application a task; this table knows all of them, from the moment at which an exchange is left to the loop, which
may be blocked and not begin it, until its coroutine has returned.  When an exchange is taken down, also the threads
count in which a framework runs blocking code for it: until they have ended.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.logger import Logger

from graceful.application.current import set_current
from graceful.application.deadlines import Takedown
from graceful.asgi.call_interrupts import InterruptThread
from graceful.asgi.coroutine_stack import reached_by, stack_of_task
from graceful.asgi.executor_threads import ExecutorCall, ExecutorThreads
from graceful.asgi.loop_thread import LoopThread
from graceful.asgi.task_interrupt import TaskInterrupt
from graceful.reports.failed_answer import answer_failure
from graceful.reports.reporter import Reporter
from graceful.threads.stacks import name_of, stack_of
from graceful.web.exchange import APPLICATION, SENDING

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange

log = Logger(namespace="graceful")

_NO_FUTURES: Final[frozenset[asyncio.Future[Any]]] = frozenset()


class Job(Protocol):
    """What is to be done for an exchange.

    :ivar handed_over: whether another party gives the answer and releases the exchange, whatever becomes of the job.
    """

    @property
    def handed_over(self) -> bool: ...

    async def run(self) -> bool:
        """Do it.  Returns whether another party releases the exchange.  The loop's thread."""


class Work:
    """What works for one exchange: a task, or a place in the loop's queue.

    :param exchange: the exchange.
    :param job: what is to be done for it.
    :param thread: the loop's thread.
    :param executors: know the threads that the task waits for.
    :param taken_down: the works that are taken down, by their exchanges.
    :ivar task: the task; None until it has begun.
    :ivar reached: the futures that a cancellation of the task reaches, as seen since its takedown.
    """

    __slots__ = ("_everything", "_executors", "_taken_down", "exchange", "job", "reached", "task", "thread")

    #: What the log calls a worker of this kind.
    kind = "task"

    def __init__(
        self,
        exchange: Exchange,
        job: Job,
        thread: LoopThread,
        executors: ExecutorThreads,
        taken_down: dict[Exchange, Work],
    ) -> None:
        self._executors = executors
        self._taken_down = taken_down
        self.exchange = exchange
        self.job = job
        self.thread = thread
        self.task: asyncio.Task[None] | None = None
        self._everything = False
        self.reached: frozenset[asyncio.Future[Any]] = _NO_FUTURES

    def stack(self) -> str:
        """Returns the stack of the task, innermost await last, and those of its threads.  Any thread.

        If the loop is in the task's code, or has not begun it, the stack of the loop's thread.
        """
        task = self.task
        stacks = [stack_of(self.thread.ident) if task is None or self.runs_now() else stack_of_task(task)]
        for call in self._executors.of(self.exchange, self.thread.ident):
            stack = stack_of(call.thread)
            stacks += [f"its thread {name_of(call.thread)!r} is here:\n{stack}"] if stack else []
        return "\n".join(stack for stack in stacks if stack)

    def runs_now(self) -> bool:
        """Whether the loop's thread runs this task's code.  Any thread."""
        task = self.task
        return task is not None and asyncio.current_task(self.thread.loop) is task

    def calls(self) -> list[ExecutorCall]:
        """Returns the calls in threads of executors that are taken down with the task.  Any thread.

        Those that a cancellation of the task reaches or has reached, also when it has ended without them; at the
        deadline of a drain, all that run in the exchange's context.
        """
        calls, task = self._executors.of(self.exchange, self.thread.ident), self.task
        if self._everything:
            return calls
        if calls and task is not None and not task.done():
            self.reached |= reached_by(task)
        return [call for call in calls if call.cancelled or call.future in self.reached]

    def cancel(self) -> bool:
        """Cancel the task.  Any thread; does not wait.

        :returns: False if the task is over.
        """
        if self.task is not None and self.task.done():
            return False
        self.thread.call(self._cancel)
        return True

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def interrupt(
        self, exchange: Exchange, now: float, interrupt_thread: InterruptThread, everything: bool
    ) -> TaskInterrupt:
        """Begin to bring it down.  Reactor thread.

        :param now: monotonic seconds.
        :param interrupt_thread: brings down the loop's thread, if that is blocked.
        :param everything: also what the exchange has begun and left to itself.
        """
        self._taken_down[self.exchange] = self
        self._everything = everything
        if self.task is not None:
            self.reached |= reached_by(self.task)
        return TaskInterrupt(self, now, interrupt_thread)


class TaskTable:
    """Starts tasks that work for exchanges, and knows them.

    :param thread: the loop's thread.
    :param reports: gets a report of each exchange whose coroutine raises.
    """

    def __init__(self, thread: LoopThread, reports: Reporter) -> None:
        self._thread = thread
        self._executors = ExecutorThreads()
        self._reports = reports
        # Any thread; single operations are atomic.
        self._works: dict[Exchange, Work] = {}
        self._taken_down: dict[Exchange, Work] = {}  # until their tasks are over, and their threads

    # -- any thread ---------------------------------------------------------------------------------------

    def start(self, exchange: Exchange, job: Job) -> None:
        """Have a job done for an exchange, in a task of its own.

        When it returns, the exchange is released if the job has finished or abandoned it.  When it raises, the client
        gets 500, or sees its answer cut, and there is a report.
        """
        work = self._works[exchange] = Work(exchange, job, self._thread, self._executors, self._taken_down)
        self._thread.call(self._begin, work)

    def __contains__(self, exchange: object) -> bool:
        return exchange in self._works

    def __len__(self) -> int:
        return len(self._works)

    def job_of(self, exchange: Exchange) -> Job | None:
        """Returns what is to be done for an exchange; None if that is done."""
        work = self._works.get(exchange)
        return None if work is None else work.job

    def working(self) -> dict[Exchange, Work]:
        """Returns the exchanges that a task works for, or a thread that is taken down with it, each with its work."""
        for exchange, work in list(self._taken_down.items()):
            if exchange not in self._works and not work.calls():
                self._taken_down.pop(exchange, None)
        return {**self._taken_down, **self._works}

    # -- the loop's thread --------------------------------------------------------------------------------

    def _begin(self, work: Work) -> None:
        exchange = work.exchange
        write_token = exchange.connection.write_token
        if write_token.current is not exchange or write_token.closed:
            self._works.pop(exchange, None)
            exchange.abandon()  # the client left, or the deadline came, before the loop came to it
            exchange.release()
            return
        work.task = self._thread.loop.create_task(self._run(work))

    async def _run(self, work: Work) -> None:
        exchange = work.exchange
        exchange.phase = APPLICATION
        set_current(exchange)
        released = False
        try:
            released = await work.job.run()
        except BaseException as error:
            released = work.job.handed_over
            self._failed(exchange, error, released)
        finally:
            try:
                if exchange.phase == APPLICATION:
                    exchange.phase = SENDING
                if exchange.hooks is not None:
                    for hook in exchange.hooks.copy():
                        hook.cancel()
                exchange.environ = None
            finally:  # whatever a hook or an exception of a takedown that comes late does: a drain waits for this
                self._works.pop(exchange, None)
                if not released:
                    exchange.release()

    def _failed(self, exchange: Exchange, error: BaseException, handed_over: bool) -> None:
        try:
            if (exchange.ended or handed_over) and not isinstance(error, Takedown | asyncio.CancelledError):
                self._failed_late(exchange, error)
            elif not handed_over:
                answer_failure(exchange, error, self._reports)
        except (Exception, Takedown):  # of a takedown: one that comes late
            exchange.connection.site.fail(exchange)

    def _failed_late(self, exchange: Exchange, error: BaseException) -> None:
        """The answer was complete, or left to another party, and what the application did then has failed."""
        if exchange.takedown is not None or exchange.error:
            return
        exchange.report = exchange.report or self._reports.new_id()
        log.failure(
            "{exchange}: the application failed after its answer ({report})",
            exchange=exchange,
            report=exchange.report,
        )
        exchange.error = 500
        self._reports.failed(exchange, "error", error)
