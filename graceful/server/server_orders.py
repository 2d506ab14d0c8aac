"""Obeys the orders that a server gets by signals and through the control API.

Each order that changes a deadline also moves the last limit, which does not depend on the reactor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorCore
from twisted.logger import Logger

from graceful.drain.machine import Drain
from graceful.drain.state import State
from graceful.logs import twistd_log
from graceful.process.orders import OrderRefused
from graceful.server.drain_limit import DrainLimit
from graceful.server.engine import Engine
from graceful.server.shutdown import Shutdown

log = Logger(namespace="graceful")

NO_WORKERS: Final = (
    "only a supervisor can start and stop workers: start the server with --workers 2, or more; a server that has them"
    " takes this order by the process and the control socket of its supervisor"
)
"""Why the number of workers of this process cannot be changed: it serves itself, alone or as a worker."""


class Deploys(Protocol):
    """Starts a successor of this process."""

    def deploy(self) -> None:
        """Start it, unless one is on its way; a failure is logged."""


class ServerOrders:
    """Obeys the orders to one server; :class:`graceful.process.orders.Orders`.

    Reactor thread, except where something else is said.

    :param engine: serves.
    :param drain: its drain.
    :param shutdown: takes down single exchanges.
    :param limit: the last limit.
    :param reactor: stopped when a drain ends, if the process is not the server's own: then a stop through control
        takes the whole process with it; None if the drain itself ends the process.
    :param deploys: starts a successor; None if this server cannot have one.
    :param label: begins the lines of :meth:`log_in_flight`.
    :param stop_ordered: is called at each order to stop.
    :param logs_reopened: is called when a server that does not drain has opened its logs again.
    """

    def __init__(
        self,
        engine: Engine,
        drain: Drain,
        shutdown: Shutdown,
        limit: DrainLimit,
        reactor: IReactorCore | None,
        deploys: Deploys | None,
        label: str = "",
        stop_ordered: Callable[[], object] = lambda: None,
        logs_reopened: Callable[[], object] = lambda: None,
    ) -> None:
        self._engine = engine
        self._drain = drain
        self._shutdown = shutdown
        self._limit = limit
        self._reactor = reactor
        self._deploys = deploys
        self._label = label
        self._stop_ordered = stop_ordered
        self._logs_reopened = logs_reopened

    @property
    def draining(self) -> bool:
        """Whether a drain has begun."""
        return self._drain.state != State.SERVING

    # -- the last limit -----------------------------------------------------------------------------------

    def arm_last_limit(self) -> None:
        """Set the last limit if a drain is about to begin.  In a signal handler, too."""
        self._limit.arm()

    def renew_limit(self) -> None:
        """Move the last limit if there is more time than when it was set."""
        self._limit.renew()

    # -- the drain ----------------------------------------------------------------------------------------

    def stop(self, quiet: bool, deadline: float | None = None) -> None:
        """Begin to drain; a second order only changes `quiet` and the deadline.

        :param quiet: close idle connections at once: no client sends further requests.
        :param deadline: seconds that exchanges have once the sockets are closed, instead of what the settings say.
        """
        self._stop_ordered()
        if deadline is not None:
            self._drain.set_deadline(deadline)
            self._limit.move()
        self._limit.ensure()
        stopped = self._drain.begin(quiet)
        if self._reactor is not None:
            stopped.addCallback(self._stop_reactor, self._reactor)

    def _stop_reactor(self, ignored: object, reactor: IReactorCore) -> None:
        try:
            reactor.stop()
        except ReactorNotRunning:
            pass  # something else has stopped the reactor meanwhile

    def succeed(self) -> Deferred[None]:
        """Begin to drain when another process has the sockets: no balancer needs time to notice."""
        self._limit.arm()
        return self._drain.succeeded()

    def hurry(self) -> None:
        """Take down at once what is in flight."""
        self._limit.ensure()
        self._drain.hurry()

    def extend(self, seconds: float) -> None:
        """Move the deadline by `seconds`, which may be negative."""
        self._drain.extend(seconds)
        self._limit.move()

    def take_down(self, which: str) -> list[int]:
        """Take down an exchange and those queued behind it.  Returns the ids of those interrupted."""
        return self._shutdown.take_down_one(parse_id(which))

    # -- everything else ----------------------------------------------------------------------------------

    def leave(self) -> None:
        """Leave the rotation of a balancer; everything is served as always."""
        self._engine.health.leave()

    def enter(self) -> None:
        """Enter it again."""
        self._engine.health.enter()

    def deploy(self) -> None:
        """Start a successor that takes over."""
        if self._deploys is not None:
            self._deploys.deploy()
        else:
            log.error("no deploy: it is not known how this server was started, or it has no control socket")

    def set_workers(self, count: int) -> dict[str, Any]:
        """Refuse: a single process has no workers.

        :raises OrderRefused: always.
        """
        raise OrderRefused(NO_WORKERS)

    def change_workers(self, by: int) -> None:
        """Log that a single process has no workers."""
        log.error("no change of workers: {why}", why=NO_WORKERS)

    def reload_certificates(self) -> Deferred[dict[str, Any]]:
        """Load all certificates again; new connections get them."""
        return self._engine.certificate_watch.reload()

    def reopen_logs(self) -> None:
        """Open the access log and twistd's log again by their paths: logrotate has moved them."""
        if self._engine.access_log is not None:
            self._engine.access_log.reopen()
        twistd_log.reopen()
        if not self.draining:
            self._logs_reopened()

    def log_in_flight(self) -> None:
        """Log every exchange in flight, with its thread's stack."""
        log.info("{lines}", lines=self._label + self._engine.in_flight())


def parse_id(which: str) -> int:
    """Returns the number of an exchange from an operator's input; 0, which no exchange has, if it is not a number."""
    return int(which) if which.isascii() and which.isdigit() and len(which) < 20 else 0
