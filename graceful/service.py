"""An instance, put together: reads like a table of contents.

Bind (as root, if started so), shed privileges, import the application, build the engine, accept; and on the way
out the chain of :mod:`graceful.drain`.  Everything that does something is in a module of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from graceful import logs
from graceful.control.desk import Desk
from graceful.control.notify import Notify
from graceful.control.orders import Orders
from graceful.control.socket import ControlSocket
from graceful.control.status import Status
from graceful.control.successor import CLOSES_IN, Predecessor, TakeoverError
from graceful.drain import Drain
from graceful.engine import Engine, Root
from graceful.exit import LEAVING, LastLimit
from graceful.loading import load
from graceful.reload import Reload
from graceful.settings import Settings
from graceful.signals import Signals
from graceful.sockets.address import Address, parse
from graceful.sockets.binding import BindError, BoundSocket, bind
from graceful.sockets.foreign import ForeignListener
from graceful.sockets.offers import LISTEN
from graceful.sockets.takeover import Succession
from graceful.stopping import LOOK_AGAIN, Process, Stopping
from graceful.takeover import Takeover
from graceful.web.foreign import ForeignFactory
from graceful.web.handler import IHandler
from graceful.wsgi import WSGIResource

if TYPE_CHECKING:
    from graceful.options import Options


class AppServer(Service):
    """Serves a tree of resources as a Twisted service, and drains when it is stopped.

    :param root: an `IResource`, a `WSGIResource`, or a function without arguments that returns one: it is called
        after daemonizing and after privileges are shed.
    :param settings: limits, listeners, time-outs.
    :param process: given if the process is the server's own, as `graceful-app` has it.  A service among others
        leaves signals and exit to its parent, and drains in `stopService`.
    :param reactor: Twisted's, if it is not the usual one.
    """

    log = Logger(namespace="graceful")
    name = "graceful"

    def __init__(
        self,
        root: Root | Callable[[], Root],
        settings: Settings | None = None,
        *,
        process: Process | None = None,
        reactor: Any = None,
    ) -> None:
        self.settings = settings if settings is not None else Settings()
        self._root = root
        self._process = process
        self._reactor = reactor
        self._bound: list[BoundSocket] = []
        self._foreign: list[ForeignListener] = []
        self._late: list[ForeignListener] = []  # a predecessor has these, and cannot hand them over
        self._factory = ForeignFactory()
        self._starting: list[Deferred[Any]] = []
        self._cannot: BaseException | None = None
        self._drain: Drain | None = None
        self._orders: Orders | None = None
        self._status = Status(self.settings)
        self._desk: Desk | None = None
        self._predecessor: Predecessor | None = None
        self._takeover: Takeover | None = None
        self._reload: Reload | None = None
        self._engine: Engine
        self._stopping: Stopping

    # -- start --------------------------------------------------------------------------------------------

    def bind(self) -> None:
        """Bind every socket; nothing is accepted yet.

        :raises BindError: one line for the operator.
        """
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
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

    def _handed_over(self) -> tuple[Mapping[str, str], int | None]:
        """What systemd has said of the sockets that it hands over, and the process it has said it to."""
        process = self._process
        return (process.sockets, process.pid) if process is not None else (os.environ, None)

    def _control_path(self) -> str | None:
        path = self.settings.control
        return self._process.control if path is None and self._process is not None else path

    def _find_predecessor(self) -> None:
        """Get the sockets of whoever serves at the control socket, if that is wanted."""
        process, path = self._process, self._control_path()
        if process is None or not process.takeover or not path:
            return
        self._predecessor = Predecessor.find(process.asked_at or path)
        if self._predecessor is not None:
            process.startup.undo.callback(self._predecessor.close)
            self.log.info("process {pid} serves on until this one accepts", pid=self._predecessor.pid)

    def _bind_desk(self) -> None:
        """Listen for orders, and for those who look: before anything else, and until everything else is gone."""
        settings, process = self.settings, self._process
        path = self._control_path()
        if process is None and not path and not settings.status_listen:
            return
        control = None
        if path:
            control = ControlSocket(
                path,
                settings.control_mode,
                settings.control_group,
                process.owner if process is not None else (-1, -1),
                demanded=settings.control is not None,
            )
        notify = Notify() if process is not None else Notify({})
        self._desk = desk = Desk(settings, self._status, control, notify)
        if process is not None:
            process.startup.undo.callback(desk.close)
        desk.bind(*self._handed_over(), self._predecessor)

    def _bind_foreign(self, address: Address) -> None:
        """Have a plugin listen: here, since its port, or its key, may be for root only."""
        listener = ForeignListener(self._reactor, address.text, self._factory)
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
        self._stopping.failed = failure.value
        self.log.critical("{reason}: stopping", reason=failure.getErrorMessage())
        self.stop(True)
        return failure

    def names(self) -> list[str]:
        """Where it will listen."""
        return [bound.name for bound in self._bound] + [listener.name for listener in self._foreign]

    def _step(self) -> AbstractContextManager[None]:
        return self._process.startup.step() if self._process is not None else nullcontext()

    def _bind_all(self) -> None:
        """Have every socket, from a predecessor or from the kernel."""
        self._find_predecessor()
        self._bind_desk()
        self.bind()
        if self._predecessor is not None:
            self._predecessor.close_unclaimed()

    def privilegedStartService(self) -> None:
        """Bind, and write the pid file, while we may still be root."""
        with self._step():
            logs.append_only()  # a predecessor writes into it, too
            self._bind_all()
            if self._process is not None and self._process.pid_file is not None:
                self._process.startup.undo.callback(self._process.pid_file.remove)
                if self._predecessor is not None:
                    self._process.pid_file.prepare(self._predecessor.pid)
                else:
                    self._process.pid_file.write()
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Import the application, build everything, begin to accept."""
        with self._step():
            if not self._bound and not self._foreign and not self._late:
                self._bind_all()  # under `twist`, nobody calls privilegedStartService
            if self._process is not None:
                # Before the application is imported, since what is registered with atexit later runs earlier.
                self._process.limit.install()
                self._process.startup.undo.callback(self._process.limit.verdict, 1, LEAVING)
            root = self._root
            if not IResource.providedBy(root) and not IHandler.providedBy(root):
                root = root()
            self._engine = Engine(self._reactor, self.settings, root)
            self._stopping = Stopping(self._engine, self._reactor, self._process)
            settings = self.settings
            self._drain = Drain(
                self._engine.clock,
                self._stopping,
                settings.deadline,
                settings.download_deadline,
                settings.lame_duck,
                self._entered,
            )
            self._orders = Orders(self._engine, self._drain, self._stopping, self._process, self._reactor)
            self._status.of(self._engine, self._drain, self._orders)
            self._engine.site.limits.takes_down = self._drain.takes_down
            if self._desk is not None:
                self._stopping.on_going_down, self._stopping.on_gone = self._desk.going_down, self._desk.end
                self._desk.open(self._reactor, self._orders)
                self._takeover = Takeover(
                    self._engine,
                    self._desk,
                    self._drain,
                    self._stopping,
                    self._process,
                    settings.takeover_timeout,
                    self._orders.limit,
                )
                self._prepare_reload(self._takeover.succession, self._desk)
            self._accept()
        super().startService()  # type: ignore[no-untyped-call]

    def _prepare_reload(self, succession: Succession, desk: Desk) -> None:
        self._status.successor = lambda: succession.successor
        process, settings = self._process, self.settings
        if process is not None and process.origin is not None:
            self._reload = Reload(
                process.origin,
                desk.path,
                succession,
                self._reactor,
                self._engine.clock,
                settings.takeover_timeout,
            )

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
        if self._drain is not None and self._drain.state == "serving":
            self._entered("serving")
        if self._desk is None:
            return
        if self._predecessor is None:
            self._desk.say_open()
        elif self._takeover is not None:
            self._takeover.begin(
                self._predecessor, self.settings.max_draining, self._reactor.callFromThread, self._took_over
            )

    def _took_over(self, why_not: str | None) -> None:
        """The predecessor has let go; or it has not, and one of the two has to."""
        assert self._desk is not None
        if why_not is None:
            self._desk.say_open(main=False)
            for listener in self._late:
                Deferred.fromCoroutine(self._listen_late(listener))
            return
        self._stopping.failed = TakeoverError(why_not)
        self.log.critical("no takeover: {reason}: stopping", reason=why_not)
        self.stop(True)

    async def _listen_late(self, listener: ForeignListener) -> None:
        """Listen as soon as the predecessor does no more; there is no way back: what cannot be had is only said."""
        clock = self._engine.clock
        give_up = clock.seconds() + CLOSES_IN
        while self._drain is not None and self._drain.state == "serving":
            try:
                await listener.start()
            except BindError as error:
                if clock.seconds() < give_up:
                    await deferLater(clock, LOOK_AGAIN)
                    continue
                self.log.error("{error}; the other sockets are served", error=error)
            else:
                self._engine.add(listener)
            return

    def _entered(self, state: str) -> None:
        """The drain has entered another state, or all sockets accept."""
        self._status.enter(state)
        if self._desk is not None:
            self._desk.entered(state)

    def _running(self) -> None:
        """The reactor runs, and has installed its own signal handlers: install ours."""
        if self._process is None:
            return
        signals = Signals(self, self._reactor.callFromThread)
        early = self._process.startup.succeeded(signals.stoppers())
        signals.install()
        if early is not None:
            signals.stoppers()[early](early, None)
        elif self._process.startup.hung_up:
            self.deploy()

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
        if self._drain.state != "serving":
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
            self.log.error("no deploy: it is not known how this server was started, or it has no control socket")

    def reopen_logs(self) -> None:
        """Open the access log and twistd's log anew; somebody has moved them."""
        if self._engine.access_log is not None:
            self._engine.access_log.reopen()
        logs.reopen()

    def say_in_flight(self) -> None:
        """Log every exchange in flight, with its thread's stack."""
        self.log.info("{lines}", lines=self._engine.in_flight())

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


def makeService(options: Options) -> AppServer:
    """Return the service that `twistd graceful-app` runs; nothing is opened or started yet.

    For `--check` it does not return: it imports the application, binds every socket, closes them again, and exits.
    """

    def root() -> Root:
        found = load(options.application)
        return found if IResource.providedBy(found) else WSGIResource(None, None, found)

    process = Process(
        options.startup,
        options.pid_file,
        options.sockets,
        options.pid,
        LastLimit(),
        options.control,
        options.owner,
        options.takeover,
        options.asked_at,
        options.origin,
    )
    server = AppServer(root, options.settings, process=process)
    if options.check:
        with options.startup.step():
            load(options.application)
            server.bind()
        options.startup.undo.close()
        print(f"{options.application or 'the demo'} would start, at {', '.join(server.names())}")
        sys.exit(0)
    return server
