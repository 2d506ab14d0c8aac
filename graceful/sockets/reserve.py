"""Descriptors in reserve, for connections that must be accepted when the process has no others left.

An application that leaks descriptors takes every one that becomes free.  Health and control are for such moments, so
their listeners keep a few: one is closed just before a connection is accepted, which gets its place.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import Final

#: How many connections can be accepted from it at a time.
KEPT: Final = 4


def connection_waits(listening: socket.socket) -> bool:
    """Whether a connection is in a socket's queue; accept(2) does not look there when no descriptor is left."""
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    return bool(poll.poll(0))


class Reserve:
    """Some open descriptors that nothing uses.  Reactor thread.

    :param kept: how many.
    :param make: returns a new descriptor, without a file.
    :param close: closes a descriptor.
    """

    def __init__(
        self,
        kept: int = KEPT,
        make: Callable[[], int] = lambda: os.eventfd(0),
        close: Callable[[int], None] = os.close,
    ) -> None:
        self._kept = kept
        self._make = make
        self._close = close
        self._descriptors: list[int] = []

    def give(self) -> bool:
        """Make room for one descriptor; False if none is left."""
        if not self._descriptors:
            return False
        self._close(self._descriptors.pop())
        return True

    def refill(self) -> None:
        """Take back what was given, as far as the system has room."""
        try:
            while len(self._descriptors) < self._kept:
                self._descriptors.append(self._make())
        except OSError:
            pass  # at the next call

    def close(self) -> None:
        """Give back all, for good."""
        self._kept = 0
        while self.give():
            pass
