"""Shows what a task waits for: the stack of its coroutines, through all awaits, and the futures at their ends.

`Task.get_stack` returns one frame of a task that waits, the outermost.  What an operator needs is the innermost one:
the query, the lock or the queue at the end of the chain.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

#: Frames that are looked at, and tasks, at most, so that a chain that is a circle has an end.
MOST: Final = 100
#: Those that wait at their end for all the tasks that were begun in them, by module.
_GROUPS: Final = frozenset(("anyio._backends._asyncio", "asyncio.taskgroups"))


def stack_of_task(task: asyncio.Task[Any]) -> str:
    """Returns the stack of a task, innermost await last.  Any thread; the task may go on meanwhile."""
    lines: list[str] = []
    for frame in _frames(task):
        lines += traceback.format_list([_summary(frame)])
    return "".join(lines).rstrip()


def awaited_by(task: asyncio.Task[Any]) -> list[asyncio.Future[Any]]:
    """Returns the futures for which a task waits, also through tasks, `gather` and groups of tasks.  Any thread.

    What it waits for by a callback is not found, as with `asyncio.wait` and `asyncio.shield`.
    """
    found: list[asyncio.Future[Any]] = []
    tasks: list[Any] = [task]
    for number, one in enumerate(tasks):
        if number >= MOST:
            break
        waiter = getattr(one, "_fut_waiter", None)
        for future in getattr(waiter, "_children", None) or [waiter]:
            if isinstance(future, asyncio.Task):
                tasks.append(future)
            elif future is not None:
                found.append(future)
        for frame in _frames(one):
            for value in list(frame.f_locals.values()):
                kind = type(value)
                if kind.__name__ == "TaskGroup" and kind.__module__ in _GROUPS:
                    tasks += [member for member in list(value._tasks) if member not in tasks]
    return found


def _frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """Yields the frames of a task, innermost await last."""
    awaited: Any = task.get_coro()
    for _ in range(MOST):
        frame = _attribute(awaited, "frame")
        if isinstance(frame, FrameType):
            yield frame
        awaited = _attribute(awaited, "await") or getattr(awaited, "gi_yieldfrom", None)
        if awaited is None:
            break


def _attribute(awaited: Any, name: str) -> Any:
    """Returns this attribute of a coroutine, a generator or an asynchronous generator; None if it has none."""
    for prefix in ("cr_", "gi_", "ag_"):
        found = getattr(awaited, prefix + name, None)
        if found is not None:
            return found
    return None


def _summary(frame: FrameType) -> traceback.FrameSummary:
    code = frame.f_code
    return traceback.FrameSummary(code.co_filename, frame.f_lineno, code.co_name)
