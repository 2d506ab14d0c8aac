"""Has the instances that drain beside this one open their logs again when this one does.

logrotate, or an operator with `systemctl kill --kill-whom=main`, signals the main process alone.  A predecessor that
still sends a download writes to the same files, and would go on in those that were moved away.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Protocol

from twisted.logger import Logger

from graceful.control.discovery import connect_leaving
from graceful.threads.start import NoThread, start_thread

log = Logger(namespace="graceful")


class Leaving(Protocol):
    """A connection to an instance that is on its way out."""

    @property
    def peer_pid(self) -> int:
        """The process that listens; 0 if it is in another pid namespace."""

    def close(self) -> None:
        """Hang up."""


class LogRotation:
    """Passes the order to open the logs again on.  Reactor thread.

    :param path: returns the control path at which the newest instance takes orders; empty if there is none.
    :param start: starts a thread: to find the others may take seconds.
    :param find: returns connections to the instances beside a control path that are on their way out.
    :param kill: sends a signal to a process.
    """

    def __init__(
        self,
        path: Callable[[], str],
        start: Callable[[Callable[[], object], str, str], object] = start_thread,
        find: Callable[[str], Iterable[Leaving]] = connect_leaving,
        kill: Callable[[int, int], object] = os.kill,
    ) -> None:
        self._path = path
        self._start = start
        self._find = find
        self._kill = kill

    def pass_on(self) -> None:
        """Have the others open their logs again, soon."""
        path = self._path()
        if not path:
            return
        try:
            self._start(partial(self._tell, path), "log rotation", "the thread that passes a log rotation on")
        except NoThread as error:
            log.error("instances that drain go on in their old log files: {error}", error=error)

    def _tell(self, path: str) -> None:
        """In a thread of its own."""
        for other in self._find(path):
            with suppress(ProcessLookupError, PermissionError):  # it has just ended, or is another user's
                if other.peer_pid not in (0, os.getpid()):
                    self._kill(other.peer_pid, signal.SIGUSR1)
            other.close()
