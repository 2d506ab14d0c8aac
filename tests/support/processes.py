"""What the kernel says of processes."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from tests.support.waiting import wait_for


def state_of(pid: int) -> str:
    """Returns the state of a process or thread, a letter (proc(5), stat): `T` if it is stopped, `Z` if only its
    parent has yet to collect it; empty if there is none.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the latter if it ends between open(2) and read(2)
        return ""


def alive(pid: int) -> bool:
    """Whether a process runs, and has not only been left for its parent to collect."""
    return state_of(pid) not in ("", "Z")


def children_of(pid: int) -> list[int]:
    """Returns the child processes of a process, of all its threads."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, children.read_text().split())
    return found


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal, with all its threads."""
    threads = [path.name for path in Path(f"/proc/{pid}/task").glob("*")]
    return bool(threads) and {state_of(int(thread)) for thread in threads} == {"T"}


def pause(pid: int) -> None:
    """Stop a process by SIGSTOP, and wait until it does nothing more.

    kill(2) returns before the process has stopped: on a busy machine its threads run on for tens of milliseconds.
    """
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(pid))


def descendants_of(pid: int) -> list[int]:
    """Returns the processes that a process has started, with those that they have."""
    children = children_of(pid)
    return children + [one for child in children for one in descendants_of(child)]
