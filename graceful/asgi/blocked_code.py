"""Whether a blocked loop's thread is in the application's code, where an exception of a takedown may be raised.

The same thread runs the loop itself, and the server's part of a session, which may hold a connection's write token.
An exception that is raised there would leave the loop or the connection in pieces.  What the thread does is seen
from its frames: the innermost one that belongs to a known file decides.
"""

from __future__ import annotations

import asyncio
import os
import selectors
from types import FrameType
from typing import Final

from graceful.threads.one_pass import frames_of

_SERVER: Final = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_LOOP: Final = os.path.dirname(os.path.abspath(asyncio.__file__)) + os.sep
_SELECT: Final = os.path.abspath(selectors.__file__)
#: The functions of the server that call the application, by file and name.
_CALLERS: Final = frozenset(
    (os.path.join(_SERVER, "asgi", file), name)
    for file, name in (
        ("asgi_host.py", "_logged"),
        ("http_session.py", "run"),
        ("lifespan.py", "_run"),
        ("loop_thread.py", "_run"),
        ("websocket_task.py", "run"),
    )
)


def application_frame(thread: int) -> FrameType | None:
    """Returns the innermost frame of a thread that runs an event loop; None in the loop's or the server's code.

    :param thread: its `threading.get_ident()`.
    """
    frames = frames_of(thread)
    for frame in frames:
        name = frame.f_code.co_filename
        is_server = name.startswith(_SERVER)
        if is_server or name.startswith(_LOOP) or name == _SELECT:
            called = frame is not frames[0] and (not is_server or (name, frame.f_code.co_name) in _CALLERS)
            return frames[0] if called else None
    return None
