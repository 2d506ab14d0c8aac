"""An instance, put together: reads like a table of contents.

Bind (as root, if started so), shed privileges, import the application, build, accept; and on the way out the chain
of :mod:`graceful.drain`.  Everything that does something is in a module of its own; this one knows them all, and
nobody else does.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure
from twisted.python.logfile import BaseLogFile
from twisted.web.resource import IResource

from graceful.access_log import AccessLog
from graceful.clock import MonotonicClock, on
from graceful.drain import Drain
from graceful.exit import ABANDONED, FINISHED, LEAVING, REPORTS, TAKEN_DOWN, LastLimit, latest_exit
from graceful.loading import load
from graceful.pidfile import PidFile
from graceful.settings import Settings
from graceful.signals import Signals
from graceful.sockets.address import Address, parse
from graceful.sockets.binding import BoundSocket, bind
from graceful.sockets.foreign import ForeignListener
from graceful.sockets.listener import Listener
from graceful.startup import Startup
from graceful.takedown.deadline import Takedown
from graceful.takedown.stacks import stack_of
from graceful.web.body import Spooler
from graceful.web.exchange import Exchange
from graceful.web.foreign import ForeignFactory
from graceful.web.handler import IHandler
from graceful.web.hub import Hub
from graceful.web.proxies import TrustedProxies
from graceful.web.resources import Tree
from graceful.web.site import Site
from graceful.wsgi import WSGIResource
from graceful.wsgi.pool import Pool

if TYPE_CHECKING:
    from graceful.options import Options

SWEEP: Final = 1.0
SWEEP_IN_DRAIN: Final = 0.1
LOOK_AGAIN: Final = 0.02
IDLE_THREADS_END: Final = 1.0

Root = Any  # an IResource, or something that IHandler can be made of


@frozen
class Process:
    """What a server gets when the process is its own: it takes the signals, and the exit status is its verdict.

    :ivar startup: surrounds everything that may fail until the reactor runs.
    :ivar pid_file: given up when the sockets are closed; None for none.
    :ivar sockets: what systemd has said of the sockets that it hands over.
    :ivar pid: the process it has said it to.
    """

    startup: Startup
    pid_file: PidFile | None
    sockets: dict[str, str]
    pid: int


class AppServer(Service):
    """Serves a tree of resources as a Twisted service, and drains when it is stopped.

    :param root: an `IResource`, a `WSGIResource`, or a function without arguments that returns one: it is called
        after daemonizing and after privileges are shed.
    :param settings: limits, listeners, time-outs.
    :param process: given if the process is the server's own, as `graceful-app` has it.  A service among others
        leaves signals and exit to its parent, and drains in `stopService`.
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
        self._foreign: list[Address] = []
        self._listeners: list[Listener | ForeignListener] = []
        self._pools: list[Pool[Exchange]] = []
        self._limit = LastLimit()
        self._access_log: AccessLog | None = None
        self._takedown: Takedown | None = None
        self._finished_before = 0
        self._failed: BaseException | None = None
        self.site: Site
        self.drain: Drain
        self._clock: MonotonicClock
        self._hub: Hub

    # -- start --------------------------------------------------------------------------------------------

    def bind(self) -> None:
        """Bind every socket that is ours; nothing is accepted yet.

        :raises BindError: one line for the operator.
        """
        process = self._process
        environ, pid = (process.sockets, process.pid) if process is not None else (os.environ, None)
        for text in self.settings.listen:
            address = parse(text)
            if address.kind == "plugin":
                self._foreign.append(address)
                continue
            bound = bind(address, environ, pid)
            self._bound.append(bound)
            if process is not None:
                process.startup.undo.callback(bound.close)

    def names(self) -> list[str]:
        """Where it listens, or will."""
        return [bound.name for bound in self._bound] + [address.text for address in self._foreign]

    def _step(self) -> AbstractContextManager[None]:
        return self._process.startup.step() if self._process is not None else nullcontext()

    def privilegedStartService(self) -> None:
        """Bind, and write the pid file, while we may still be root."""
        with self._step():
            self.bind()
            if self._process is not None and self._process.pid_file is not None:
                self._process.pid_file.write()
                self._process.startup.undo.callback(self._process.pid_file.remove)
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Import the application, build everything, begin to accept."""
        with self._step():
            if not self._bound and not self._foreign:
                self.bind()  # under `twist`, nobody calls privilegedStartService
            if self._reactor is None:
                from twisted.internet import reactor

                self._reactor = reactor
            root = self._root
            if not IResource.providedBy(root) and not IHandler.providedBy(root):
                root = root()
            if self._process is not None:
                self._reactor.callWhenRunning(self._running)
            self._build(root)
            self._accept()
        if self._process is not None:
            self._limit.install()
        super().startService()  # type: ignore[no-untyped-call]

    def _running(self) -> None:
        """The reactor runs, and has installed its own signal handlers: install ours."""
        assert self._process is not None
        signals = Signals(self, self._reactor.callFromThread)
        early = self._process.startup.succeeded(signals.stoppers())
        signals.install()
        if early is not None:
            signals.stoppers()[early](early, None)

    def _build(self, root: Root) -> None:
        settings, reactor = self.settings, self._reactor
        self._clock = on(reactor)
        self._clock.start()
        self._hub = Hub(reactor)
        if settings.access_log is not None:
            self._access_log = AccessLog(settings.access_log)
            self._access_log.start()
        self.site = Site(
            root,
            settings,
            record=self._access_log.record if self._access_log is not None else None,
            proxies=TrustedProxies(settings.trusted_proxy) if settings.trusted_proxy else None,
            spooler=Spooler(settings.spool, self._hub.call),
        )
        self.site.new_pool = self._new_pool
        self.site.serve(IHandler(root, None) or Tree(root, self._hub))
        self.drain = Drain(self._clock, self, settings.deadline)
        # What was imported lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()

    def _new_pool(self, size: int | None, run: Callable[[Exchange], None]) -> Pool[Exchange]:
        """A pool whose threads are woken once for each batch of the hub's."""
        pool = Pool(size or self.settings.threads, self.settings.queue, run)
        pool.start()
        self._pools.append(pool)
        if len(self._pools) == 1:
            self._hub.before, self._hub.after = pool.hold, pool.kick
        else:
            self._hub.before, self._hub.after = self._hold_all, self._kick_all
        return pool

    def _hold_all(self) -> None:
        for pool in self._pools:
            pool.hold()

    def _kick_all(self) -> None:
        for pool in self._pools:
            pool.kick()

    def _accept(self) -> None:
        self._hub.start()
        for bound in self._bound:
            self._listeners.append(Listener(self._reactor, self._clock, bound, self._accepter(bound)))
        for address in self._foreign:
            factory = ForeignFactory(self.site, self._hub)
            self._listeners.append(ForeignListener(self._reactor, address.text, factory))
        self._bound = []
        self.site.on_room = self._room
        for listener in self._listeners:
            started = listener.start()
            if started is not None:
                started.addErrback(self._cannot_listen)
        if self._failed is not None:
            raise self._failed
        self._reactor.callWhenRunning(self._opened)
        self._clock.callLater(SWEEP, self._sweep)

    def _opened(self) -> None:
        """Say what is open; not before signals are obeyed, since somebody may wait for these lines to send one."""
        for listener in self._listeners:
            self.log.info("socket {name} open (pid {pid})", name=listener.name, pid=os.getpid())

    def _cannot_listen(self, failure: Failure) -> None:
        """An endpoint's plugin has failed: if it was at once, start-up fails with it, else we leave."""
        if not self._reactor.running:
            self._failed = failure.value
            return
        self.log.critical("{reason}: stopping", reason=failure.getErrorMessage())
        self._failed = failure.value
        self.stop(True)

    def _accepter(self, bound: BoundSocket) -> Callable[[socket.socket, Any], None]:
        """What takes a listener's connections in."""
        name = bound.socket.getsockname()
        server = (str(name[0]), int(name[1])) if isinstance(name, tuple) else ("localhost", 80)
        site, hub, register = self.site, self._hub, self.site.register
        most = self.settings.max_connections

        def accepted(sock: socket.socket, peer: Any) -> None:
            site.accepted(hub, sock, peer, server)
            if len(register.connections) >= most and not site.draining:
                for listener in self._listeners:
                    if isinstance(listener, Listener):
                        listener.pause("max-connections")

        return accepted

    def _room(self) -> None:
        """A connection was closed: accept again, if that was the limit."""
        if len(self.site.register.connections) < self.settings.max_connections:
            for listener in self._listeners:
                if isinstance(listener, Listener) and listener.paused is not None:
                    listener.resume()

    def _sweep(self) -> None:
        self._clock.callLater(SWEEP_IN_DRAIN if self.site.draining else SWEEP, self._sweep)
        self.site.tick()
        self.site.sweep(self._clock.seconds())

    # -- by signals ---------------------------------------------------------------------------------------

    def limit(self) -> None:
        """See to it that the process ends in time, whatever happens.  In a signal handler."""
        if self.drain.state == "serving":
            self._limit.arm(latest_exit(0, self.settings.deadline))

    def stop(self, quiet: bool) -> None:
        """Begin to drain; asked again, say what it waits for."""
        if self.drain.state != "serving":
            self.say_in_flight()
        self.drain.begin(quiet)

    def hurry(self) -> None:
        """Take down at once what is in flight."""
        self.drain.hurry()

    def reopen_logs(self) -> None:
        """Open the access log and twistd's log anew; somebody has moved them."""
        if self._access_log is not None:
            self._access_log.reopen()
        for observer in globalLogPublisher._observers:
            file = getattr(observer, "_outFile", None)
            if isinstance(file, BaseLogFile):
                file.reopen()
        self.log.info("log files opened anew")

    def say_in_flight(self) -> None:
        """Log every exchange in flight, with its thread's stack."""
        now = self._clock.seconds()
        exchanges = self.site.register.in_flight()
        lines = [f"{len(exchanges)} in flight, {len(self.site.register.connections)} connections"]
        for exchange in exchanges:
            lines.append(exchange.describe(now))
            stack = stack_of(exchange.thread)
            if stack:
                lines.append(stack)
        self.log.info("{lines}", lines="\n".join(lines))

    # -- stop: what the drain works on --------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        """Drain; fires when nothing is left."""
        super().stopService()  # type: ignore[no-untyped-call]
        if not hasattr(self, "drain"):
            for bound in self._bound:
                bound.close()
            return succeed(None)
        return self.drain.begin()

    def last_requests(self, quiet: bool) -> None:
        """From now on every answer is its connection's last."""
        site = self.site
        if not site.draining:
            site.draining = True
            site.draining_since = self._clock.seconds()
            self._finished_before = site.register.finished
            self.log.info("stopping: {count} exchanges in flight", count=len(site.register.exchanges))
        site.quiet = site.quiet or quiet
        self._clock.callLater(0, self._sweep_once)

    def close_listeners(self) -> Deferred[None]:
        """Close all listening sockets; each says so in the log."""
        if self._process is not None and self._process.pid_file is not None:
            self._process.pid_file.release()  # before "closed" is said: a successor may start at that word
        closing: list[Deferred[None]] = []
        for listener in self._listeners:
            if isinstance(listener, Listener):
                closing.append(listener.close(self.settings.deadline))
            else:
                closing.append(listener.close())
        done: Deferred[None] = Deferred()
        DeferredList(closing).addCallback(lambda ignored: done.callback(None))
        return done

    def _sweep_once(self) -> None:
        self.site.sweep(self._clock.seconds())

    def all_gone(self) -> Deferred[None]:
        """Fire when no connection is left, and no thread works for an exchange any more."""
        done: Deferred[None] = Deferred()

        def look(ignored: object) -> None:
            if self.site.register.exchanges:
                self._clock.callLater(LOOK_AGAIN, look, None)
            else:
                done.callback(None)

        self.site.register.all_gone().addCallback(look)
        return done

    def _working(self) -> int:
        return sum(len(pool.working) for pool in self._pools)

    def take_down(self) -> Deferred[None]:
        """End what is left."""
        self._takedown = Takedown(self.site, self._clock, self._working)
        return self._takedown.start()

    def gone(self, seconds: float) -> None:
        """Say how it went; end the threads; leave."""
        for pool in self._pools:
            pool.stop(0 if self._working() else IDLE_THREADS_END)
        taken = self._takedown.taken if self._takedown is not None else 0
        abandoned = self._takedown.abandoned if self._takedown is not None else 0
        finished = self.site.register.finished - self._finished_before - taken
        self.site.spooler.stop()
        if self._access_log is not None:
            self._access_log.close()
        self._hub.stop()
        self._clock.stop()
        self.log.info(
            "drained in {seconds:.1f} s: {finished} finished, {taken} taken down, {abandoned} abandoned",
            seconds=seconds,
            finished=finished,
            taken=taken,
            abandoned=abandoned,
        )
        if self._process is not None:
            status = ABANDONED if abandoned else TAKEN_DOWN if taken else FINISHED
            if self._failed is not None:
                status = 1
            self._limit.verdict(status, REPORTS + LEAVING)
            if self._process.pid_file is not None:
                self._process.pid_file.remove()
            self._reactor._exitSignal = None  # a SIGTERM that came before our handlers: it was obeyed
            try:
                self._reactor.stop()
            except ReactorNotRunning:
                pass  # it was the reactor's stopping that made us drain


def makeService(options: Options) -> AppServer:
    """Return the service that `twistd graceful-app` runs; nothing is opened or started yet.

    For `--check` it does not return: it imports the application, binds every socket, closes them again, and exits.
    """

    def root() -> WSGIResource:
        return WSGIResource(None, None, load(options.application))

    server = AppServer(
        root, options.settings, process=Process(options.startup, options.pid_file, options.sockets, options.pid)
    )
    if options.check:
        with options.startup.step():
            load(options.application)
            server.bind()
        options.startup.undo.close()
        print(f"{options.application or 'the demo'} would start, at {', '.join(server.names())}")
        sys.exit(0)
    return server
