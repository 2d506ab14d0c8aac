"""An instance, put together: reads like a table of contents.

Bind (as root, if started so), shed privileges, import the application, build the engine, accept; and on the way
out the chain of :mod:`graceful.drain`.  Everything that does something is in a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from graceful.config.settings import BadSetting, Settings
from graceful.control.control_server import ControlServer
from graceful.drain import Drain, State
from graceful.process.own_process import OwnProcess
from graceful.server.engine import Engine, Root
from graceful.server.instance import Instance
from graceful.server.server_orders import ServerOrders
from graceful.server.server_status import ServerStatus
from graceful.server.shutdown import LOOK_AGAIN, Shutdown
from graceful.sockets.address import Address, parse
from graceful.sockets.binding import LISTEN, BindError, BoundSocket, bind
from graceful.sockets.endpoint_listener import EndpointListener
from graceful.takeover.coordinator import Takeover
from graceful.takeover.predecessor import CLOSES_IN
from graceful.takeover.reload import Reload
from graceful.web.interfaces import IHandler
from graceful.web.transport_connection import EndpointFactory

if TYPE_CHECKING:
    pass

log = Logger(namespace="graceful")


class AppServer(Instance):
    """Serves a tree of resources as a Twisted service, and drains when it is stopped.

    :param root: an `IResource`, a `WSGIResource`, or a function without arguments that returns one: it is called
        after daemonizing and after privileges are shed.
    :param settings: limits, listeners, time-outs.
    :param process: given if the process is the server's own, as `graceful-app` has it.  A service among others
        leaves signals and exit to its parent, drains in `stopService`, and has no workers.
    :param reactor: Twisted's, if it is not the usual one.
    """

    def __init__(
        self,
        root: Root | Callable[[], Root],
        settings: Settings | None = None,
        *,
        process: OwnProcess | None = None,
        reactor: Any = None,
    ) -> None:
        settings = settings if settings is not None else Settings()
        if process is None and settings.workers > 1:
            raise BadSetting("workers", settings.workers, "a service among others is one process: run graceful-app")
        self._status: ServerStatus
        super().__init__(settings, process, reactor)
        self._status = ServerStatus(settings)
        self._root = root
        self._bound: list[BoundSocket] = []
        self._foreign: list[EndpointListener] = []
        self._late: list[EndpointListener] = []  # a predecessor has these, and cannot hand them over
        self._factory = EndpointFactory()
        self._starting: list[Deferred[Any]] = []
        self._cannot: BaseException | None = None
        self._drain: Drain | None = None
        self._orders: ServerOrders | None = None
        self._reload: Reload | None = None
        self._engine: Engine
        self._stopping: Shutdown

    # -- start --------------------------------------------------------------------------------------------

    def bind(self) -> None:
        """Bind every socket; nothing is accepted yet.

        :raises BindError: one line for the operator.
        """
        self._use_usual_reactor()
        process = self._process
        environ, pid = self._handed_over()
        addresses = [parse(text) for text in self.settings.listen]
        ours = [address for address in addresses if address.kind != "plugin"]
        predecessor = self._predecessor
        adopted = iter(predecessor.claim(LISTEN, ours) if predecessor is not None else [None] * len(ours))
        for address in addresses:
            if address.kind == "plugin":
                self._bind_foreign(address)
                continue
            bound = next(adopted) or bind(address, environ, pid)
            self._bound.append(bound)
            if process is not None:
                process.startup.undo.callback(bound.close)

    def _bind_foreign(self, address: Address) -> None:
        """Have a plugin listen: here, since its port, or its key, may be for root only."""
        listener = EndpointListener(self._reactor, address.text, self._factory)
        if self._predecessor is not None and address.text in self._predecessor.foreign:
            self._late.append(listener)
            return
        self._foreign.append(listener)
        starting = listener.start().addErrback(self._cannot_listen)
        if self._cannot is not None:
            raise self._cannot
        self._starting.append(starting)

    def _cannot_listen(self, failure: Failure) -> Failure | None:
        """An endpoint's plugin has failed: start-up fails with it; or, if it comes to that later, we leave."""
        if self._drain is None:
            self._cannot = failure.value
            return None
        self._fail(failure.value)
        log.critical("{reason}: stopping", reason=failure.getErrorMessage())
        self._leave()
        return failure

    def names(self) -> list[str]:
        """Where it will listen."""
        return [bound.name for bound in self._bound] + [listener.name for listener in self._foreign]

    def _build(self) -> None:
        """Import the application, make the engine, begin to accept."""
        root = self._root
        if not IResource.providedBy(root) and not IHandler.providedBy(root):
            root = root()
        self._engine = Engine(self._reactor, self.settings, root)
        self._stopping = Shutdown(self._engine, self._reactor, self._process)
        settings = self.settings
        self._drain = Drain(
            self._engine.clock,
            self._stopping,
            settings.deadline,
            settings.download_deadline,
            settings.lame_duck,
            self._entered,
        )
        self._orders = ServerOrders(self._engine, self._drain, self._stopping, self._process, self._reactor)
        self._status.read_from(self._engine, self._drain, self._orders)
        self._engine.site.limits.takes_down = self._drain.takedown_at
        if self._desk is not None:
            self._stopping.on_going_down, self._stopping.on_gone = self._desk.going_down, self._desk.end
            self._desk.open(self._reactor, self._orders)
            self._be_succeeded(self._desk, self._orders)
        self._accept()

    def _be_succeeded(self, desk: ControlServer, orders: ServerOrders) -> None:
        """Answer successors, and start them."""
        assert self._drain is not None
        timeout, process = self.settings.takeover_timeout, self._process
        self._takeover = Takeover(self._engine, desk, self._drain, self._stopping, process, timeout, orders.limit)
        succession = self._takeover.succession
        self._status.successor = lambda: succession.successor
        if process is not None and process.origin is not None:
            self._reload = Reload(process.origin, desk.path, succession, self._reactor, self._engine.clock, timeout)
            self._stopping.before_closing = self._reload.give_up

    def _accept(self) -> None:
        self._engine.accept(self._bound, self._foreign, self._factory)
        self._reactor.callWhenRunning(self._running)
        listening = DeferredList(self._starting, fireOnOneErrback=True, consumeErrors=True)
        listening.addCallback(lambda ignored: self._reactor.callWhenRunning(self._open))
        listening.addErrback(lambda ignored: None)  # it has been said
        self._bound, self._foreign, self._starting = [], [], []

    def _open(self) -> None:
        """All sockets accept."""
        self._engine.say_open()
        if self._drain is not None and self._drain.state == State.SERVING:
            self._entered(State.SERVING)
        self._accepts()

    def _let_go(self) -> None:
        for listener in self._late:
            Deferred.fromCoroutine(self._listen_late(listener))

    def _fail(self, error: BaseException | None) -> None:
        self._stopping.failed = error

    def _leave(self) -> None:
        self.stop(True)

    async def _listen_late(self, listener: EndpointListener) -> None:
        """Listen as soon as the predecessor does no more; there is no way back: what cannot be had is only said."""
        clock = self._engine.clock
        give_up = clock.seconds() + CLOSES_IN
        while self._drain is not None and self._drain.state == State.SERVING:
            try:
                await listener.start()
            except BindError as error:
                if clock.seconds() < give_up:
                    await deferLater(clock, LOOK_AGAIN)
                    continue
                log.error("{error}; the other sockets are served", error=error)
            else:
                self._engine.add(listener)
            return

    # -- what can be asked of it, by signals --------------------------------------------------------------

    def limit(self) -> None:
        """See to it that the process ends in time, whatever happens.  In a signal handler."""
        if self._orders is not None:
            self._orders.limit()

    def stop(self, quiet: bool) -> None:
        """Begin to drain; asked again, say what it waits for.

        :param quiet: close idle connections at once: nobody sends requests any more.
        """
        assert self._drain is not None
        if self._drain.state != State.SERVING:
            self.say_in_flight()
        self._drain.begin(quiet)

    def hurry(self) -> None:
        """Take down at once what is in flight."""
        assert self._drain is not None
        self._drain.hurry()

    def deploy(self) -> None:
        """Start a successor that takes over."""
        if self._reload is not None:
            self._reload()
        else:
            log.error("no deploy: it is not known how this server was started, or it has no control socket")

    def reopen_logs(self) -> None:
        """Open the access log and twistd's log anew; somebody has moved them."""
        if self._engine.access_log is not None:
            self._engine.access_log.reopen()
        super().reopen_logs()

    def say_in_flight(self) -> None:
        """Log every exchange in flight, with its thread's stack."""
        log.info("{lines}", lines=self._engine.in_flight())

    def stopService(self) -> Deferred[None]:
        """Drain; fires when nothing is left."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._drain is None:
            if self._desk is not None:
                self._desk.close()
            for bound in self._bound:
                bound.close()
            return DeferredList([listener.close() for listener in self._foreign]).addCallback(lambda ignored: None)
        return self._drain.begin()
