"""The shutdown of a graceful reactor: from SIGTERM, or `reactor.stop()`, to the exit status.

    signal, or stop ─▶ drain (graceful.drain) ─▶ the reactor's own shutdown phases ─▶ thread pools ─▶ exit

The stock reactor begins with its shutdown phases, which interrupt everything: they cut connections, and join threads
that wait for the reactor.  So the phases are held back until nothing is in flight.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from graceful.config.settings import Settings
from graceful.drain.machine import Drain
from graceful.drain.state import State
from graceful.process.clock import monotonic_clock
from graceful.process.exit import ABANDONED, EXIT_SECONDS, FINISHED, REPORTS, TAKEN_DOWN, latest_exit
from graceful.reactor.drainable import LAST_MOMENT, ReactorDrainable
from graceful.reactor.reactor_process import ReactorProcess
from graceful.reactor.tracking import Tracker

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from graceful.reactor.control import ReactorControl

log = Logger(namespace="graceful")


class ReactorShutdown:
    """Stops a reactor by a drain.  Reactor thread.

    It is a `graceful.process.orders.StopOrders` for signals, and carries out the orders of control.

    :param reactor: is stopped.
    :param tracker: knows what is in flight.
    :param process: None if the reactor must not end the process: then there is no verdict, and thread pools are
        stopped as Twisted stops them.
    :ivar drain: the state machine.
    :ivar exit_requested: a signal or an order through control has asked for the end of the process.
    """

    def __init__(
        self, reactor: ReactorBase, settings: Settings, tracker: Tracker, process: ReactorProcess | None
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._tracker = tracker
        self._process = process
        self.clock = monotonic_clock(reactor)
        self._drainable = ReactorDrainable(reactor, tracker, self.clock, self)
        self.drain = Drain(self.clock, self._drainable, settings.deadline, 0.0, settings.lame_duck, self._entered)
        self.exit_requested = False
        self._quiet = False  # no client sends further requests on idle connections
        self._failed = False
        self._control: ReactorControl | None = None
        self._began = 0.0

    # -- signals ------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether the reactor is being stopped."""
        return self._reactor._stopped

    def arm_last_limit(self) -> None:
        """Set the time at which the process ends whatever happens.  In a signal handler."""
        self.exit_requested = True
        if self._process is not None and self.drain.state == State.SERVING:
            self._process.arm(self._planned_exit())

    def _planned_exit(self) -> float:
        return latest_exit(*self.drain.seconds_ahead(False))

    def latest_exit(self) -> float:
        """Returns in how many seconds the process has ended in any case; before a drain, from its beginning."""
        if self._process is None or not self.exit_requested:
            return self._planned_exit()
        left = self._process.limit.remaining_seconds
        return self._planned_exit() if left is None else left

    def stop(self, quiet: bool) -> None:
        """Begin to drain.

        :param quiet: close idle connections at once: no client sends further requests.
        """
        self._quiet = self._quiet or quiet
        if not self._reactor._stopped:
            self._reactor.stop()
        elif quiet and self.drain.state not in (State.SERVING, State.GONE):
            self.drain.begin(quiet)

    def hurry(self) -> None:
        """Take down at once what is in flight."""
        if not self._reactor._stopped:
            self._reactor.stop()
        if self.drain.state == State.SERVING:
            self._reactor.callLater(0, self.drain.hurry)  # the drain begins at the end of this turn
        else:
            self.drain.hurry()

    def abandon_threads(self) -> None:
        """Wait no longer for thread pools that are being stopped.  In a signal handler: the reactor thread waits."""
        if self._process is not None and self._process.pools.until is not None:
            self._process.pools.until = self.clock.seconds()

    def log_in_flight(self) -> None:
        """Log what is in flight."""
        now = self.clock.seconds()
        lines = [f"{len(self._tracker.connections)} connections, in flight:"]
        log.info("{lines}", lines="\n".join(lines + [item.describe(now) for item in self._tracker.in_flight()]))

    # -- control ------------------------------------------------------------------------------------------

    def open_control(self) -> None:
        """Open control if the settings say where; called when the reactor runs."""
        settings = self._settings
        if not settings.control and not settings.status_listen:
            return
        from graceful.reactor.control import CannotOpen, ReactorControl

        control = ReactorControl(settings, self._tracker, self)
        try:
            control.open(self._reactor)
        except CannotOpen as error:
            self._failed = True
            log.critical("{reason}: stopping", reason=str(error))
            self._reactor.stop()
        else:
            self._control = control

    def move_limit(self) -> None:
        """Move the last limit along with the deadline, if the limit is armed."""
        if self._process is not None and self.exit_requested:
            self._process.arm(self._planned_exit())

    @property
    def taken_down(self) -> int:
        """How many items were taken down so far."""
        return self._drainable.taken_down

    @property
    def abandoned(self) -> int:
        """How many threads were abandoned so far."""
        return self._process.pools.abandoned if self._process is not None else 0

    def take_down_one(self, number: int) -> list[int]:
        """Take down the item with a number; returns the numbers of all items that this interrupts."""
        return self._drainable.take_down_one(number)

    # -- the drain ----------------------------------------------------------------------------------------

    def begin(self) -> Deferred[None]:
        """Drain, since the reactor is to stop; fire when its own shutdown may begin."""
        self._began = monotonic()
        self.clock.start()
        return self.drain.begin(self._quiet)

    def _entered(self, state: State) -> None:
        """Show a new state of the drain."""
        if self._control is not None:
            self._control.entered(state)

    def going_down(self) -> None:
        """Tell the balancer to look elsewhere."""
        if self._control is not None:
            self._control.health.begin_going_down()

    def drained(self) -> None:
        """Give the thread pools the rest of the time: the reactor's own shutdown may begin."""
        if self._process is not None:
            deadline, now = self.drain.takedown_at(), self.clock.seconds()
            assert deadline is not None
            self._process.pools.until = max(deadline, now + LAST_MOMENT)
        self.clock.stop()

    # -- the end ------------------------------------------------------------------------------------------

    def ended(self) -> None:
        """Log how the drain ended, and set the exit status: the reactor and the thread pools have stopped."""
        if self.drain.state != State.GONE:
            return  # the reactor was crashed, as its interface calls it
        abandoned = 0
        if self._process is not None:
            self._process.pools.reactor_gone()
            abandoned = self._process.pools.abandoned
        seconds, taken, finished = monotonic() - self._began, self._drainable.taken, self._drainable.finished
        log.info(
            "drained in {seconds:.1f} s: {finished} finished, {taken} taken down, {abandoned} abandoned",
            seconds=seconds,
            finished=finished,
            taken=taken,
            abandoned=abandoned,
        )
        status = 1 if self._failed else ABANDONED if abandoned else TAKEN_DOWN if taken else FINISHED
        if self._control is not None:
            self._control.end(status, seconds, finished, taken, abandoned)
        if self._process is None:
            return
        # The exit status is the drain's; otherwise twistd would have the process die of the signal.
        self._reactor._exitSignal = None
        if status != FINISHED:
            self._process.verdict(status)
        elif self.exit_requested:
            self._process.arm(REPORTS + EXIT_SECONDS)
