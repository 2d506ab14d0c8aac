"""Ends or stops a process at a point of a hand-over: any Python that has this directory in its path.

Each function of `graceful.takeover` and `graceful.web.moving` has two points, where it begins and where it ends; they
are numbered as they are first passed.  The environment's POINT is `SIGNAL NUMBER FILE`: nothing is counted before
FILE exists, each point that is passed is written to it, and at point NUMBER the process sends itself the signal.

With a fourth word, `worker`, each worker counts, and the first one that comes to NUMBER gets the signal.  With
`supervisor` the points are those of `graceful.workers`.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from types import FrameType

where: tuple[str, ...] = (f"graceful{os.sep}takeover{os.sep}", f"graceful{os.sep}web{os.sep}moving")
passed: dict[tuple[str, str, str], None] = {}
numbers = itertools.count(1)


def note(frame: FrameType, event: str, argument: object) -> None:
    """Count a point, if it is one, and end or stop there."""
    code = frame.f_code
    if event not in ("call", "return") or not any(part in code.co_filename for part in where):
        return
    point = (
        os.path.basename(code.co_filename),
        code.co_qualname if hasattr(code, "co_qualname") else code.co_name,
        event,
    )
    if code.co_name.startswith("<") or point in passed or not os.path.exists(path):
        return
    passed[point] = None
    mine = next(numbers)  # another thread may pass the next point meanwhile
    line = f"{mine} {' '.join(point)}\n".encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, line)
    os.close(descriptor)
    if mine == number and first():
        os.kill(os.getpid(), which)


def first() -> bool:
    """Whether no other process has come to the point."""
    try:
        os.close(os.open(f"{path}.hit", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


if "POINT" in os.environ and not (os.environ["POINT"].endswith(" worker") and "GRACEFUL_WORKER" not in os.environ):
    given, at, path, *role = os.environ.pop("POINT").split()
    which, number = int(given), int(at)
    if role == ["supervisor"]:
        where = (f"graceful{os.sep}workers{os.sep}",)
    threading.setprofile(note)
    sys.setprofile(note)
