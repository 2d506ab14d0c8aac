"""What the kernel tells of a process by its number."""

from __future__ import annotations

import os
from collections.abc import Callable


def is_zombie(pid: int) -> bool:
    """Whether a process has ended, and only waits for its parent to collect it; False if that cannot be known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The state is behind the program's name, which may hold anything (proc(5)).
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except (OSError, IndexError):
        return False


def alive(pid: int, kill: Callable[[int, int], None] = os.kill, is_zombie: Callable[[int], bool] = is_zombie) -> bool:
    """Whether a process of this number runs, of any user.  A zombie does not: its parent may never collect it."""
    try:
        kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return not is_zombie(pid)
