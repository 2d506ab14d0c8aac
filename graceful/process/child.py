"""A child process whose end the reactor must learn of.

`subprocess` can only poll or block for it.  A pidfd is a descriptor that becomes readable when the child ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer


class Process(Protocol):
    """A child, as :class:`subprocess.Popen` has it.

    :ivar pid: its number, which no other process has before :meth:`wait` returns.
    """

    pid: int

    def wait(self) -> int:
        """Returns its exit status when it has ended, negative for a signal."""

    def kill(self) -> None:
        """Kill it (SIGKILL)."""


@implementer(IReadDescriptor)
class Child:
    """A child process whose end the reactor reports.

    :param process: the child, just started.
    :param ended: called with this object and the exit status when the child has ended.
    """

    def __init__(self, reactor: IReactorFDSet, process: Process, ended: Callable[[Child, int], object]) -> None:
        self.pid = process.pid
        self._reactor = reactor
        self._process = process
        self._ended = ended
        self._fd = os.pidfd_open(process.pid)
        reactor.addReader(self)

    def fileno(self) -> int:
        """Return a descriptor that is readable once the child has ended.  For the reactor."""
        return self._fd

    def logPrefix(self) -> str:
        """Return the name that the reactor logs.  For the reactor."""
        return "successor"

    def doRead(self) -> None:
        """Report that the child has ended.  For the reactor."""
        status = self._process.wait()
        self._forget()
        self._ended(self, status)

    def connectionLost(self, reason: Failure) -> None:
        """Stop watching: the reactor is shutting down.  For the reactor."""
        self._forget()

    def kill(self) -> None:
        """Kill the child (SIGKILL)."""
        self._process.kill()

    def _forget(self) -> None:
        if self._fd >= 0:
            self._reactor.removeReader(self)
            os.close(self._fd)
            self._fd = -1
