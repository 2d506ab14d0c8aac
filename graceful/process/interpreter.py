"""Whether this server was made for the interpreter that runs it.

A takedown raises exceptions in other threads, and much of the server relies on single operations being atomic.  Both
are properties of the interpreter, which its releases may change without a word, so each release is tried before it is
named here.  On any other one the server starts all the same, and says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

#: The newest CPython on which the whole test suite has passed.
NEWEST_TRIED: Final = (3, 15)
_HAS_LOCK: Final[Callable[[], bool]] = getattr(sys, "_is_gil_enabled", lambda: True)  # new in 3.13

#: One of the modules that are compiled in a wheel for one platform: all of them are, or none (see setup.py).
_HOT: Final = "graceful.web.exchange"


def is_compiled(module: str = _HOT) -> bool:
    """Returns whether what every request goes through runs compiled.  It is not imported by the question."""
    spec = find_spec(module)
    return spec is not None and not (spec.origin or "").endswith(".py")


def caveats(
    version: tuple[int, int] = sys.version_info[:2],
    has_lock: Callable[[], bool] = _HAS_LOCK,
) -> list[str]:
    """Return what an operator should know about the interpreter, a line each; usually nothing.

    :param version: of the interpreter.
    :param has_lock: whether the interpreter's lock (the GIL) is in use.
    """
    lines = []
    if version > NEWEST_TRIED:
        lines.append(
            f"CPython {version[0]}.{version[1]} is newer than {NEWEST_TRIED[0]}.{NEWEST_TRIED[1]}, the newest that"
            " this release was tried on: a takedown may leave locks locked there"
        )
    if not has_lock():
        lines.append(
            "this release is not made for CPython without its lock, the GIL: answers may get mixed up;"
            " start it with PYTHON_GIL=1"
        )
    return lines
