"""What threads are doing right now, in words."""

from __future__ import annotations

import sys
import traceback


def stack_of(thread: int) -> str:
    """Return the stack of a thread, innermost call last; an empty string if there is no such thread.

    :param thread: as `threading.get_ident()` has it; 0 for none.
    """
    frame = sys._current_frames().get(thread) if thread else None
    if frame is None:
        return ""
    try:
        return "".join(traceback.format_stack(frame)).rstrip()
    finally:
        del frame
