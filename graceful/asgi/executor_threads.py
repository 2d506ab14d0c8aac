"""The threads in which an ASGI application runs blocking code, and the exchanges that they run it for.

Starlette and FastAPI call a `def` endpoint in a thread of anyio's, Django a synchronous view in one of asgiref's,
and `asyncio.to_thread` takes one of the loop's executor.  The task only waits for such a thread: when it is
cancelled, the thread goes on.  So a takedown that knows the task alone cannot tell what was interrupted, nor whether
it has ended.

None of these threads says for whom it works.  But all of them run the code in a copy of the task's context, where
the exchange is (:mod:`graceful.application.current`), and the function that calls the code has that context among its
variables.  So it is found from the thread's outermost frames, in the functions that are known to do that.

A context is copied by each new task, too, and one of those may outlive the request that has begun it, and work for
all others: a consumer of a queue that the first request has started.  So it counts as well which future the thread
is to fulfil: an exchange's own thread is one whose future its task waits for, or which was cancelled with its task.

An executor's own code reports to the loop what the application's has done.  An exception that is raised there would
end the thread, and the task that waits for it would wait for ever.  Each executor calls the application's code in a
`try`, and by the only instruction of its kind, that of a call with `*arguments`: so a thread is in the application's
code while its executor is at that instruction.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.thread import _WorkItem
from contextvars import Context
from functools import partial
from opcode import opmap
from time import monotonic
from types import BuiltinMethodType, FrameType, FunctionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from graceful.application.current import current
from graceful.threads.async_exc import AsyncExc, RunsApplication
from graceful.threads.one_pass import Variable, frames_of, set_exception_at, variables_of

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange

#: The functions of executors that call what they are given, and report its end, by module and name.
_EXECUTORS: Final = frozenset((("anyio._backends._asyncio", "run"), ("concurrent.futures.thread", "run")))
#: The functions that have a variable with the application's context.
_CALLERS: Final = _EXECUTORS | {("asgiref.sync", "func"), ("asgiref.sync", "thread_handler")}
#: Frames that are looked at, from a thread's beginning: more than there are below the last of those functions.
OUTERMOST: Final = 12
#: What an executor calls the application's code by.
_CALL: Final = opmap["CALL_FUNCTION_EX"]
#: Seconds for which a look at all threads is believed.
FRESH: Final = 0.02


class ExecutorCall(NamedTuple):
    """A call of the application's code in a thread of an executor.

    :ivar thread: the thread, as `threading.get_ident()` numbers it.
    :ivar future: the loop's future that the thread is to fulfil; None if there is none.
    """

    thread: int
    future: asyncio.Future[Any] | None

    @property
    def cancelled(self) -> bool:
        """Whether nothing waits for it any more, though it goes on."""
        return self.future is not None and self.future.cancelled()


class ThreadPlace(NamedTuple):
    """Where a thread is in the code that it runs for an exchange.

    :ivar frame: the innermost one.
    :ivar instruction: its `f_lasti`.
    :ivar context: the variable that refers to the exchange's context.
    """

    frame: FrameType
    instruction: int
    context: Variable


class ExecutorThreads:
    """Knows which threads run code for which exchange.  Any thread.

    One look at all threads answers all that is asked within :data:`FRESH` seconds: a takedown of a thousand tasks
    asks for each of them, again and again.

    :param clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._seen: tuple[float, dict[int, list[ExecutorCall]]] = (-FRESH, {})  # when, and by the exchange's `id`

    def of(self, exchange: Exchange, loop: int) -> list[ExecutorCall]:
        """Returns the calls that run in the exchange's context.

        :param loop: the loop's thread, which is no executor's.
        """
        now, (looked, found) = self._clock(), self._seen
        if now - looked >= FRESH:
            found = {}
            for thread in sys._current_frames().keys() - {threading.get_ident()}:
                for called_for, _, future in _calls(frames_of(thread)):
                    found.setdefault(id(called_for), []).append(ExecutorCall(thread, future))
            self._seen = now, found
        return [call for call in found.get(id(exchange), ()) if call.thread != loop]


def place_of(thread: int, exchange: object) -> ThreadPlace | None:
    """Returns where a thread is in the code that it runs for an exchange; None if it runs none, or reports that."""
    frames = frames_of(thread)
    # While the innermost frame stays where it is, those that have called it do, too: each may be looked at by itself.
    instructions = [frame.f_lasti for frame in frames]
    context = next((context for called_for, context, _ in _calls(frames) if called_for is exchange), None)
    calls = (
        frame.f_code.co_code[instruction] == _CALL
        for frame, instruction in zip(frames, instructions, strict=True)
        if _name_of(frame) in _EXECUTORS
    )
    return ThreadPlace(frames[0], instructions[0], context) if context is not None and any(calls) else None


class ExecutorExc(AsyncExc):
    """Raises the exception of a takedown in one of these threads, while it runs code for the exchange."""

    __slots__ = ()

    def inject(self, exchange: RunsApplication, exception: type[BaseException], asleep: bool = False) -> bool:
        """Have an exception raised, as :meth:`AsyncExc.inject` does.

        If the executor's own function is the innermost one, it is in a function in C, or has just come back and looks
        for exceptions, while another thread has the GIL.  From CPython 3.13 on it does not see one that is set then,
        and would meet it behind the call.  A thread that waits for the GIL is not asleep: it asks for it again and
        again.
        """
        place = place_of(self.thread, exchange)
        return (
            place is not None
            and (asleep or _name_of(place.frame) not in _EXECUTORS)
            and set_exception_at(self.thread, place.frame, place.instruction, exception, place.context)
        )


def _calls(frames: list[FrameType]) -> Iterator[tuple[Exchange, Variable, asyncio.Future[Any] | None]]:
    """Yields each exchange that a thread runs code for, the variable with its context, and the future to fulfil.

    :param frames: the thread's, innermost first.
    """
    future, yielded = None, []
    for frame in frames[: -OUTERMOST - 1 : -1]:
        if _name_of(frame) in _CALLERS:
            variables = variables_of(frame)
            future = next((one for variable in variables for one in _futures_in(variable)), future)
            for variable in variables:
                context = _context_in(variable.value)
                exchange = context.get(current) if context is not None else None
                if exchange is not None and exchange not in yielded:  # two functions may have one context
                    yielded.append(exchange)
                    yield exchange, variable, future


def _name_of(frame: FrameType) -> tuple[str, str]:
    """Returns the module and the name of a function."""
    module = frame.f_globals.get("__name__")
    return (module if type(module) is str else "", frame.f_code.co_name)


# Only exact types are looked for: to ask an object of the application's may run its code, such as a proxy's.


def _context_in(value: Any) -> Context | None:
    """Returns the context that a variable refers to: by itself, as its `run`, or as what an executor is to call."""
    if type(value) is _WorkItem:
        value = value.task[0] if hasattr(value, "task") else value.fn
    if type(value) is partial:
        value = value.func
    if type(value) is BuiltinMethodType:
        value = value.__self__
    return value if type(value) is Context else None


def _futures_in(variable: Variable) -> Iterator[asyncio.Future[Any]]:
    """Yields the loop's futures that an executor's variable leads to: anyio's own, or what asyncio has chained."""
    value = variable.value
    if variable.name == "future" and type(value) is asyncio.Future:
        yield value
    elif type(value) is _WorkItem:
        for callback in list(value.future._done_callbacks):  # type: ignore[attr-defined]
            if type(callback) is FunctionType and "destination" in callback.__code__.co_freevars:
                cells = dict(zip(callback.__code__.co_freevars, callback.__closure__ or (), strict=True))
                chained = cells["destination"].cell_contents
                if type(chained) is asyncio.Future:
                    yield chained
