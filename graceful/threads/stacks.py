"""Shows what a worker is doing right now: the stack of a thread, or of what else works, as text."""

from __future__ import annotations

import sys
import threading
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


def name_of(thread: int) -> str:
    """Returns the name of a thread of Python's, by its `threading.get_ident()`; an empty string if it has ended."""
    known = _python_thread(thread)
    return known.name if known is not None else ""


def native_id(thread: int) -> int:
    """Returns a thread of Python's as the kernel numbers it; 0 if it has ended."""
    known = _python_thread(thread)
    return (known.native_id or 0) if known is not None else 0


def _python_thread(thread: int) -> threading.Thread | None:
    # Not by `threading.enumerate()`: that waits for a lock, which a thread may hold that is to be brought down.
    found: threading.Thread | None = threading._active.get(thread)  # type: ignore[attr-defined]
    return found
