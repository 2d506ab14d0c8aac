"""Looks at another thread, and acts on it, while it cannot go on.

What is seen of another thread is old as soon as this one has run a few bytecodes: between two of them the GIL may be
released, and the other thread goes on.  A generator that yields even loses its way back to the frames that it was
called from.  So all that belongs together is done in one pass through C, where the GIL is not released: by iterators
of `itertools` and functions of `operator`, which one call works off.  (In a build of Python without the GIL another
thread can go on all the same.)

Up to CPython 3.11 the garbage collector may run at any allocation in such a pass, and call a finalizer or a callback
that is written in Python.  It is off for that time.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, chain, islice, repeat
from operator import attrgetter, eq, is_, itemgetter
from types import FrameType
from typing import Any, Final, NamedTuple, TypeVar

from graceful.threads.async_exc import set_exception

_Result = TypeVar("_Result")

#: Whether the collector may run anywhere.
_COLLECTS_ANYWHERE: Final = sys.version_info < (3, 12)
#: Whether a frame keeps what `f_locals` has shown.
_KEEPS_LOCALS: Final = sys.version_info < (3, 13)


def _undisturbed(function: Callable[[Any], _Result], argument: Any) -> _Result:
    """Returns the result of a function in C, during which no garbage is collected."""
    collects = _COLLECTS_ANYWHERE and gc.isenabled()
    if collects:
        gc.disable()
    try:
        return function(argument)
    finally:
        if collects:
            gc.enable()


def _innermost(thread: int) -> Iterator[FrameType]:
    return map(itemgetter(thread), islice(iter(sys._current_frames, None), 1))


def frames_of(thread: int) -> list[FrameType]:
    """Returns the frames of a thread at one moment, innermost first; none if it has ended.

    :param thread: its `threading.get_ident()`; not the caller's, whose frame would refer to itself.
    """
    frames: list[Any] = []
    steps: Iterator[Any] = chain(_innermost(thread), repeat("f_back"))
    try:
        _undisturbed(frames.extend, accumulate(steps, getattr))
    except (AttributeError, KeyError):  # None has no `f_back`; the thread has no frame
        pass
    return [frame for frame in frames if frame is not None]


class Variable(NamedTuple):
    """A variable of a function that is running.

    :ivar frame: the function's.
    :ivar value: what it referred to when it was seen.
    """

    frame: FrameType
    name: str
    value: Any


def variables_of(frame: FrameType) -> list[Variable]:
    """Returns the variables of a function that is running; not for code that may itself ask for its `locals()`."""
    items = list(frame.f_locals.items())  # in one step: another thread may look at the same frame
    found = [Variable(frame, name, value) for name, value in items]
    _forget_locals(frame)
    return found


def set_exception_at(
    thread: int,
    frame: FrameType,
    instruction: int,
    exception: type[BaseException],
    variable: Variable | None = None,
) -> bool:
    """Have an exception raised in a thread that does not tell where it is, if it is still where it was seen.

    :param thread: its `threading.get_ident()`; not the caller's.
    :param frame: the thread's innermost frame as it was seen.
    :param instruction: that frame's `f_lasti` then.
    :param variable: one that must still refer to its value.
    :returns: False if the thread has gone on, or ended.
    """
    in_this_frame = map(is_, _innermost(thread), (frame,))
    at_this_instruction = map(eq, map(attrgetter("f_lasti"), (frame,)), (instruction,))
    refers: Iterable[bool] = ()
    if variable is not None:
        shown = map(attrgetter("f_locals"), (variable.frame,))
        refers = map(is_, map(itemgetter(variable.name), shown), (variable.value,))
    is_set = map(set_exception, (thread,), (exception,))
    try:
        return _undisturbed(all, chain(in_this_frame, at_this_instruction, refers, is_set))
    except KeyError:
        return False
    finally:
        if variable is not None:
            _forget_locals(variable.frame)


def _forget_locals(frame: FrameType) -> None:
    """Empty what `f_locals` has left in a frame, which would keep it alive for as long as that runs."""
    if _KEEPS_LOCALS and frame.f_trace is None:
        frame.f_locals.clear()
