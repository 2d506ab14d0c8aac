"""Control of a process that a graceful reactor runs: the same desk as `graceful-app` has, before another register.

It is only there if the environment asks for it, and only then is graceful's web engine imported, which serves it.  It
opens when the reactor runs: after the fork of a daemon, and with the privileges that the service keeps.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, Final, Protocol

from attrs import frozen

from graceful.config.settings import Settings
from graceful.control.control_server import ControlServer
from graceful.control.control_socket import ControlError, ControlSocket
from graceful.control.health import Health
from graceful.drain import Drain, DrainResult, State
from graceful.process.clock import MonotonicClock
from graceful.process.systemd import SystemdNotifier
from graceful.reactor.tracking import Tracker
from graceful.reactor.transports import name_of_port
from graceful.server.server_orders import number_of
from graceful.server.server_status import ServerStatus
from graceful.sockets.binding import BindError

#: What is raised if control cannot be had: one line for the operator.
CannotOpen: Final = (ControlError, BindError)


class Way(Protocol):
    """What control looks at, and passes its orders on to."""

    clock: MonotonicClock
    drain: Drain
    taken_down: int

    def latest_exit(self) -> float:
        """In how many seconds the process is gone, whatever happens."""

    def limit(self) -> None:
        """See to it that the process ends in time, whatever happens."""

    def stop(self, quiet: bool) -> None:
        """Begin to drain."""

    def move_limit(self) -> None:
        """The deadline was moved."""

    def hurry(self) -> None:
        """Take down at once what is in flight."""

    def take_down_one(self, number: int) -> list[int]:
        """Take down what has a number; which were, if others are interrupted by that."""


@frozen
class Shown:
    """What a status is read from: it has the shape of :class:`graceful.server.engine.Engine`, where that is looked
    at.

    :ivar site: with its register.
    """

    counted: Tracker
    clock: MonotonicClock
    health: Health
    site: Any

    def sockets(self) -> list[tuple[str, str]]:
        """The listening ports by name; those that are closed are forgotten."""
        return [(name_of_port(port), "open") for port in self.counted.ports]

    def working(self) -> dict[Any, int]:
        """Which thread works for what nobody has written down."""
        return {}

    def thread_names(self) -> dict[int, str]:
        """So there are none to name."""
        return {}

    def threads(self) -> tuple[int, int, int]:
        """Nor to count: a process has any number of pools."""
        return 0, 0, 0


class Open:
    """Control that is open; its orders are those of :class:`graceful.server.server_orders.Orders`.  Reactor thread.

    :param way: what is looked at.
    """

    def __init__(self, settings: Settings, counted: Tracker, way: Way) -> None:
        self._way = way
        self._status = ServerStatus(settings)
        path = settings.control
        control = ControlSocket(path, settings.control_mode, settings.control_group) if path else None
        self._desk = ControlServer(settings, self._status, control, SystemdNotifier({}))
        self.health = Health(settings.health_path, settings.going_down_status)
        # Nothing is recorded when it ends, since what comes and goes while nobody looks is not seen.
        site = SimpleNamespace(register=counted, record=None)
        self._shown: Any = Shown(counted, way.clock, self.health, site)

    def open(self, reactor: Any) -> None:
        """Bind, and begin to answer.

        :raises ControlError, BindError: see `CannotOpen`.
        """
        try:
            self._desk.bind(os.environ, os.getpid())
        except CannotOpen:
            self._desk.close()
            raise
        self._desk.open(reactor, self)
        self._status.of(self._shown, self._way.drain, self._way)  # not earlier: the metrics would count requests
        self.entered(State.SERVING)
        self._desk.say_open()

    # -- orders -------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Leave the rotation of a balancer; everything is served as always."""
        self.health.leave()

    def enter(self) -> None:
        """Enter it again."""
        self.health.enter()

    def stop(self, quiet: bool, deadline: float | None) -> None:
        """Begin to drain.

        :param quiet: close idle connections at once: nobody sends requests any more.
        :param deadline: seconds that there are once the sockets are closed, instead of what the settings say.
        """
        if deadline is not None:
            self._way.drain.set_deadline(deadline)
            self._way.move_limit()
        self._way.limit()
        self._way.stop(quiet)

    def extend(self, seconds: float) -> None:
        """Give what is in flight so many seconds more, or fewer."""
        self._way.drain.extend(seconds)
        self._way.move_limit()

    def hurry(self) -> None:
        """Take down at once what is in flight."""
        self._way.limit()
        self._way.hurry()

    def latest_exit(self) -> float:
        """In how many seconds the process is gone, whatever happens; before a drain, from its beginning."""
        return self._way.latest_exit()

    def renew_limit(self) -> None:
        """Nothing that is in flight gets more time by itself."""

    def take_down(self, which: str) -> list[int]:
        """Take down what has a number; which were, if others are interrupted by that."""
        return self._way.take_down_one(number_of(which))

    # -- the way out --------------------------------------------------------------------------------------

    def entered(self, state: State) -> None:
        """The drain is in another state."""
        self._status.enter(state)
        self._desk.entered(state)

    def end(self, status: int, seconds: float, finished: int, taken: int, abandoned: int) -> None:
        """Say how it ended; the reactor need not run any more."""
        self._desk.end(DrainResult(status, seconds, finished, taken, abandoned))
