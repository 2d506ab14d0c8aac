"""Descriptors in reserve, for connections that must be accepted when the process has no others left.

An application that leaks descriptors takes every one that becomes free.  Health and control are for such moments, so
their listeners keep a few.  A connection gets the place of one of them, and leaves it to the reserve when it closes;
each place that the application got in between would be lost for good.  Going back, the place is never free: dup2(2)
replaces the connection.  Going out, it is, between close(2) and accept(2), so no other thread of Python runs then.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
from collections.abc import Callable
from typing import Any, Final

#: How many connections can be accepted from it at a time.
KEPT: Final = 4

#: What accept(2) answers when the process, or the system, has no descriptor left.
NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})

#: The C library, called with the interpreter's lock held, which `os.close` and `socket.accept` let go.
_LIBC: Final = ctypes.PyDLL(None, use_errno=True)


def connection_waits(listening: socket.socket) -> bool:
    """Whether a connection is in a socket's queue; accept(2) does not look there when no descriptor is left."""
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    return bool(poll.poll(0))


def accept_in_place(descriptor: int, listening: int) -> int:
    """Close a descriptor, and accept a connection with the one that has become free.

    :param descriptor: is closed in any case.
    :param listening: a listening socket's, which does not block.
    :returns: the connection's, which does not block.
    :raises OSError: as accept(2) says; EMFILE if something else has got the place.
    """
    # Python takes the lock away 5 ms after a thread got it: here, when poll(2) in `connection_waits` had let it go.
    _LIBC.close(descriptor)
    accepted: int = _LIBC.accept4(listening, None, None, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    if accepted < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return accepted


def _replace(descriptor: int, by: int) -> object:
    return os.dup2(by, descriptor, inheritable=False)


class _ReturningSocket(socket.socket):
    """A connection that leaves its descriptor to a reserve when it closes."""

    __slots__ = ("_reserve",)

    def __init__(self, reserve: Reserve, listening: socket.socket, descriptor: int) -> None:
        super().__init__(listening.family, listening.type, 0, descriptor)
        self._reserve = reserve

    def close(self) -> None:
        """Close the connection, and leave its descriptor to the reserve if that lacks one."""
        if self.fileno() >= 0 and self._reserve.take(self.fileno()):
            self.detach()
        else:
            super().close()


class Reserve:
    """Some open descriptors that nothing uses.  Reactor thread.

    :param kept: for how many connections.
    :param make: returns a new descriptor, without a file.
    :param accept_in_place: accepts a connection in the place of a descriptor.
    :param replace: makes a descriptor another one's duplicate, and closes what it was before.
    """

    def __init__(
        self,
        kept: int = KEPT,
        make: Callable[[], int] = lambda: os.eventfd(0),
        accept_in_place: Callable[[int, int], int] = accept_in_place,
        replace: Callable[[int, int], object] = _replace,
    ) -> None:
        self._kept = kept + 1  # the first one is never lent: it is what takes a connection's place
        self._make = make
        self._accept_in_place = accept_in_place
        self._replace = replace
        self._descriptors: list[int] = []

    def accept(self, listening: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection, as `socket.accept` does, by a descriptor of the reserve if there is no other.

        :param listening: a socket that does not block.
        :raises OSError: as accept(2) says; EMFILE or ENFILE if the reserve is empty, too.
        """
        try:
            connection, peer = listening.accept()
            return _ReturningSocket(self, listening, connection.detach()), peer
        except OSError as error:
            if error.errno not in NO_DESCRIPTORS or not connection_waits(listening):
                raise
            full = error
        while len(self._descriptors) > 1:
            try:
                descriptor = self._accept_in_place(self._descriptors.pop(), listening.fileno())
            except OSError as error:
                if error.errno in NO_DESCRIPTORS:
                    continue
                self.refill()
                raise
            connection = _ReturningSocket(self, listening, descriptor)
            return connection, _peer_of(connection)
        raise full

    def take(self, descriptor: int) -> bool:
        """Take a connection's descriptor, and close the connection.  False if nothing is lacking, or it cannot."""
        if not 0 < len(self._descriptors) < self._kept:
            return False
        try:
            self._replace(descriptor, self._descriptors[0])
        except OSError:
            return False
        self._descriptors.append(descriptor)
        return True

    def refill(self) -> None:
        """Take what is lacking, as far as the system has room."""
        try:
            while len(self._descriptors) < self._kept:
                self._descriptors.append(self._make())
        except OSError:
            pass  # at the next call

    def close(self) -> None:
        """Give back all, for good."""
        self._kept = 0
        while self._descriptors:
            os.close(self._descriptors.pop())


def _peer_of(connection: socket.socket) -> Any:
    """Returns its client's address; None if that has gone already."""
    try:
        return connection.getpeername()
    except OSError:
        return None
