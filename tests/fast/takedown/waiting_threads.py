"""Threads that wait for something, for the tests of waits."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

#: Seconds within which a thread that was freed must end.
SOON = 10


class ThreadCase(SynchronousTestCase):
    """Threads that wait for something."""

    def waiting(self, function: Callable[[], Any]) -> threading.Thread:
        """A thread that calls a function, which waits."""

        def work() -> None:
            try:
                function()
            except Exception as error:
                self.errors.append(error)

        self.errors: list[Exception] = []
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Two ends of a connection."""
        mine, other = socket.socketpair()
        self.addCleanup(mine.close)
        self.addCleanup(other.close)
        return mine, other
