"""Word to systemd, by its own protocol (sd_notify(3)): one datagram with assignments.

systemd starts what depends on us at READY, waits for a stop that has announced itself, and kills what outlasts
TimeoutStopSec: unless it is told, as long as the drain goes on, that there is more time to give.  And it restarts a
service whose watchdog is silent; ours comes from the reactor, so it is silent when that is stuck.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import closing
from typing import Final

from twisted.logger import Logger

log = Logger(namespace="graceful")


#: Seconds that systemd shall wait past our own last limit.
AFTER_US: Final = 5.0

#: The longest a status line may be; longer ones are cut.
LONGEST: Final = 200


class SystemdNotifier:
    """Tells the service manager, if there is one; never waits, never raises.

    :param environ: where `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` are.
    :param pid: the process that the watchdog must be meant for.
    :ivar watchdog: seconds between two signs of life; None if nobody waits for them.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ, pid: int | None = None) -> None:
        where = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + where[1:] if where.startswith("@") else where
        self._troubled = False
        self.watchdog: float | None = None
        meant = environ.get("WATCHDOG_PID") in (None, str(pid if pid is not None else os.getpid()))
        period = environ.get("WATCHDOG_USEC", "")
        if self and meant and period.isascii() and period.isdigit() and int(period) > 0:
            self.watchdog = int(period) / 1e6 / 2

    def __bool__(self) -> bool:
        return bool(self._address)

    def ready(self, main: bool = True) -> None:
        """The sockets accept.

        :param main: say that this is the main process; one that has taken over leaves that to its predecessor.
        """
        self._send("READY=1", *([f"MAINPID={os.getpid()}"] if main else []), "STATUS=serving")

    def hand_over(self, pid: int) -> None:
        """Another process is the main one from now on, and tells what there is to tell."""
        self._send(f"MAINPID={pid}")
        self._address, self.watchdog = "", None

    def stopping(self, latest_exit: float) -> None:
        """A drain begins; it may take so many seconds."""
        self._send("STOPPING=1", self._time(latest_exit))

    def status(self, text: str, latest_exit: float | None = None) -> None:
        """Say how it is; while a drain runs, also how many seconds it may still take."""
        more = [] if latest_exit is None else [self._time(latest_exit)]
        self._send(f"STATUS={text[:LONGEST]}", *more)

    def alive(self) -> None:
        """The reactor runs."""
        self._send("WATCHDOG=1")

    @staticmethod
    def _time(latest_exit: float) -> str:
        return f"EXTEND_TIMEOUT_USEC={int((latest_exit + AFTER_US) * 1e6)}"

    def _send(self, *lines: str) -> None:
        if not self:
            return
        try:
            with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._troubled:
                self._troubled = True
                log.warn("the service manager cannot be notified: {error}", error=error)
