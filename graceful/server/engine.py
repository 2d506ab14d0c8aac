"""The part of a server that runs from the import of the application until its last connection is closed.

It is made in one step, after every fork and with the final privileges, because threads, epolls and timers that were
made earlier would survive neither.  Ownership is decided here: the hub owns its connections, the listeners own their
sockets, the pools own their threads, and the engine owns all of them until :meth:`Engine.close`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from graceful.config.settings import HEALTH_PATH, Settings
from graceful.config.values import parse_mapping
from graceful.control.health import Health
from graceful.downloads.handover import AnswerHandOver
from graceful.downloads.parking_lot import ParkingLot
from graceful.downloads.prefixes import PublicPrefixes
from graceful.downloads.relay_pool import RelayPool
from graceful.logs.access_log import AccessLog
from graceful.process import gc_tuning
from graceful.process.clock import monotonic_clock
from graceful.reports.reporter import Reporter
from graceful.sockets.binding import BoundSocket
from graceful.sockets.endpoint_listener import EndpointListener
from graceful.sockets.listener import Listener
from graceful.takedown.kernel_waits import Inode, KernelWaits
from graceful.takedown.request_timeout import RequestTimeouts
from graceful.takedown.thread_interrupt import InterruptScheduler
from graceful.threads.callbacks import CallbackThreads
from graceful.threads.disk import DiskThreads
from graceful.threads.pool import Pool
from graceful.threads.stacks import stack_of
from graceful.threads.start import NoThread
from graceful.web.body_spool import Spooler
from graceful.web.connection import accept_connection
from graceful.web.exchange import Exchange
from graceful.web.hub import Hub
from graceful.web.interfaces import IHandler
from graceful.web.proxies import TrustedProxies
from graceful.web.resource_tree import ResourceTree
from graceful.web.site import Site
from graceful.web.timeouts import Sweep
from graceful.web.transport_connection import EndpointFactory
from graceful.wsgi.resource import WSGIResource
from graceful.wsgi.runner import Runner

log = Logger(namespace="graceful")


#: Seconds between two searches for connections and parked requests whose time is over; time-outs are that coarse.
SWEEP: Final = 1.0

#: The same in a drain, which ends at once when the last connection is closed.
SWEEP_IN_DRAIN: Final = 0.1

#: Seconds for which the end waits for threads of the pools that are idle: they exit as soon as they are woken.
IDLE_THREADS_END: Final = 1.0

Root = Any  # an IResource, or something that IHandler can be made of


class Engine:
    """Serves a root on listeners.  Reactor thread, except where something else is said.

    :param reactor: Twisted's.
    :param settings: limits and time-outs.
    :param root: an `IResource`, or something that :class:`~graceful.web.interfaces.IHandler` can be made of.
    :param takedown_at: returns when a drain takes down what is left, monotonic seconds; None before a drain.
    :ivar site: what is served, with the register of all that is in flight.
    :ivar clock: monotonic time, for every deadline.
    :ivar access_log: None if there is none.
    :ivar reports: writes reports of requests that were taken down, have failed or were slow.
    :ivar interrupt_scheduler: brings threads down.
    :ivar request_timeouts: takes down single exchanges while the server runs normally.
    :ivar callbacks: runs the application's callables that have no thread of an exchange.
    :ivar health: what a balancer is told.
    :ivar parking_lot: where parked requests wait.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        root: Root,
        takedown_at: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self.clock = monotonic_clock(reactor)
        self.clock.start()
        self._hub = Hub(reactor)
        self._listeners: list[Listener | EndpointListener] = []
        self._sweeping: IDelayedCall | None = None
        self._silent = False
        self._pools: dict[Any, Pool[Exchange]] = {}
        self._lacks_threads = False
        self.access_log = AccessLog(settings.access_log) if settings.access_log is not None else None
        self.callbacks = CallbackThreads()
        self.reports = Reporter(settings.reports, settings.report_hide)
        self.interrupt_scheduler = InterruptScheduler(
            self.clock, self.working, self._native, KernelWaits(self._own_sockets), self.callbacks.call
        )
        self.site = Site(
            root,
            settings,
            record=self.access_log.record if self.access_log is not None else None,
            proxies=TrustedProxies(settings.trusted_proxy) if settings.trusted_proxy else None,
            spooler=Spooler(settings.spool, self._hub.call),
            pool_for=self._pool_for,
            takedown_at=takedown_at,
        )
        self._end_overdue = Sweep(self.site)
        self._answer_without_threads(reactor)
        self.request_timeouts = RequestTimeouts(
            self.site, self.clock, self.working, self._queued, self.interrupt_scheduler, self.reports, self._replace
        )
        self.health = Health(settings.health_path or HEALTH_PATH, settings.going_down_status, settings.app_version)
        if settings.health_path:
            self.site.route(settings.health_path, self.health.answer)
        handler = IHandler(root, None) or ResourceTree(root, self._hub)
        self.site.serve(handler)
        if isinstance(handler, WSGIResource):
            self._pool_for(handler.threadpool)  # a server that cannot have its threads does not accept
        self.site.on_room = self._resume_below_limit
        if self.access_log is not None:
            self.access_log.start()
        gc_tuning.freeze_startup_objects()

    def _answer_without_threads(self, reactor: Any) -> None:
        """Set up what the event loop answers without a thread of the application: downloads and parked requests."""
        settings, call, clock = self._settings, self._hub.call, self.clock

        def upstream() -> Any:
            from graceful.downloads.upstream import Upstream

            return Upstream(reactor, clock, settings.upstream_connect_timeout)

        self._disk = disk = DiskThreads(call)
        self._relays = relays = RelayPool(clock, upstream, settings.upstream_timeout)
        self.parking_lot = ParkingLot(clock, call, self.callbacks.call)
        internal = [parse_mapping(text) for text in settings.internal_download]
        self.site.hand_over = AnswerHandOver(call, disk, relays, self.parking_lot, internal)
        mappings = [parse_mapping(text) for text in settings.download]
        public = PublicPrefixes(call, disk, relays, mappings)
        for mapping in mappings:
            self.site.route(mapping.prefix, public.answer)

    # -- threads ------------------------------------------------------------------------------------------

    def _pool_for(self, threadpool: Any) -> Pool[Exchange]:
        """Returns the pool of all applications that share a `ThreadPool` of Twisted's, or have none.  Any thread.

        Its threads are woken once for each batch of the hub's.

        :raises NoThread: the system refuses a thread; it is tried again with the next request.
        """
        size = self._settings.threads if threadpool is None else threadpool.max
        known = self._pools.get(threadpool)
        if known is not None:
            return known
        made = Pool(size, self._settings.queue, Runner(self.reports))
        try:
            made.start()
        except NoThread as error:
            if not self._lacks_threads:
                log.error("requests for the application are answered with 503: {error}", error=error)
            self._lacks_threads = True
            raise
        self._lacks_threads = False
        pool = self._pools.setdefault(threadpool, made)
        if pool is not made:
            made.stop(0)
            return pool
        if len(self._pools) == 1:
            self._hub.before, self._hub.after = pool.hold, pool.kick
        else:
            self._hub.before, self._hub.after = self._hold_all, self._kick_all
        return pool

    def _hold_all(self) -> None:
        for pool in list(self._pools.values()):
            pool.hold()

    def _kick_all(self) -> None:
        for pool in list(self._pools.values()):
            pool.kick()

    def working(self) -> dict[Exchange, int]:
        """Returns the exchanges that a thread works for, each with its thread.  Any thread."""
        pools = list(self._pools.values())
        return {exchange: thread for pool in pools for thread, exchange in pool.working.copy().items()}

    def _queued(self) -> list[Exchange]:
        """Returns the exchanges that wait for a thread."""
        return [exchange for pool in list(self._pools.values()) for exchange in pool.backlog.copy()]

    def _native(self, thread: int) -> int:
        """Returns the kernel's number of a thread of a pool; 0 if there is none."""
        return max((pool.native(thread) for pool in list(self._pools.values())), default=0)

    def _replace(self, thread: int) -> bool:
        """Start another thread in place of one that does not return.  Returns whether it was started."""
        pool = next((pool for pool in list(self._pools.values()) if thread in pool.working), None)
        return pool is not None and pool.replace(thread)

    def _own_sockets(self) -> set[Inode]:
        """Returns the device and inode of each descriptor that is the server's own."""
        reactor = self._reactor
        own = {*self._listeners, *reactor.getReaders(), *reactor.getWriters()}
        own.update(getattr(reactor, "_internalReaders", ()))
        numbers = [*self._hub.descriptors(), *(one.fileno() for one in own if hasattr(one, "fileno"))]
        found = set()
        for number in numbers:
            try:
                about = os.fstat(number)
            except OSError:
                continue
            found.add((about.st_dev, about.st_ino))
        return found

    def thread_names(self) -> dict[int, str]:
        """Returns the names of the threads of all pools, by their numbers."""
        return {thread.ident or 0: thread.name for pool in list(self._pools.values()) for thread in pool.threads}

    def threads(self) -> tuple[int, int, int]:
        """Returns how many threads are busy, how many there are, and how many exchanges wait for one."""
        pools = list(self._pools.values())
        busy, size = sum(len(pool.working) for pool in pools), sum(pool.size for pool in pools)
        return busy, size or self._settings.threads, sum(pool.queued for pool in pools)

    # -- listeners ----------------------------------------------------------------------------------------

    def accept(
        self,
        bound: Sequence[BoundSocket],
        foreign: Sequence[EndpointListener],
        factory: EndpointFactory,
        silent: bool = False,
    ) -> None:
        """Begin to accept.

        :param bound: listening sockets, which the engine owns from now on.
        :param foreign: endpoints that a plugin listens on; the engine owns them, too.
        :param factory: makes the protocols of these endpoints.
        :param silent: another process logs which sockets are closed.
        """
        self._silent = silent
        self._hub.start()
        factory.serve(self.site, self._hub, self._pause_at_limit)
        self.accept_more(bound)
        self._listeners += foreign
        self._sweeping = self.clock.callLater(SWEEP, self._sweep)
        self.request_timeouts.start()

    def accept_more(self, bound: Sequence[BoundSocket]) -> None:
        """Accept from more sockets, which the engine owns from now on."""
        self._listeners = [listener for listener in self._listeners if not listener.closed]
        for one in bound:
            listener = Listener(self._reactor, self.clock, one, self._accepter(one), silent=self._silent)
            self._listeners.append(listener)
            listener.start()
        if bound:
            self._pause_at_limit()

    def sockets(self) -> list[tuple[str, str]]:
        """Returns the listening sockets by name, each `open`, `paused` or `closed`."""
        return [
            (listener.name, "closed" if listener.closed else "paused" if listener.paused else "open")
            for listener in self._listeners
        ]

    def open_sockets(self) -> list[BoundSocket]:
        """Returns the listening sockets that can be handed over, in their order."""
        return [one.bound for one in self._listeners if isinstance(one, Listener) and not one.closed]

    def rebind(self, known: Sequence[BoundSocket]) -> None:
        """Replace what is known about these sockets: whether other processes hold them, and who owns their paths."""
        for one in known:
            for listener in self._listeners:
                if isinstance(listener, Listener) and listener.bound.socket is one.socket:
                    listener.bound = one

    def hand_sockets(self, handed: Sequence[BoundSocket], pid: int) -> None:
        """Let go of sockets that process `pid` accepts from; the connections in their queues are left to it."""
        taken = [one.socket for one in handed]
        for listener in self._listeners:
            if isinstance(listener, Listener) and listener.bound.socket in taken:
                listener.hand_over(pid)

    def foreign(self) -> list[str]:
        """Returns the endpoints that plugins listen on; they cannot be handed over."""
        return [one.description for one in self._listeners if isinstance(one, EndpointListener) and not one.closed]

    def add(self, listener: EndpointListener) -> None:
        """Own one more endpoint, which listens already, and log that it is open."""
        self._listeners.append(listener)
        self._say_open(listener)

    def say_open(self) -> None:
        """Log each listener as open."""
        for listener in self._listeners:
            self._say_open(listener)

    def _say_open(self, listener: Listener | EndpointListener) -> None:
        log.info("socket {name} open (pid {pid})", name=listener.name, pid=os.getpid())

    def _accepter(self, bound: BoundSocket) -> Callable[[socket.socket, Any], None]:
        """Returns the function that takes in the connections of a listening socket."""
        name = bound.socket.getsockname()
        server = (str(name[0]), int(name[1])) if isinstance(name, tuple) else ("localhost", 80)
        site, hub = self.site, self._hub

        def accepted(sock: socket.socket, peer: Any) -> None:
            accept_connection(site, hub, sock, peer, server)
            self._pause_at_limit()

        return accepted

    def _pause_at_limit(self) -> None:
        """Leave further connections in the kernel's queues if the connection just accepted has reached the limit."""
        if len(self.site.register.connections) >= self._settings.max_connections and not self.site.draining:
            for listener in self._listeners:
                listener.pause("max-connections")

    def _resume_below_limit(self) -> None:
        """Accept again if a closed connection has brought their number below the limit."""
        if len(self.site.register.connections) < self._settings.max_connections:
            for listener in self._listeners:
                if listener.paused is not None:
                    listener.resume()

    def close_listeners(self) -> Deferred[None]:
        """Close all listening sockets without losing a connection; each is logged.  Fires when all are closed."""
        within = self._settings.deadline
        closing = [
            listener.close(within) if isinstance(listener, Listener) else listener.close()
            for listener in self._listeners
        ]
        closed: Deferred[None] = Deferred()
        DeferredList(closing).addCallback(lambda ignored: closed.callback(None))
        return closed

    # -- time ---------------------------------------------------------------------------------------------

    def sweep_in_drain(self) -> None:
        """Sweep at once, and from now on at the interval of a drain, which has begun."""
        if self._sweeping is not None:
            self._sweeping.reset(0)

    def _sweep(self) -> None:
        """End the connections, relays and parked requests whose time is over."""
        self._sweeping = self.clock.callLater(SWEEP_IN_DRAIN if self.site.draining else SWEEP, self._sweep)
        self.site.tick()
        now = self.clock.seconds()
        self._end_overdue(now)
        self._relays.tick(now)
        self.parking_lot.tick(now)
        self.callbacks.look()

    # -- for operators ------------------------------------------------------------------------------------

    def in_flight(self) -> str:
        """Returns every exchange in flight, with its thread's stack, as lines for an operator."""
        now, working = self.clock.seconds(), self.working()
        exchanges = self.site.register.in_flight()
        lines = [f"{len(exchanges)} in flight, {len(self.site.register.connections)} connections"]
        for exchange in exchanges:
            lines += [exchange.describe(now), stack_of(working.get(exchange, 0))]
        return "\n".join(line for line in lines if line)

    # -- the end ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Release all threads, descriptors and timers; every line of the access log is written."""
        for pool in list(self._pools.values()):
            pool.stop(0 if self.working() else IDLE_THREADS_END)
        self._relays.stop()
        self._disk.stop(0)
        self.callbacks.close()
        self.site.spooler.stop()
        if self.access_log is not None:
            self.access_log.close()
        self._hub.stop()
        self.clock.stop()
