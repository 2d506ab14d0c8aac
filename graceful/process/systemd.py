"""Notifications to systemd, so that it neither kills a drain nor keeps a stuck server.

systemd starts dependent units at READY, and kills a service that outlasts TimeoutStopSec, unless the service asks for
more time as long as its drain goes on.  It restarts a service whose watchdog notifications stop; the reactor sends
them, so they stop when the reactor is stuck.  The protocol is sd_notify(3): one datagram of assignments.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import closing
from typing import Final

from twisted.logger import Logger

log = Logger(namespace="graceful")


#: Seconds that systemd waits beyond the process's own last limit, so that it never kills first.
AFTER_US: Final = 5.0

#: Characters that a status line may have; longer ones are cut.
LONGEST: Final = 200


#: What systemd says to one process only: a child that had it could speak for the service, or adopt its sockets.
VARIABLES: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
)


def take(environ: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Take what systemd says out of the environment of this process, and return it.

    Call it while options are parsed, after the environment is kept for a successor, and the sockets for `systemd:`.
    """
    if "LISTEN_FDS" in environ:
        # Twisted's own parser of `systemd:`, which endpoints of plugins use, looks there when it is imported.
        from twisted.internet import endpoints  # noqa: F401
    return {name: environ.pop(name) for name in VARIABLES if name in environ}


class SystemdNotifier:
    """Notifies the service manager, if there is one; never waits, never raises.

    :param environ: has `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, if systemd set them.
    :param pid: the process that `WATCHDOG_PID` must name; by default this one.
    :ivar watchdog: seconds between two watchdog notifications; None if systemd expects none.
    """

    def __init__(self, environ: Mapping[str, str], pid: int | None = None) -> None:
        where = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + where[1:] if where.startswith("@") else where
        self._troubled = False
        self._is_main = self._unit_stops = True
        self.watchdog: float | None = None
        meant = environ.get("WATCHDOG_PID") in (None, str(pid if pid is not None else os.getpid()))
        period = environ.get("WATCHDOG_USEC", "")
        if self and meant and period.isascii() and period.isdigit() and int(period) > 0:
            self.watchdog = int(period) / 1e6 / 2

    def __bool__(self) -> bool:
        return bool(self._address)

    def ready(self, main: bool = True) -> None:
        """Notify that the sockets accept.

        :param main: also name this process as the main one; a successor leaves that to its predecessor.
        """
        self._send("READY=1", *([f"MAINPID={os.getpid()}"] if main else []), "STATUS=serving")

    def hand_over(self, pid: int) -> None:
        """Name another process as the main one, which sends all notifications from now on.

        Except one: when the unit stops (`unit_stops`), this one still says how long its own drain may take.
        """
        self._send(f"MAINPID={pid}")
        self._is_main = self._unit_stops = False
        self.watchdog = None

    def unit_stops(self) -> None:
        """Know that the unit stops, which waits for predecessors, too.

        As long as it does not, a predecessor must be silent: `EXTEND_TIMEOUT_USEC=` also puts off the watchdog, and a
        main process that is stuck would go unnoticed for as long as a predecessor drains.
        """
        self._unit_stops = True

    def stopping(self, latest_exit: float) -> None:
        """Notify that a drain begins, which ends the process within `latest_exit` seconds."""
        if self._is_main:
            self._send("STOPPING=1", self._time(latest_exit))

    def status(self, text: str, latest_exit: float | None = None) -> None:
        """Send a status line; during a drain also the seconds that it may still take."""
        lines = [f"STATUS={text[:LONGEST]}"] if self._is_main else []
        if latest_exit is not None and self._unit_stops:
            lines.append(self._time(latest_exit))
        self._send(*lines)

    def alive(self) -> None:
        """Send the watchdog notification: the reactor runs."""
        self._send("WATCHDOG=1")

    @staticmethod
    def _time(latest_exit: float) -> str:
        return f"EXTEND_TIMEOUT_USEC={int((latest_exit + AFTER_US) * 1e6)}"

    def _send(self, *lines: str) -> None:
        if not self or not lines:
            return
        try:
            with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._troubled:
                self._troubled = True
                log.warn("the service manager cannot be notified: {error}", error=error)
