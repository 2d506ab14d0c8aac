"""Keeps the last limit of a process in step with its drain's deadlines.

The last limit does not depend on the reactor (:mod:`graceful.process.exit`), so each change has to be passed on: a
process that was given an hour more must not be ended by a watchdog that knows only the first deadline.
"""

from __future__ import annotations

from graceful.drain.machine import Drain
from graceful.drain.state import State
from graceful.process.exit import EXIT_SECONDS, LastLimit, latest_exit
from graceful.web.register import Register


class DrainLimit:
    """Sets and moves the last limit of a process.  Reactor thread, except `arm`.

    :param register: has what is in flight.
    :param drain: knows the deadlines.
    :param last: the last limit of the process; None if the process is not the instance's own.
    """

    def __init__(self, register: Register, drain: Drain, last: LastLimit | None) -> None:
        self._register = register
        self._drain = drain
        self._last = last

    def _at_most(self) -> float:
        """Returns in how many seconds the process may still be there."""
        downloads = any(exchange.download for exchange in self._register.in_flight())
        return latest_exit(*self._drain.seconds_ahead(downloads))

    def latest_exit(self) -> float:
        """Returns in how many seconds the process has ended in any case; before a drain, from its beginning."""
        left = self._last.remaining_seconds if self._last is not None and self._drain.state != State.SERVING else None
        return self._at_most() if left is None else left

    def arm(self) -> None:
        """Set the last limit if a drain is about to begin.  Main thread; a signal handler may call it."""
        if self._last is not None and self._drain.state == State.SERVING:
            self._last.arm(self._at_most())

    def ensure(self) -> None:
        """Set the last limit unless a signal has set it: an order that comes late is no reason to put it off."""
        if self._last is not None:
            if self._last.remaining_seconds is None:
                self.arm()
            self._last.log_missing()

    def renew(self) -> None:
        """Move the last limit if what is in flight has got more time since it was set: a download has begun."""
        if self._last is None or not self._drain.state.draining or self._drain.state.past_deadline:
            return
        left = self._last.remaining_seconds
        if left is not None and self._at_most() > left + EXIT_SECONDS:
            self._last.arm(self._at_most())

    def move(self) -> None:
        """Move the last limit with a deadline that was moved, if it was set before."""
        if self._last is not None and self._last.remaining_seconds is not None:
            self._last.arm(self._at_most())
