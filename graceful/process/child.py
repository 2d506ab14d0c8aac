"""A process that this one has started, watched by the reactor until it ends."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IReadDescriptor)
class Child:
    """A process that we have started, watched by the reactor until it ends.

    :param process: the process.
    :param ended: called with this and the exit status.
    """

    def __init__(self, reactor: Any, process: subprocess.Popen[bytes], ended: Callable[[Child, int], object]) -> None:
        self.pid = process.pid
        self._reactor = reactor
        self._process = process
        self._ended = ended
        self._fd = os.pidfd_open(process.pid)
        reactor.addReader(self)

    def fileno(self) -> int:
        """A descriptor that is readable when the process has ended.  For the reactor."""
        return self._fd

    def logPrefix(self) -> str:
        """For the reactor."""
        return "successor"

    def doRead(self) -> None:
        """It has ended.  For the reactor."""
        status = self._process.wait()
        self._forget()
        self._ended(self, status)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends.  For the reactor."""
        self._forget()

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def _forget(self) -> None:
        if self._fd >= 0:
            self._reactor.removeReader(self)
            os.close(self._fd)
            self._fd = -1
