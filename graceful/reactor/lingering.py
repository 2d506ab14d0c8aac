"""Connections that Twisted has closed before their last bytes have reached the client.

The kernel keeps the bytes that a socket was given, megabytes for a slow client, and sends them after the close.  But
the network of a container ends with its process.  And closing a socket that has unread bytes resets the connection,
which makes the client discard what it has not read (RFC 9112 §9.6).  So in a drain a second descriptor holds a closed
connection, incoming bytes are discarded, and the drain does not end before the client's kernel has confirmed all.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from contextlib import suppress
from typing import Final

#: Reads of 64 KiB in one turn at most: a client that keeps sending must not hold the reactor.
AT_MOST: Final = 16

#: The ioctl that returns the bytes which the peer has not confirmed; from <linux/sockios.h>.
SIOCOUTQ: Final = 0x5411


def unconfirmed(connection: socket.socket) -> int:
    """Returns how many bytes the client's kernel has not confirmed."""
    try:
        count: int = struct.unpack("i", fcntl.ioctl(connection, SIOCOUTQ, bytes(4)))[0]
    except OSError:
        return 0
    return count


class Lingering:
    """Holds closed connections until their last bytes are confirmed.  Reactor thread."""

    def __init__(self) -> None:
        self._held: set[socket.socket] = set()

    def __bool__(self) -> bool:
        return bool(self._held)

    def hold(self, connection: socket.socket) -> None:
        """Hold a connection that is about to be closed, if bytes are not confirmed."""
        _throw_away(connection)
        if unconfirmed(connection):
            with suppress(OSError):  # no descriptor is free: the connection is not held
                self._held.add(connection.dup())

    def release_confirmed(self) -> None:
        """Close the connections whose bytes are confirmed."""
        for connection in list(self._held):
            _throw_away(connection)
            if not unconfirmed(connection):
                self._held.discard(connection)
                connection.close()

    def close(self) -> None:
        """Close all connections that are held."""
        while self._held:
            self._held.pop().close()


def _throw_away(connection: socket.socket) -> None:
    with suppress(OSError):
        for _ in range(AT_MOST):
            if not connection.recv(65536, socket.MSG_DONTWAIT):
                return
