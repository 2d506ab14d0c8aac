"""Receiving descriptors from another process, over a Unix socket (SCM_RIGHTS, unix(7)).

The standard library's `socket.recv_fds` ignores its `flags`.  The descriptors it receives are then not closed on
exec, and a process that the application starts at that moment keeps a listening socket without accepting from it.
"""

from __future__ import annotations

import socket
from struct import calcsize

_AN_INT = calcsize("i")


def receive(sock: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Receive bytes and the descriptors sent with them, which are closed on exec.

    :param size: how many bytes at most.
    :param most: how many descriptors at most.
    :raises OSError: as recvmsg(2).
    """
    room = socket.CMSG_LEN(most * _AN_INT)
    data, beside, _, _ = sock.recvmsg(size, room, flags | socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for level, kind, packed in beside:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors += memoryview(packed[: len(packed) - len(packed) % _AN_INT]).cast("i")
    return data, descriptors
