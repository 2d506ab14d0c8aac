"""How many clients wait in the queue of a listening socket: the kernel has connected them, the server does not yet.

An event loop that runs accepts at once, so the queue is empty unless the server has as many connections as it may, or
too few descriptors.  Linux says how long the queue is in what `TCP_INFO` tells of a listening socket (tcp(7)).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Final

#: Where `struct tcp_info` has `tcpi_unacked`: of a listening socket, the length of its queue.
_QUEUED: Final = struct.Struct("=24xI")


#: A listening socket's name, its inode, by which processes that share it know it, and how many clients wait there.
Queue = Sequence[str | int]


def backlog(name: str, listening: socket.socket) -> Queue | None:
    """Returns the queue of a listening socket; None if the kernel does not tell it, as of a Unix socket.

    The queue of a socket that is closed is empty.
    """
    if listening.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if listening.fileno() < 0:
        return name, 0, 0
    try:
        told = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUED.size)
        return name, os.fstat(listening.fileno()).st_ino, int(_QUEUED.unpack(told)[0])
    except (OSError, struct.error):  # another kernel than Linux
        return None


def clients_waiting(told: Iterable[Queue]) -> dict[str, int]:
    """Returns how many clients wait at each name; a socket that several processes share counts once."""
    queues = {(str(name), inode): int(clients) for name, inode, clients in told}
    found: dict[str, int] = {}
    for (name, _), clients in queues.items():
        found[name] = found.get(name, 0) + clients
    return found
