"""What a fork of this process would break, found by a look at the process.

A fork copies memory and the calling thread, and shares open files.  So what was copied without its thread never
moves again, and what two processes share without knowing it is broken by the first use: a reply of a database goes to
whichever asks first.  A server that forks after an import has to know what the import has left behind.
"""

from __future__ import annotations

import gc
import os
import random
import socket
import stat
import sys
import threading
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from graceful.humanize import counted

#: What every SQLite database begins with (sqlite.org/fileformat.html).
_SQLITE: Final = b"SQLite format 3\0"
#: Names of threads that are told; there may be hundreds.
_MOST: Final = 5


def open_descriptors() -> set[int]:
    """Returns the numbers of this process's open files."""
    return {number for number in map(int, os.listdir("/proc/self/fd")) if _is_open(number)}  # not of the listing


def fork_hazards(before: Collection[int]) -> list[str]:
    """Returns what a fork would break, each as a few words; nothing if it breaks nothing that is known.

    :param before: the descriptors that are known to be harmless: those that were open before the import.
    """
    found = []
    others = _other_threads()
    if others:
        shown = ", ".join(others[:_MOST]) + (", ..." if len(others) > _MOST else "")
        found.append(f"{counted(len(others), 'thread')} ({shown})")
    if "twisted.internet.reactor" in sys.modules:
        found.append("Twisted's reactor")
    for descriptor in sorted(open_descriptors() - set(before)):
        with suppress(OSError):  # there are things that cannot be looked at
            what = _shared(descriptor)
            if what:
                found.append(what)
    return found


def fork_caveats() -> list[str]:
    """Returns what goes on after a fork, and not as intended, each as a sentence."""
    found = []
    of_module = random.seed.__self__  # type: ignore[attr-defined]  # it is seeded by each fork
    own = sum(type(one) is random.Random and one is not of_module for one in gc.get_objects())
    if own > 0:
        found.append(
            f"{own} random.Random made at import gives the same numbers in each worker:"
            " seed it in os.register_at_fork(after_in_child=...)"
        )
    if "numpy.random" in sys.modules:
        found.append(
            "numpy.random's global generator gives the same numbers in each worker:"
            " os.register_at_fork(after_in_child=numpy.random.seed)"
        )
    return found


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _other_threads() -> list[str]:
    """Returns the names of all threads but the calling one; also of those that Python does not know."""
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    me, names = threading.get_native_id(), []
    for number in sorted(int(name) for name in os.listdir("/proc/self/task")):
        if number != me:
            names.append(known.get(number) or _comm(number))
    return names


def _comm(thread: int) -> str:
    try:
        with open(f"/proc/self/task/{thread}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"


def _shared(descriptor: int) -> str | None:
    """Returns what a descriptor is if two processes cannot both use it; else None.

    :raises OSError: that cannot be known.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        return _connection(descriptor)
    if stat.S_ISREG(mode):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        return f"an open SQLite database ({path})" if _begins_with(path, _SQLITE) else None
    if os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:[eventpoll]":
        return "an event loop (epoll)"
    return None


def _connection(descriptor: int) -> str | None:
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        if sock.type == socket.SOCK_DGRAM:
            return None  # such as that to a syslog: each message is one piece
        try:
            peer = sock.getpeername()
        except OSError:
            return "an open socket"
    if isinstance(peer, tuple):
        return f"a connection to {peer[0]}, port {peer[1]}"
    return f"a connection to {os.fsdecode(peer)}" if peer else "a pair of sockets"


def _begins_with(path: str, what: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(what)) == what
    except OSError:
        return False
