"""The Twisted service of a server: connects the engine, its drain, control and takeover.

It binds (as root, if started so), sheds privileges, imports the application, builds the engine, and accepts; at its
end it drains (:mod:`graceful.drain`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.web.resource import IResource

from graceful.config.settings import BadSetting, Settings
from graceful.control.control_server import ControlServer
from graceful.control.counters import Counters
from graceful.control.log_rotation import LogRotation
from graceful.drain.machine import Drain
from graceful.drain.result import DrainResult
from graceful.drain.state import State
from graceful.process.exit import EXIT_SECONDS
from graceful.process.own_process import OwnProcess
from graceful.server.drain_limit import DrainLimit
from graceful.server.engine import Engine, Root
from graceful.server.instance import Instance
from graceful.server.own_sockets import OwnSockets, load_certificates
from graceful.server.server_orders import ServerOrders
from graceful.server.server_status import ServerStatus
from graceful.server.shutdown import Shutdown
from graceful.server.socket_source import SocketSource
from graceful.sockets.binding import BoundSocket
from graceful.takeover.arrival_links import ArrivalLinks
from graceful.takeover.connection_takers import ConnectionTakers
from graceful.takeover.coordinator import Takeover
from graceful.takeover.reload import Reload
from graceful.takeover.successor_api import SuccessorApi
from graceful.takeover.successor_watch import SuccessorWatch
from graceful.tls.certificates import CertificateStore
from graceful.web.interfaces import IHandler
from graceful.web.transport_connection import EndpointFactory

log = Logger(namespace="graceful")


#: Seconds before the last limit at which a stop no longer waits for a reader of its metrics.
MARGIN: Final = 1.0


class AppServer(Instance):
    """Serves a tree of resources as a Twisted service, and drains when it is stopped.

    :param root: an `IResource`, a `WSGIResource`, an `ASGIResource`, or a function without arguments that returns
        one: it is called after daemonizing and after privileges are shed.
    :param settings: limits, listeners, time-outs.
    :param process: given if the server owns its process, as under `graceful-app`.  A service among others
        leaves signals and exit to its parent, drains in `stopService`, and has no workers.
    :param reactor: Twisted's, if it is not the usual one.
    :param source: where the sockets come from; by default they are bound as the settings say.
    """

    engine: Engine
    drain: Drain
    orders: ServerOrders
    arrivals: ArrivalLinks
    takers: ConnectionTakers

    def __init__(
        self,
        root: Root | Callable[[], Root],
        settings: Settings | None = None,
        *,
        process: OwnProcess | None = None,
        reactor: Any = None,
        source: SocketSource | None = None,
    ) -> None:
        settings = settings if settings is not None else Settings()
        if process is None and settings.workers > 1:
            raise BadSetting("workers", settings.workers, "a service among others is one process: run graceful-app")
        self._source = source if source is not None else OwnSockets(settings, process)
        if self._source.control is not None:
            settings = evolve(settings, status_listen=(), control="")  # these are the supervisor's
        self.certificates = CertificateStore()
        self._server_status = ServerStatus(settings, certificates=self.certificates.describe)
        super().__init__(settings, process, reactor, self._source.control)
        self._root = root
        self._reload: Reload | None = None
        self._is_built = False
        self._shutdown: Shutdown
        self.factory = EndpointFactory()

    def _make_status(self) -> ServerStatus:
        return self._server_status

    # -- start --------------------------------------------------------------------------------------------

    def bind(self) -> None:
        """Have every socket; nothing is accepted yet.

        :raises BindError: one line for the operator.
        """
        self._use_usual_reactor()
        load_certificates(self.settings.listen, self.certificates)
        self._source.bind(self._reactor, self.factory, self._predecessor)

    def names(self) -> list[str]:
        """Returns where the server will listen."""
        return self._source.names()

    def _build(self) -> None:
        """Import the application, make the engine, begin to accept."""
        root, settings, process, reactor = self._root, self.settings, self._process, self._reactor
        control = self._control
        if not IResource.providedBy(root) and not IHandler.providedBy(root):
            root = root()
        counters = Counters() if control is not None and control.serves_metrics else None
        self.engine = Engine(
            reactor, settings, root, self._takedown_at, self.certificates, self._source.interceptors, counters
        )
        self._shutdown = Shutdown(self.engine, reactor, process, self, self._source.words)
        self.drain = Drain(
            self.engine.clock,
            self._shutdown,
            settings.deadline,
            settings.download_deadline,
            settings.lame_duck,
            self._entered,
        )
        self._is_built = True
        self.arrivals = ArrivalLinks(self.engine, reactor.callFromThread)
        limit = DrainLimit(self.engine.site.register, self.drain, process.limit if process is not None else None)
        if control is not None:
            self.takers = ConnectionTakers(self.engine.site, self.engine.clock, control.serve_also)
            if self._source.control is None:
                self._prepare_takeover(control, limit)
            else:
                control.answer_successors(SuccessorApi(None, moves=self.takers).answer)
        self.orders = ServerOrders(
            self.engine,
            self.drain,
            self._shutdown,
            limit,
            reactor if process is None else None,
            self._reload,
            self._source.label,
            *([control.stop_ordered, LogRotation(control.asked_path).pass_on] if control is not None else []),
        )
        self._server_status.read_from(self.engine, self.drain, self._shutdown, limit, self._takeover, counters)
        if control is not None:
            control.open(reactor, self.orders)
        reactor.callWhenRunning(self._take_signals, self.orders)
        self._source.accept(self, reactor)

    def _prepare_takeover(self, control: ControlServer, limit: DrainLimit) -> None:
        """Answer successors, and be able to start them."""
        settings, process = self.settings, self._process
        self._takeover = Takeover(
            self.engine.listening,
            control,
            self,
            self._shutdown,
            process,
            settings.takeover_timeout,
            limit.arm,
            partial(SuccessorWatch, self._reactor),
            self._takeover_ended,
            self.takers,
            self.takers.links,
            self.arrivals,
        )
        if process is not None and process.origin is not None:
            self._reload = Reload(
                process.origin,
                control.path,
                self._takeover.handover,
                self._reactor,
                self.engine.clock,
                settings.takeover_timeout,
                takes_over=control.awaits_predecessor,
            )

    def _descriptors(self) -> list[int]:
        serving = self.engine.descriptors() if self._is_built else []
        return [*super()._descriptors(), *serving, *self._source.descriptors()]

    @property
    def state(self) -> State:
        """The state of the instance."""
        return self.drain.state

    def succeeded(self, handed: Sequence[BoundSocket], pid: int) -> Deferred[None]:
        """Begin the drain: the process `pid` accepts from the sockets in `handed`, which are let go of already."""
        return self.drain.succeeded()

    def _takeover_ended(self) -> None:
        """A takeover by a successor has ended, successfully or not."""
        if self._reload is not None:
            self._reload.takeover_ended()

    def _takedown_at(self) -> float | None:
        """Returns when a drain that is under way takes down what is left, monotonic seconds.  Any thread."""
        return self.drain.takedown_at() if self._is_built else None

    def accepting(self) -> None:
        """All sockets accept: enter the state `serving`, unless a drain has begun, and tell the predecessor."""
        if self.drain.state == State.SERVING:
            self._entered(State.SERVING)
        if self._source.control is None:
            self._accepts()

    def _inherited(self) -> None:
        self._source.inherited()
        if self._reload is not None:
            self._reload.has_taken_over()

    def leave_after(self, error: BaseException) -> None:
        """Stop, with exit status 1, since something failed."""
        self._shutdown.fail()
        self.stop(True)

    # -- in a drain; a :class:`graceful.server.shutdown.DrainListener` ---------------------------------------

    def going_down(self) -> None:
        """Tell the balancer and the service manager; take connections in only if they can move on to a successor."""
        if self._control is None or not self.takers.active:
            self.arrivals.stop()
        if self._control is not None:
            self._control.going_down()

    def before_closing(self) -> Deferred[None]:
        """Abandon a deploy that is under way; ask the supervisor, if there is one."""
        given_up = self._reload.give_up() if self._reload is not None else succeed(None)
        return given_up.addCallback(lambda ignored: self._source.before_closing())

    def sockets_closed(self) -> None:
        """Every listening socket is closed."""
        self._source.sockets_closed()

    def more_arrive(self) -> bool:
        """Take no more connections in.  Returns whether some are still on their way."""
        self.arrivals.stop()
        return self.arrivals.busy

    def before_leaving(self) -> Deferred[None]:
        """Wait until Prometheus has read what was taken down, if it reads it, within the time that there is."""
        if self._control is None:
            return succeed(None)
        return self._control.until_scraped(self._server_status.latest_exit - EXIT_SECONDS - MARGIN)

    def drained(self, result: DrainResult) -> None:
        """Send the result to the clients of control and to the supervisor."""
        snapshot = self._server_status.snapshot_with_counters(0)  # as it is before control sends the result
        if self._control is not None:
            self._control.end(result)
        self._source.drained(result, snapshot)

    # -- for a program that embeds the server ---------------------------------------------------------------

    def stop(self, quiet: bool) -> None:
        """Begin to drain; asked again, log what the drain waits for.  The service has been started.

        :param quiet: close idle connections at once: no client sends further requests.
        """
        if self.orders.draining:
            self.orders.log_in_flight()
        self.drain.begin(quiet)

    def hurry(self) -> None:
        """Take down at once what is in flight."""
        self.drain.hurry()

    def reopen_logs(self) -> None:
        """Open the access log and twistd's log again by their paths: logrotate has moved them."""
        self.orders.reopen_logs()

    def say_in_flight(self) -> None:
        """Log every exchange in flight, with its thread's stack."""
        self.orders.log_in_flight()

    def stopService(self) -> Deferred[None]:
        """Drain; fires when the drain is over."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._is_built:
            return self.drain.begin()
        if self._control is not None:
            self._control.close()
        return self._source.close()
