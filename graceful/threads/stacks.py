"""Shows what a worker is doing right now: the stack of a thread, or of what else works, as text."""

from __future__ import annotations

import sys
import traceback
from typing import Any, Protocol


class StackHolder(Protocol):
    """Something other than a thread that works, such as a task of an event loop.

    :ivar kind: what the log calls it.
    """

    @property
    def kind(self) -> str: ...

    def stack(self) -> str:
        """Returns its stack, innermost call last.  Any thread."""


#: What works for an exchange: a thread, by its `threading.get_ident()`, or something else.
Worker = int | StackHolder


def kind_of(worker: Any) -> str:
    """Returns what the log calls a worker."""
    return "thread" if isinstance(worker, int) else str(worker.kind)


def stack_of(worker: Worker) -> str:
    """Returns the stack of a worker, innermost call last; an empty string if there is none.

    :param worker: what works; 0 for nothing.
    """
    if not isinstance(worker, int):
        return worker.stack()
    thread = worker
    frame = sys._current_frames().get(thread) if thread else None
    if frame is None:
        return ""
    try:
        return "".join(traceback.format_stack(frame)).rstrip()
    finally:
        del frame
