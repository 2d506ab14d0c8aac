"""Memory that was freed is kept for what is allocated next.

Large bodies are made for each answer and freed after it.  The C library gives such memory back to the kernel, and
asks for it at the next answer: the page faults of a body of a mebibyte cost more than sending it.  Each thread also
allocates from an arena of its own, and frees into that of another one.

Three limits of glibc, set together, end that.  A single one makes it worse: a limit for trimming alone switches off
the one for mapped blocks that glibc raises by itself, and such a body costs more than twice as much.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from typing import Final

#: Of mallopt(3): the variable that sets the limit as well, the parameter's number, and the value.
LIMITS: Final = (
    ("MALLOC_ARENA_MAX", -8, 1),
    ("MALLOC_MMAP_THRESHOLD_", -3, 32 << 20),
    ("MALLOC_TRIM_THRESHOLD_", -1, 64 << 20),
)
#: Sets the same and more, in a string of its own form.
TUNABLES: Final = "GLIBC_TUNABLES"

Mallopt = Callable[[int, int], int]


def find_mallopt() -> Mallopt | None:
    """Returns the C library's `mallopt`; None if it has none, or one that does nothing, as musl's."""
    library = ctypes.CDLL(None)
    return library.mallopt if hasattr(library, "gnu_get_libc_version") else None


def keep_freed_memory(
    environment: Mapping[str, str] = os.environ, find: Callable[[], Mallopt | None] = find_mallopt
) -> bool:
    """Set the three limits.  Call it in the process that serves, before it starts its threads.

    :param environment: an operator who sets one of the limits in it chooses all of them.
    :param find: returns the function that sets a limit.
    :returns: whether they are set.
    """
    if TUNABLES in environment or any(variable in environment for variable, _, _ in LIMITS):
        return False
    mallopt = find()
    if mallopt is None:
        return False
    taken = [mallopt(parameter, value) for _, parameter, value in LIMITS]
    return all(taken)
