"""The part of a server that runs from the import of the application until its last connection is closed.

It is made in one step, after every fork and with the final privileges, because threads, epolls and timers that were
made earlier would survive neither.  Ownership is decided here: the hub owns its connections, the listeners own their
sockets, the pools own their threads, and the engine owns all of them until :meth:`Engine.close`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from graceful.asgi.asgi_host import AsgiHost
from graceful.asgi.asgi_resource import ASGIResource
from graceful.config.settings import HEALTH_PATH, Settings
from graceful.config.values import parse_mapping
from graceful.control.counters import Counters
from graceful.control.health import Health
from graceful.downloads import media_types
from graceful.downloads.handover import AnswerHandOver
from graceful.downloads.parking_lot import ParkingLot
from graceful.downloads.prefixes import PublicPrefixes
from graceful.downloads.relay_pool import RelayPool
from graceful.downloads.resuming import Resuming
from graceful.logs.access_forms import renderer
from graceful.logs.access_log import AccessLog
from graceful.process import gc_tuning, malloc_tuning
from graceful.process.clock import monotonic_clock
from graceful.reports.reporter import Reporter
from graceful.server.listening import ListeningSockets
from graceful.sockets.backlog import Queue
from graceful.sockets.binding import BoundSocket
from graceful.sockets.endpoint_listener import EndpointListener
from graceful.takedown.kernel_waits import Inode, KernelWaits
from graceful.takedown.lost_exchanges import LostExchanges
from graceful.takedown.request_timeout import RequestTimeouts
from graceful.takedown.thread_interrupt import InterruptScheduler
from graceful.threads.callbacks import CallbackThreads
from graceful.threads.disk import DiskThreads
from graceful.threads.pool import Pool
from graceful.threads.pool_set import PoolSet
from graceful.threads.stacks import native_id, stack_of
from graceful.tls.certificates import CertificateStore
from graceful.tls.watch import CertificateWatch
from graceful.web.acceptor import acceptor
from graceful.web.body_spool import Spooler
from graceful.web.carrying import Carried
from graceful.web.exchange import Exchange
from graceful.web.hub import Hub
from graceful.web.interfaces import IHandler
from graceful.web.moving import MovedConnection, take_in
from graceful.web.prefix_routes import PrefixRoutes
from graceful.web.proxies import TrustedProxies
from graceful.web.queue_times import QueueTimes
from graceful.web.register import Register
from graceful.web.site import Interceptor, Site
from graceful.web.timeouts import Sweep
from graceful.web.trace_context import TraceContext
from graceful.web.transport_connection import EndpointFactory
from graceful.websocket.keeper import Keeper
from graceful.wsgi.resource import WSGIResource
from graceful.wsgi.runner import Runner

log = Logger(namespace="graceful")


#: Seconds between two searches for connections and parked requests whose time is over; time-outs are that coarse.
SWEEP: Final = 1.0

#: The same in a drain, which ends at once when the last connection is closed.
SWEEP_IN_DRAIN: Final = 0.1

#: Seconds for which the end waits for threads of the pools that are idle: they exit as soon as they are woken.
IDLE_THREADS_END: Final = 1.0

#: Seconds for which the end waits for the asyncio loop, which has nothing to do any more.
LOOP_ENDS: Final = 1.0

Root = Any  # an IResource, or something that IHandler can be made of


class Engine:
    """Serves a root on listeners.  Reactor thread, except where something else is said.

    :param reactor: Twisted's.
    :param settings: limits and time-outs.
    :param root: an `IResource`, or something that :class:`~graceful.web.interfaces.IHandler` can be made of.
    :param takedown_at: returns when a drain takes down what is left, monotonic seconds; None before a drain.
    :param certificates: those of the listening sockets, which were loaded as the user that could read their keys.
    :param interceptors: see each exchange before everything else does, in their order.
    :param counters: count exchanges that are over; None if they are not counted.
    :ivar site: what is served, with the register of all that is in flight.
    :ivar listening: where connections come from.
    :ivar clock: monotonic time, for every deadline.
    :ivar access_log: None if there is none.
    :ivar reports: writes reports of requests that were taken down, have failed or were slow.
    :ivar interrupt_scheduler: brings threads down.
    :ivar request_timeouts: takes down single exchanges while the server runs normally.
    :ivar callbacks: runs the application's callables that have no thread of an exchange.
    :ivar certificate_watch: replaces certificates that were renewed.
    :ivar health: what a balancer is told.
    :ivar parking_lot: where parked requests wait.
    :ivar asgi: runs the ASGI applications.
    :ivar websockets: looks after what has become a WebSocket.
    :ivar threads: returns how many are busy, how many there are, and how many exchanges wait for one.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        root: Root,
        takedown_at: Callable[[], float | None] = lambda: None,
        certificates: CertificateStore | None = None,
        interceptors: Sequence[Interceptor] = (),
        counters: Counters | None = None,
    ) -> None:
        malloc_tuning.keep_freed_memory()
        self._reactor = reactor
        self.certificates = certificates if certificates is not None else CertificateStore()
        self._settings = settings
        self.clock = clock = monotonic_clock(reactor)
        self.clock.start()
        self._sweeping: IDelayedCall | None = None
        self.access_log: AccessLog | None = None
        if settings.access_log is not None:
            self.access_log = AccessLog(settings.access_log, render=renderer(settings.access_log_format))
        self.callbacks = CallbackThreads()
        self.reports = Reporter(settings.reports, settings.report_hide)
        times = QueueTimes.needed(settings, counters.waits.count if counters is not None else None)
        runner: Callable[[Exchange], None] = Runner(self.reports, settings.workers > 1)
        run = runner if times is None else times.runs(runner)
        make_lines = self.access_log.make_lines if self.access_log is not None else None
        self._pools = pools = PoolSet(
            settings.threads, lambda size: Pool(size, settings.queue, run, Runner.give_up, make_lines)
        )
        self.threads = pools.counts
        self._hub = hub = Hub(reactor, pools)
        self._disk = disk = DiskThreads(hub.call)
        self.asgi = asgi = AsgiHost(hub, disk, self.reports, times=times)
        self.interrupt_scheduler = InterruptScheduler(
            clock, self.working, native_id, KernelWaits(self._own_sockets), self.callbacks.call
        )

        def upstream() -> Any:
            from graceful.downloads.upstream import Upstream

            return Upstream(reactor, clock, settings.upstream_connect_timeout)

        self.certificate_watch = CertificateWatch(clock, self.certificates, disk.do)
        self._relays = relays = RelayPool(clock, upstream, settings.upstream_timeout)
        self.parking_lot = ParkingLot(clock, hub.call, self.callbacks.call)
        self.health = Health(settings.health_path or HEALTH_PATH, settings.going_down_status, settings.app_version)
        routes = PrefixRoutes()
        if settings.health_path:
            routes.add(settings.health_path, self.health.answer)
        mappings = [parse_mapping(text) for text in settings.download]
        immutable = re.compile(settings.download_immutable) if settings.download_immutable else None
        public = PublicPrefixes(hub.call, disk, relays, mappings, immutable)
        for mapping in mappings:
            routes.add(mapping.prefix, public.answer)
        media_types.load()
        internal = [parse_mapping(text) for text in settings.internal_download]
        handler = root if IHandler.providedBy(root) else _serve_resource(root, hub)
        traces = TraceContext.needed(settings)
        record = self.access_log.record if self.access_log is not None else None
        register = Register()
        self.websockets = Keeper(register, settings, clock, hub.call)
        self.listening = ListeningSockets(
            hub,
            clock,
            register.connections,
            settings.max_connections,
            settings.deadline,
            lambda bound: acceptor(self.site, hub, bound, self.certificates),
            lambda: self.site.draining,
        )
        self.site = Site(
            handler,
            settings,
            register,
            routes=routes,
            hand_over=AnswerHandOver(hub.call, disk, relays, self.parking_lot, internal),
            record=record if counters is None else counters.before(record),
            proxies=TrustedProxies(settings.trusted_proxy) if settings.trusted_proxy else None,
            spooler=Spooler(settings.spool, hub.call),
            pool_for=pools.find,
            on_room=self.listening.resume_below_limit,
            withdraw=pools.withdraw,
            takedown_at=takedown_at,
            coroutines=asgi,
            streams=isinstance(handler, ASGIResource),
            queue_times=times,
            websockets=self.websockets,
            interceptors=interceptors if traces is None else [*interceptors, traces],
        )
        self._resume = Resuming(disk, relays).kinds
        self._end_overdue = Sweep(self.site, clock)
        self._end_lost = LostExchanges(self.site, self.working, pools.queued)
        self.request_timeouts = RequestTimeouts(
            self.site, clock, self.working, pools.queued, self.interrupt_scheduler, self.reports, pools.replace
        )
        if isinstance(handler, WSGIResource):
            pools.find(handler.threadpool)  # a server that cannot have its threads does not accept
        elif isinstance(handler, ASGIResource):
            asgi.start(handler.application)  # nor does one whose application is not ready
        if self.access_log is not None:
            self.access_log.start()
        gc_tuning.freeze_startup_objects()

    def working(self) -> dict[Exchange, Any]:
        """Returns the exchanges that a thread or a task works for, each with that.  Any thread."""
        return {**self._pools.working(), **self.asgi.working()}

    def thread_names(self) -> dict[Any, str]:
        """Returns the names of what :meth:`working` returns."""
        return {**self._pools.thread_names(), **dict.fromkeys(self.asgi.working().values(), "asyncio")}

    def _own_sockets(self) -> set[Inode]:
        """Returns the device and inode of each descriptor that is the server's own."""
        reactor = self._reactor
        own = {*self.listening.all(), *reactor.getReaders(), *reactor.getWriters()}
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

    # -- connections --------------------------------------------------------------------------------------

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
        self._hub.start(outer=True)
        factory.serve(self.site, self._hub, self.listening.pause_at_limit)
        self.listening.accept(bound, foreign, silent)
        self._sweeping = self.clock.callLater(SWEEP, self._sweep)
        self.request_timeouts.start()
        self.certificate_watch.start()

    def room(self) -> int:
        """Returns how many further connections there may be.  Any thread."""
        return self._settings.max_connections - len(self.site.register.connections)

    def take_in(self, sock: socket.socket, moved: MovedConnection, carried: Carried | None = None) -> None:
        """Serve on a connection that a predecessor has accepted.

        :param carried: what of it is not in the kernel.
        """
        take_in(self.site, self._hub, sock, moved, carried, self._resume)
        self.listening.pause_at_limit()

    def sockets(self) -> list[tuple[str, str]]:
        """Returns the listening sockets by name, each `open`, `paused` or `closed`."""
        return self.listening.sockets()

    def queues(self) -> list[Queue]:
        """Returns how many clients wait in the queue of each listening socket, where the kernel tells it."""
        return self.listening.queues()

    def descriptors(self) -> list[int]:
        """Returns the descriptors of the listening sockets and of the connections, those of plugins excepted."""
        connections: list[Any] = list(self.site.register.connections)
        return [
            *self.listening.descriptors(),
            *(one.sock.fileno() for one in connections if getattr(one, "fd", -1) >= 0),
        ]

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
        mover = self.site.mover
        moves = (mover.tick,) if mover is not None else ()
        ticks = (self._relays.tick, self.parking_lot.tick, self.websockets.tick, self._end_lost, self.asgi.look)
        for look in (*moves, self._refuse_late, self._end_overdue, *ticks):
            try:
                look(now)
            except Exception:
                log.failure("a look at what is in flight failed, and is repeated")
        self.callbacks.look()

    def _refuse_late(self, now: float) -> None:
        if self._settings.max_wait is not None:
            self.site.refuse_late(self._pools.queued(), now)

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
        self.certificate_watch.stop()
        self._pools.stop(IDLE_THREADS_END)
        self.asgi.close(0 if self.asgi.tasks else LOOP_ENDS)
        self._relays.stop()
        self._disk.stop(0)
        self.callbacks.close()
        self.site.spooler.stop()
        if self.access_log is not None:
            self.access_log.close()
        self._hub.stop()
        self.clock.stop()


def _serve_resource(root: Root, hub: Hub) -> IHandler:
    """Returns what answers from a root that does not answer by itself."""
    # Most of twisted.web, a good part of a start, which a server of an application alone does not need.
    from graceful.web.resource_tree import ResourceTree
    from graceful.wsgi.twisted_resource import handler_of

    return handler_of(root) or ResourceTree(root, hub)
