"""Control of a process under the graceful reactor: the control server of `graceful-app`, with another register.

Control is served by graceful's web engine, which most services do not need.  So both are imported only if the
environment asks for control.  Control opens when the reactor runs: after the fork of a daemon, and with the
privileges that the service keeps.
"""

from __future__ import annotations

import os
from typing import Any, Final, Protocol

from attrs import define, frozen
from twisted.internet.defer import Deferred, succeed

from graceful.config.settings import Settings
from graceful.control.control_server import ControlServer
from graceful.control.control_socket import ControlError, ControlSocket
from graceful.control.health import Health
from graceful.drain.machine import Drain
from graceful.drain.result import DrainResult
from graceful.drain.state import State
from graceful.process.clock import MonotonicClock
from graceful.process.orders import OrderRefused
from graceful.process.systemd import SystemdNotifier
from graceful.reactor.tracking import Tracker
from graceful.reactor.transports import name_of_port
from graceful.server.server_orders import parse_id
from graceful.server.server_status import ServerStatus
from graceful.sockets.backlog import Queue, backlog
from graceful.sockets.binding import BindError
from graceful.web.site import Recorder

#: Raised if control cannot be opened; the text is one line for the operator.
CannotOpen: Final = (ControlError, BindError)


class ControlledShutdown(Protocol):
    """The shutdown of a reactor, which control shows and passes orders to."""

    clock: MonotonicClock
    drain: Drain

    @property
    def taken_down(self) -> int:
        """How many items were taken down so far."""

    @property
    def abandoned(self) -> int:
        """How many threads were abandoned so far."""

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
        """Take down the item with a number; returns the numbers of all items that this interrupts."""


@define
class TrackedSite:
    """A reactor's connections and exchanges, as a :class:`graceful.control.status.StatusSite`.

    :ivar arrived, moved: 0, since a reactor's connections do not move.
    :ivar queue_times: None, since nothing waits for an application.
    """

    register: Tracker
    arrived: int = 0
    moved: int = 0
    queue_times: None = None

    def record_first(self, recorder: Recorder) -> None:
        """Do nothing, since an exchange that begins and ends between two looks is not seen."""


@frozen
class TrackedInputs:
    """A reactor, as a :class:`graceful.control.status.StatusInputs`."""

    tracker: Tracker
    clock: MonotonicClock
    health: Health
    site: TrackedSite

    def sockets(self) -> list[tuple[str, str]]:
        """Returns the names of the open listening ports."""
        return [(name_of_port(port), "open") for port in self.tracker.ports]

    def queues(self) -> list[Queue]:
        """Returns how many clients wait in the queue of each listening port, where the kernel tells it."""
        found = [backlog(name_of_port(port), port.socket) for port in self.tracker.ports if hasattr(port, "socket")]
        return [queue for queue in found if queue is not None]

    def working(self) -> dict[Any, int]:
        """Returns nothing, since it is not known which thread works for which exchange."""
        return {}

    def thread_names(self) -> dict[int, str]:
        """Returns nothing, since no thread is shown."""
        return {}

    def threads(self) -> tuple[int, int, int]:
        """Returns zeros, since a process may have several thread pools."""
        return 0, 0, 0


class ReactorControl:
    """The control of a reactor, and its orders (:class:`graceful.process.orders.ControlOrders`).  Reactor thread.

    :param shutdown: is shown, and carries the orders out.
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
        """Bind the control sockets, and begin to answer.

        :raises ControlError, BindError: see `CannotOpen`.
        """
        try:
            self._server.bind(os.environ, os.getpid())
        except CannotOpen:
            self._server.close()
            raise
        self._server.open(reactor, self)
        self._status.read_from(self._inputs, self._shutdown.drain, self._shutdown, self._shutdown)
        self.entered(State.SERVING)
        self._server.say_open()

    # -- orders -------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Leave the rotation of a balancer; requests are served as before."""
        self.health.leave()

    def enter(self) -> None:
        """Enter the rotation again."""
        self.health.enter()

    def stop(self, quiet: bool, deadline: float | None) -> None:
        """Begin to drain.

        :param quiet: close idle connections at once: no client sends requests any more.
        :param deadline: seconds from the close of the sockets; None for what the settings say.
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
        """Do nothing: no item in flight gets more time by itself."""

    def take_down(self, which: str) -> list[int]:
        """Take down the item with a number; returns the numbers of all items that this interrupts."""
        return self._shutdown.take_down_one(parse_id(which))

    def set_workers(self, count: int) -> dict[str, Any]:
        """Refuse: a reactor is one process.

        :raises OrderRefused: always.
        """
        raise OrderRefused("a reactor is one process: it has no workers")

    def reload_certificates(self) -> Deferred[dict[str, Any]]:
        """Do nothing: a reactor's certificates are its services' own."""
        return succeed({"certificates": [], "refused": []})

    # -- progress of the drain ----------------------------------------------------------------------------

    def entered(self, state: State) -> None:
        """Show that the drain has entered a state."""
        self._status.enter(state)
        self._server.entered(state)

    def end(self, status: int, seconds: float, finished: int, taken: int, abandoned: int) -> None:
        """Report how the drain ended; the reactor need not run any more."""
        self._server.end(DrainResult(status, seconds, finished, taken, abandoned))
