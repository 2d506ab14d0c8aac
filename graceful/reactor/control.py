"""Control of a process that a graceful reactor runs: the same server as `graceful-app` has, with another register.

It is only there if the environment asks for it, and only then is graceful's web engine imported, which serves it.  It
opens when the reactor runs: after the fork of a daemon, and with the privileges that the service keeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, Protocol

from attrs import define, frozen

from graceful.config.settings import Settings
from graceful.control.control_server import ControlServer
from graceful.control.control_socket import ControlError, ControlSocket
from graceful.control.health import Health
from graceful.drain import Drain, DrainResult, State
from graceful.process.clock import MonotonicClock
from graceful.process.systemd import SystemdNotifier
from graceful.reactor.tracking import Tracker
from graceful.reactor.transports import name_of_port
from graceful.server.server_orders import parse_id
from graceful.server.server_status import ServerStatus
from graceful.sockets.binding import BindError
from graceful.web.exchange import Exchange

#: What is raised if control cannot be had: one line for the operator.
CannotOpen: Final = (ControlError, BindError)


class ControlledShutdown(Protocol):
    """The shutdown of a reactor: control shows it, and passes its orders on to it."""

    clock: MonotonicClock
    drain: Drain
    taken_down: int

    def latest_exit(self) -> float:
        """Returns the seconds until the process is gone in any case."""

    def arm_last_limit(self) -> None:
        """Arm the last limit, after which the process ends in any case."""

    def stop(self, quiet: bool) -> None:
        """Begin to drain."""

    def move_limit(self) -> None:
        """Move the last limit: the deadline was moved."""

    def hurry(self) -> None:
        """Take down at once what is in flight."""

    def take_down_one(self, number: int) -> list[int]:
        """Take down what has a number; returns the numbers of all that are interrupted by that."""


@define
class TrackedSite:
    """A reactor's connections and exchanges, as a :class:`graceful.control.status.StatusSite`.

    :ivar record: never called: an exchange that begins and ends between two looks is not seen.
    """

    register: Tracker
    record: Callable[[Exchange], object] | None = None


@frozen
class TrackedInputs:
    """A reactor, as a :class:`graceful.control.status.StatusInputs`."""

    tracker: Tracker
    clock: MonotonicClock
    health: Health
    site: TrackedSite

    def sockets(self) -> list[tuple[str, str]]:
        """Returns the listening ports by name; those that are closed are forgotten."""
        return [(name_of_port(port), "open") for port in self.tracker.ports]

    def working(self) -> dict[Any, int]:
        """Returns nothing: which thread works for what is not known."""
        return {}

    def thread_names(self) -> dict[int, str]:
        """Returns nothing, since no thread is shown."""
        return {}

    def threads(self) -> tuple[int, int, int]:
        """Returns zeros: a process has any number of thread pools."""
        return 0, 0, 0


class ReactorControl:
    """The control of a reactor, and its orders (:class:`graceful.process.orders.ControlOrders`).  Reactor thread.

    :param shutdown: what is shown, and what orders are passed on to.
    """

    def __init__(self, settings: Settings, tracker: Tracker, shutdown: ControlledShutdown) -> None:
        self._shutdown = shutdown
        self._status = ServerStatus(settings)
        path = settings.control
        control = ControlSocket(path, settings.control_mode, settings.control_group) if path else None
        self._server = ControlServer(settings, self._status, control, SystemdNotifier({}))
        self.health = Health(settings.health_path, settings.going_down_status)
        self._inputs = TrackedInputs(tracker, shutdown.clock, self.health, TrackedSite(tracker))

    def open(self, reactor: Any) -> None:
        """Bind, and begin to answer.

        :raises ControlError, BindError: see `CannotOpen`.
        """
        try:
            self._server.bind(os.environ, os.getpid())
        except CannotOpen:
            self._server.close()
            raise
        self._server.open(reactor, self)
        # Not earlier: the metrics would count requests.
        self._status.read_from(self._inputs, self._shutdown.drain, self._shutdown, self._shutdown)
        self.entered(State.SERVING)
        self._server.say_open()

    # -- orders -------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Leave the rotation of a balancer; everything is served as always."""
        self.health.leave()

    def enter(self) -> None:
        """Enter it again."""
        self.health.enter()

    def stop(self, quiet: bool, deadline: float | None) -> None:
        """Begin to drain.

        :param quiet: close idle connections at once: no client sends requests any more.
        :param deadline: seconds that there are once the sockets are closed, instead of what the settings say.
        """
        if deadline is not None:
            self._shutdown.drain.set_deadline(deadline)
            self._shutdown.move_limit()
        self._shutdown.arm_last_limit()
        self._shutdown.stop(quiet)

    def extend(self, seconds: float) -> None:
        """Move the deadline by `seconds`, which may be negative."""
        self._shutdown.drain.extend(seconds)
        self._shutdown.move_limit()

    def hurry(self) -> None:
        """Take down at once what is in flight."""
        self._shutdown.arm_last_limit()
        self._shutdown.hurry()

    def latest_exit(self) -> float:
        """Returns the seconds until the process is gone in any case; before a drain, from its beginning."""
        return self._shutdown.latest_exit()

    def renew_limit(self) -> None:
        """Nothing that is in flight gets more time by itself."""

    def take_down(self, which: str) -> list[int]:
        """Take down what has a number; returns the numbers of all that are interrupted by that."""
        return self._shutdown.take_down_one(parse_id(which))

    # -- the way out --------------------------------------------------------------------------------------

    def entered(self, state: State) -> None:
        """Show that the drain has entered a state."""
        self._status.enter(state)
        self._server.entered(state)

    def end(self, status: int, seconds: float, finished: int, taken: int, abandoned: int) -> None:
        """Say how it ended; the reactor need not run any more."""
        self._server.end(DrainResult(status, seconds, finished, taken, abandoned))
