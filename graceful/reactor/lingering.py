"""Connections that Twisted has closed, and whose last bytes the client does not have yet.

What a socket was given is in the kernel, megabytes of it for a slow client, and is sent after the close as well.  But
a container's network ends with its process.  And a close with something unread in the other direction is a reset,
which makes the client forget what it has not read (RFC 9112 §9.6).  So in a drain a closed connection is held by a
second descriptor, what comes is thrown away, and nothing ends before the client's kernel has confirmed everything.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from contextlib import suppress
from typing import Final

#: How often 64 KiB are thrown away in one go: a client that goes on sending must not hold the reactor.
AT_MOST: Final = 16

SIOCOUTQ: Final = 0x5411  # <linux/sockios.h>: bytes that are not confirmed


def unconfirmed(connection: socket.socket) -> int:
    """Bytes that the client's kernel has not confirmed."""
    try:
        count: int = struct.unpack("i", fcntl.ioctl(connection, SIOCOUTQ, bytes(4)))[0]
    except OSError:
        return 0
    return count


class Lingering:
    """The connections that are held.  Reactor thread."""

    def __init__(self) -> None:
        self._held: set[socket.socket] = set()

    def __bool__(self) -> bool:
        return bool(self._held)

    def hold(self, connection: socket.socket) -> None:
        """A connection is about to be closed."""
        _throw_away(connection)
        if unconfirmed(connection):
            with suppress(OSError):  # no room for one more descriptor: then it is closed as ever
                self._held.add(connection.dup())

    def release_confirmed(self) -> None:
        """Let go of those that are confirmed."""
        for connection in list(self._held):
            _throw_away(connection)
            if not unconfirmed(connection):
                self._held.discard(connection)
                connection.close()

    def close(self) -> None:
        """Let go of all."""
        while self._held:
            self._held.pop().close()


def _throw_away(connection: socket.socket) -> None:
    with suppress(OSError):
        for _ in range(AT_MOST):
            if not connection.recv(65536, socket.MSG_DONTWAIT):
                return
