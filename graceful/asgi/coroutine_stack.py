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

from graceful.threads.one_pass import variables_of

#: Frames that are looked at, at most, so that a chain that is a circle has an end.
MOST: Final = 100
#: Futures that are followed, at most.
TASKS: Final = 10_000
#: The modules of groups, which wait at their end for all the tasks that were begun in them.
_GROUPS: Final = frozenset(("anyio._backends._asyncio", "asyncio.taskgroups"))
#: The modules whose functions are looked through for groups.  Not the application's: to look at its variables from
#: another thread may keep them alive for a moment, and let its finalizers run there.
_WITH_GROUPS: Final = _GROUPS | {"starlette.middleware.base"}


def stack_of_task(task: asyncio.Task[Any]) -> str:
    """Returns the stack of a task, innermost await last.  Any thread; the task may go on meanwhile."""
    lines: list[str] = []
    for frame in _frames(task):
        lines += traceback.format_list([_summary(frame)])
    return "".join(lines).rstrip()


def reached_by(task: asyncio.Task[Any]) -> set[asyncio.Future[Any]]:
    """Returns the futures that a cancellation of a task reaches, through tasks, `gather` and groups.  Any thread.

    What the task waits for without owning it is not reached, as with `asyncio.wait` and `asyncio.shield`: others may
    wait for it, too.
    """
    reached: set[asyncio.Future[Any]] = set()
    left: list[Any] = [task]
    while left and len(reached) < TASKS:
        future = left.pop()
        if future in reached:
            continue
        reached.add(future)
        if isinstance(future, asyncio.Task):
            waiter = getattr(future, "_fut_waiter", None)
            left += [waiter] if waiter is not None else []
            left += _members(future)
        else:
            left += getattr(future, "_children", ())  # of `gather`
    return reached


def _members(task: asyncio.Task[Any]) -> list[asyncio.Task[Any]]:
    """Returns the tasks in the groups that a task has entered, as far as they are seen."""
    found: list[asyncio.Task[Any]] = []
    for frame in _frames(task):
        if frame.f_globals.get("__name__") in _WITH_GROUPS:
            for _, _, value in variables_of(frame):
                kind = type(value)
                if kind.__name__ == "TaskGroup" and kind.__module__ in _GROUPS:
                    scope = getattr(value, "cancel_scope", None)
                    if task is (value._parent_task if scope is None else scope._host_task):
                        found += list(value._tasks)
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
