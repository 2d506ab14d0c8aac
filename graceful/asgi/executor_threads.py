"""The threads in which an ASGI application runs blocking code, and the exchanges that they run it for.

Starlette and FastAPI call a `def` endpoint in a thread of anyio's, Django a synchronous view in one of asgiref's,
and `asyncio.to_thread` takes one of the loop's executor.  The task only waits for such a thread: when it is
cancelled, the thread goes on.  So a takedown that knows the task alone cannot tell what was interrupted, nor whether
it has ended.

None of these threads says for whom it works.  But all of them run the code in a copy of the task's context, where
the exchange is (:mod:`graceful.application.current`), and the function that calls the code has that context among its
variables.  So it is found from the thread's outermost frames, in the functions that are known to do that.

Between the application's code and the loop, these threads report what they have done.  An exception that is raised
there would end the thread, and the task that waits for it would wait for ever.  So a takedown asks where the thread
is.
"""

from __future__ import annotations

import sys
from concurrent.futures.thread import _WorkItem
from contextvars import Context
from functools import partial
from types import BuiltinMethodType, FrameType
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from graceful.application.current import current
from graceful.threads.async_exc import AsyncExc, RunsApplication, set_exception_at

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange

#: The functions that call an application's code in its context, by module and name.
_CALLERS: Final = frozenset(
    (
        ("anyio._backends._asyncio", "run"),
        ("asgiref.sync", "func"),
        ("asgiref.sync", "thread_handler"),
        ("concurrent.futures.thread", "run"),
    )
)
#: Frames that are looked at, from a thread's beginning: more than there are below the last of those functions.
OUTERMOST: Final = 12
#: What is called beside the application's code by the functions that call that: they report to the loop.
_REPORTING: Final = frozenset(
    ("call_soon_threadsafe", "is_closed", "set_exception", "set_result", "set_running_or_notify_cancel", "task_done")
)


@frozen(eq=False)
class ThreadPlace:
    """Where a thread is in the code that it runs for an exchange.

    :ivar frame: the innermost one.
    :ivar instruction: its `f_lasti`.
    :ivar certain: a function of the application's is running.  If not, a function in C is, or the thread has just
        come back from it.
    """

    frame: FrameType
    instruction: int
    certain: bool

    def same(self, other: ThreadPlace | None) -> bool:
        """Whether this is where the thread was at another look."""
        return other is not None and (self.frame, self.instruction) == (other.frame, other.instruction)


def executor_threads(exchange: Exchange, loop: int) -> list[int]:
    """Returns the threads that run code for an exchange, as `threading.get_ident()` numbers them.  Any thread.

    :param loop: the loop's thread, which is none of them.
    """
    frames = sys._current_frames()
    return [thread for thread, frame in frames.items() if thread != loop and _caller(frame, exchange) is not None]


def place_of(thread: int, exchange: Exchange) -> ThreadPlace | None:
    """Returns where a thread is in the code that it runs for an exchange; None if it runs none, or reports that."""
    innermost = sys._current_frames().get(thread)
    found = _caller(innermost, exchange) if innermost is not None else None
    if innermost is None or found is None:
        return None
    caller, inside = found
    called = next((frame for frame in inside if frame.f_code.co_filename != caller.f_code.co_filename), None)
    if called is not None and called.f_code.co_name in _REPORTING:
        return None
    return ThreadPlace(innermost, innermost.f_lasti, called is not None)


class ExecutorExc(AsyncExc):
    """Raises the exception of a takedown in one of these threads, while it runs code for the exchange.

    :param thread: its `threading.get_ident()`.
    :param exchange: the exchange.
    """

    __slots__ = ("_exchange", "_last")

    def __init__(self, thread: int, exchange: Exchange) -> None:
        super().__init__(thread)
        self._exchange = exchange
        self._last: ThreadPlace | None = None

    def inject(self, exchange: RunsApplication, exception: type[BaseException]) -> bool:
        """Have an exception raised, as :meth:`AsyncExc.inject` does.

        A thread that is in a function in C must be found there twice: one that comes back from it looks the same.
        """
        place, last = place_of(self.thread, self._exchange), self._last
        self._last = place
        if place is None or not (place.certain or place.same(last)):
            return False
        return set_exception_at(self.thread, place.frame, place.instruction, exception)


def _caller(innermost: FrameType, exchange: Exchange) -> tuple[FrameType, list[FrameType]] | None:
    """Returns the frame that has the exchange's context, and those inside it, outermost first."""
    frames = [innermost]
    while frames[-1].f_back is not None:
        frames.append(frames[-1].f_back)
    frames.reverse()
    for number, frame in enumerate(frames[:OUTERMOST]):
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) in _CALLERS:
            for value in list(frame.f_locals.values()):
                context = _context_in(value)
                if context is not None and context.get(current) is exchange:
                    return frame, frames[number + 1 :]
    return None


def _context_in(value: Any) -> Context | None:
    """Returns the context that a variable refers to: by itself, as its `run`, or as what an executor is to call.

    Only by exact types: to ask an object of the application's may run its code, such as a proxy's.
    """
    if type(value) is _WorkItem:
        value = value.task[0] if hasattr(value, "task") else value.fn
    if type(value) is partial:
        value = value.func
    if type(value) is BuiltinMethodType:
        value = value.__self__
    return value if type(value) is Context else None
