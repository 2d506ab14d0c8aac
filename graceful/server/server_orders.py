"""What can be done to a running instance by order, and by when it is gone at the latest.

Every order that gives or takes time also moves the last limit, which is not the reactor's: a process that was given
an hour more must not be ended by a watchdog that has not heard of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.error import ReactorNotRunning

from graceful.drain import Drain, State
from graceful.process.exit import EXIT_SECONDS, latest_exit

if TYPE_CHECKING:
    from graceful.process.own_process import OwnProcess
    from graceful.server.engine import Engine
    from graceful.server.shutdown import Shutdown


class ServerOrders:
    """Acts on an instance, as :class:`graceful.control.api.ServerOrders` has it.

    Reactor thread, except where something else is said.

    :param engine: what serves.
    :param drain: its way out.
    :param stopping: what the steps of that do.
    :param process: None if it is not the instance's own: then a stop takes the whole process with it.
    :param reactor: Twisted's.
    """

    def __init__(
        self, engine: Engine, drain: Drain, stopping: Shutdown, process: OwnProcess | None, reactor: Any
    ) -> None:
        self._engine = engine
        self._drain = drain
        self._stopping = stopping
        self._process = process
        self._reactor = reactor

    @property
    def taken_down(self) -> int:
        """How many exchanges were taken down so far."""
        return self._stopping.taken_down

    # -- the last limit -----------------------------------------------------------------------------------

    def _at_most(self) -> float:
        """In how many seconds the process may still be there, by the deadlines that hold now."""
        downloads = any(exchange.download for exchange in self._engine.site.register.in_flight())
        return latest_exit(*self._drain.seconds_ahead(downloads))

    def latest_exit(self) -> float:
        """In how many seconds the process is gone, whatever happens; before a drain, from its beginning."""
        left = (
            self._process.limit.remaining_seconds
            if self._process is not None and self._drain.state != State.SERVING
            else None
        )
        return self._at_most() if left is None else left

    def limit(self) -> None:
        """Set the last limit, if a drain is about to begin.  In a signal handler, too."""
        if self._process is not None and self._drain.state == State.SERVING:
            self._process.limit.arm(self._at_most())

    def renew_limit(self) -> None:
        """Move the last limit, if what is in flight has got more time since it was set: a download has begun."""
        if self._process is None or not self._drain.state.draining or self._drain.state.past_deadline:
            return
        left = self._process.limit.remaining_seconds
        if left is not None and self._at_most() > left + EXIT_SECONDS:
            self._process.limit.arm(self._at_most())

    def _move_limit(self) -> None:
        if self._process is not None and self._process.limit.remaining_seconds is not None:
            self._process.limit.arm(self._at_most())

    # -- orders -------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Leave the rotation of a balancer; everything is served as always."""
        self._engine.health.leave()

    def enter(self) -> None:
        """Enter it again."""
        self._engine.health.enter()

    def stop(self, quiet: bool, deadline: float | None) -> None:
        """Begin to drain; given again, it changes nothing but what it says.

        :param quiet: close idle connections at once: nobody sends requests any more.
        :param deadline: seconds that exchanges have once the sockets are closed, instead of what the settings say.
        """
        if deadline is not None:
            self._drain.set_deadline(deadline)
            self._move_limit()
        self.limit()
        stopped = self._drain.begin(quiet)
        if self._process is None:
            stopped.addCallback(self._stop_reactor)

    def _stop_reactor(self, ignored: object) -> None:
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            pass  # somebody else has ended the process meanwhile

    def hurry(self) -> None:
        """Take down at once what is in flight."""
        self.limit()
        self._drain.hurry()

    def extend(self, seconds: float) -> None:
        """Give what is in flight so many seconds more, or fewer."""
        self._drain.extend(seconds)
        self._move_limit()

    def take_down(self, which: str) -> list[int]:
        """Take down one exchange, and those behind it on its connection; which were."""
        return self._stopping.take_down_one(number_of(which))


def number_of(which: str) -> int:
    """The number of an exchange, from what somebody has typed; 0, which none has, if it is no number."""
    return int(which) if which.isascii() and which.isdigit() and len(which) < 20 else 0
