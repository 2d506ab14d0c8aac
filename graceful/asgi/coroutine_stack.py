"""Shows what a task waits for: the stack of its coroutines, through all awaits, as text.

`Task.get_stack` returns one frame of a task that waits, the outermost.  What an operator needs is the innermost one:
the query, the lock or the queue at the end of the chain.
"""

from __future__ import annotations

import asyncio
import traceback
from types import FrameType
from typing import Any, Final

#: Frames that are shown at most, so that a chain that is a circle has an end.
MOST: Final = 100


def stack_of_task(task: asyncio.Task[Any]) -> str:
    """Returns the stack of a task, innermost await last.  Any thread; the task may go on meanwhile."""
    lines: list[str] = []
    awaited: Any = task.get_coro()
    for _ in range(MOST):
        frame = _attribute(awaited, "frame")
        if isinstance(frame, FrameType):
            lines += traceback.format_list([_summary(frame)])
        following = _attribute(awaited, "await") or getattr(awaited, "gi_yieldfrom", None)
        if following is None:
            break
        awaited = following
    return "".join(lines).rstrip()


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
