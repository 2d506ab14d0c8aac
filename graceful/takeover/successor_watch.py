"""A predecessor watches its successor for as long as it drains.

A successor that crashes while its predecessor still finishes requests may leave a port that refuses, and no log line:
the crashed process cannot write one.  The predecessor can.  It does not serve again: it has closed its sockets, may
have no right to bind them, and its application knows already that it goes down.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Final

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

log = Logger(namespace="graceful")

#: Seconds that a connection to a control socket may take, whose queue may be full.
ASKED_FOR: Final = 0.1


@implementer(IReadDescriptor)
class SuccessorWatch:
    """Logs that a successor has crashed.  Reactor thread; the reactor keeps it.

    :param path: the control path, which the successor has taken.
    :param pid: its process number.
    :param pidfd_open: as :func:`os.pidfd_open`; where the kernel has none, nothing is watched.
    """

    def __init__(
        self, reactor: IReactorFDSet, path: str, pid: int, pidfd_open: Callable[[int], int] = os.pidfd_open
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._pid = pid
        self._process = -1
        try:
            self._process = pidfd_open(pid)
        except ProcessLookupError:
            self._ended()
        except OSError:
            pass
        else:
            reactor.addReader(self)

    def fileno(self) -> int:
        """Return a descriptor that is readable once the successor has ended.  For the reactor."""
        return self._process

    def logPrefix(self) -> str:
        """Return the name that the reactor logs.  For the reactor."""
        return "successor"

    def doRead(self) -> None:
        """The successor has ended.  For the reactor."""
        self._forget()
        self._ended()

    def connectionLost(self, reason: Failure) -> None:
        """Stop watching: the reactor is shutting down.  For the reactor."""
        self._forget()

    def _ended(self) -> None:
        if _is_abandoned(self._path):
            log.error(
                "the successor, process {pid}, has crashed: no process answers at {path}; "
                "this one cannot serve again, and finishes what it has",
                pid=self._pid,
                path=self._path,
            )

    def _forget(self) -> None:
        if self._process >= 0:
            self._reactor.removeReader(self)
            os.close(self._process)
            self._process = -1


def _is_abandoned(path: str) -> bool:
    """Whether a control socket is left of a process that has not removed it, as each does that stops in good order.

    If another process answers there, that one has taken over meanwhile.
    """
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as client:
        client.settimeout(ASKED_FOR)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False
