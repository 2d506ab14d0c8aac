"""Tells the service manager how the instance is, whenever that changes, and that the reactor is alive.

`systemctl status` shows the last line.  In a drain, each line comes with the time that the exit may still take, so
that the service manager does not kill what has time.
"""

from __future__ import annotations

from typing import Final

from graceful.control.status import StatusSource
from graceful.drain.result import DrainResult
from graceful.process.systemd import SystemdNotifier

#: Seconds between two lines: `systemctl status` shows the last one.
STATUS_EVERY: Final = 1.0

#: Seconds between two signs of life at most; a watchdog may want them more often.
ALIVE_EVERY: Final = 1.0


class ServiceNews:
    """What the service manager hears of one instance.  Reactor thread.

    :param notify: sends messages to the service manager.
    :param status: of the instance.
    """

    def __init__(self, notify: SystemdNotifier, status: StatusSource) -> None:
        self._notify = notify
        self._status = status
        self._since_status = self._since_alive = 0.0
        self._said = ""

    @property
    def within(self) -> float | None:
        """Seconds in which the service manager wants a sign of life; None if it wants none."""
        return self._notify.watchdog

    def ready(self, main: bool) -> None:
        """The server's sockets accept, unless a drain has begun.

        :param main: also tell that this is the main process.
        """
        if not self._status.draining:
            self._notify.ready(main)

    def going_down(self) -> None:
        """A drain begins."""
        self._notify.stopping(self._status.latest_exit)

    def stop_ordered(self) -> None:
        """The instance is told to stop: if it has a successor already, its unit stops."""
        self._notify.unit_stops()

    def hand_over(self, pid: int) -> None:
        """Another process is the main process from now on."""
        self._notify.hand_over(pid)

    def look(self, now: float) -> None:
        """Tell what is due; called often.

        :param now: monotonic seconds.
        """
        if now - self._since_status >= STATUS_EVERY:
            self.tell(now)
        alive = self._notify.watchdog
        if alive is not None and now - self._since_alive >= min(ALIVE_EVERY, alive) * 0.9:
            self._since_alive = now
            self._notify.alive()

    def tell(self, now: float) -> None:
        """Tell the status if it has changed, and in a drain how long it may take."""
        if not self._notify:
            return
        self._since_status = now
        line = self._line()
        draining = self._status.draining
        if line != self._said or draining:
            self._said = line
            self._notify.status(line, self._status.latest_exit if draining else None)

    def _line(self) -> str:
        """Returns the status in a line."""
        status = self._status
        if not status.draining:
            return status.state
        deadline = status.deadline
        return f"{status.state}: {status.in_flight_count} in flight" + (
            f", deadline in {deadline:.0f} s" if deadline else ""
        )

    def end(self, ending: DrainResult) -> None:
        """The drain is over."""
        self._notify.status(
            f"gone: {ending.finished} finished, {ending.taken_down} taken down, {ending.abandoned} abandoned",
            self._status.latest_exit,
        )
