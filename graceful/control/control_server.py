"""All of control, put together: the sockets, the APIs that answer on them, and the messages to the service manager.

Control starts before everything else: its sockets listen before the application is imported, so a client that
connects meanwhile waits in the kernel's queue and is answered as soon as the reactor runs.  And it stops last, so it
can report how the drain ended: it has a hub and a clock of its own, which run on when the engine has given everything
back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from socket import socket
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from graceful.config.settings import Settings
from graceful.control.api import AnswerSuccessor, ControlApi
from graceful.control.client import ClientError, ControlClient
from graceful.control.control_site import FOR_EVER, STAY, ControlSite
from graceful.control.control_socket import ControlSocket
from graceful.control.count_handover import CountHandover
from graceful.control.discovery import beside
from graceful.control.events import Events
from graceful.control.metrics import Metrics
from graceful.control.read_api import ReadApi
from graceful.control.same_origin import SameOrigin
from graceful.control.scrapes import Scrapes
from graceful.control.service_news import ServiceNews
from graceful.control.status import StatusSource
from graceful.drain.result import DrainResult
from graceful.drain.state import State
from graceful.logs.attempt import attempt
from graceful.process.clock import monotonic_clock
from graceful.process.orders import ControlOrders
from graceful.process.systemd import SystemdNotifier
from graceful.sockets.address import Address, parse
from graceful.sockets.binding import CONTROL, STATUS, BindError, BoundSocket, bind
from graceful.web.connection import Connection
from graceful.web.hub import Hub

log = Logger(namespace="graceful")


#: Seconds between two statuses for readers of the events: as often as a person can follow; in a drain more often,
#: since it may last only seconds.
TICK: Final = 1.0
TICK_IN_DRAIN: Final = 0.25


class SocketClaims(Protocol):
    """Sockets that a predecessor hands over (:class:`graceful.takeover.predecessor.Predecessor`)."""

    def claim(self, role: str, wanted: Sequence[Address]) -> Sequence[BoundSocket | None]:
        """Returns a socket for each wanted address, or None: it has to be bound."""

    def claim_path(self, role: str, path: str) -> BoundSocket | None:
        """Returns the Unix socket of a role that is at this path."""


class ControlServer:
    """The control of one instance.  Reactor thread.

    :param settings: of the instance.
    :param status: of the instance.
    :param control: the control socket, None for none.
    :param notify: sends messages to the service manager.
    """

    def __init__(
        self,
        settings: Settings,
        status: StatusSource,
        control: ControlSocket | None,
        notify: SystemdNotifier,
    ) -> None:
        self._settings = settings
        self._status = status
        self._control = control
        self._news = ServiceNews(notify, status)
        self._orders: ControlOrders | None = None
        self._events = Events(status)
        self._metrics = Metrics(status)
        self._count_handover = CountHandover(self._metrics, self.asked_path)
        self._control_api = ControlApi(
            status, self._events, self._metrics, self._yield_addresses, self._count_handover.inherit
        )
        self._scrapes: Scrapes | None = None
        self._apis: list[ReadApi] = [self._control_api]
        self._control_sockets: list[BoundSocket] = []
        self._status_sockets: list[BoundSocket] = []
        self._connected: list[socket] = []  # to the supervisor that has started us
        self._sites: list[ControlSite] = []
        self._hub: Hub | None = None
        self._clock: Any = None
        self._reactor: Any = None
        self._inherited: BoundSocket | None = None  # the control socket, while a predecessor still answers there
        self._control_site: ControlSite | None = None
        self._status_site: ControlSite | None = None
        self._awaits_counts = False  # a predecessor counts on, and answers on the status page's sockets
        self._since_second = 0.0

    # -- up -----------------------------------------------------------------------------------------------

    def bind(self, environ: Mapping[str, str], pid: int | None, predecessor: SocketClaims | None = None) -> None:
        """Bind everything, while the process may still be root.

        :param environ: has what systemd says of the sockets that it hands over.
        :param pid: the process that systemd says it to.
        :param predecessor: has handed its own sockets over, and uses them until this process accepts.
        :raises ControlError, BindError, TakeoverError: one line for the operator.
        """
        self._awaits_counts = predecessor is not None
        if predecessor is not None and self._control is not None:
            self._control.expect()
            self._inherited = predecessor.claim_path(CONTROL, self._control.path)
        if self._control is not None and self._inherited is None:
            listening = self._control.bind()
            if listening is not None:
                self._control_sockets.append(BoundSocket(f"unix:{self._control.where}", listening))
        wanted = [parse(text) for text in self._settings.status_listen]
        adopted = predecessor.claim(STATUS, wanted) if predecessor is not None else [None] * len(wanted)
        for address, bound in zip(wanted, adopted, strict=True):
            self._status_sockets.append(bound or self._bind_status(address, environ, pid))

    def _bind_status(self, address: Address, environ: Mapping[str, str], pid: int | None) -> BoundSocket:
        try:
            return bind(address, environ, pid)
        except BindError:
            self._ask_for_addresses()
            return bind(address, environ, pid)  # also if no instance was asked: it may just have ended

    def _ask_for_addresses(self) -> None:
        """Ask instances that are leaving to free their addresses: control outlives the application's sockets."""
        for path in beside(self._control.path) if self._control is not None else []:
            with suppress(ClientError), ControlClient(path) as client:
                client.post("/yield")

    def _yield_addresses(self) -> None:
        """Free the addresses of the status page for a successor; open connections go on."""
        if self._status_site is not None:
            self._status_site.close()

    def serve(self, sock: socket) -> None:
        """Answer on a connected socket as on the control socket's connections; called before `open`.

        :param sock: a Unix stream socket, at whose other end is the supervisor of this worker.
        """
        self._connected.append(sock)

    def serve_also(self, sock: socket) -> Connection:
        """Answer on one more connected socket, ours from now on; called after `open`.  Returns its connection."""
        assert self._control_site is not None
        return self._control_site.serve(sock)

    @property
    def serves_metrics(self) -> bool:
        """Whether metrics are served here, or by the supervisor, so that what ends is to be counted.

        Asked before `open`.
        """
        return bool(self._status_sockets or self._connected) and self._metrics.available

    def open(self, reactor: Any, orders: ControlOrders) -> None:
        """Begin to answer as soon as the reactor runs.

        :param orders: what the instance can be told.
        """
        self._reactor = reactor
        self._orders = orders
        self._control_api.obey(orders)
        clock = self._clock = monotonic_clock(reactor)
        clock.start()
        hub = self._hub = Hub(reactor)
        hub.start()
        if self._control_sockets or self._connected or self._inherited is not None:
            limits = FOR_EVER if self._connected else STAY
            self._control_site = ControlSite(reactor, clock, hub, self._control_sockets, self._control_api, limits)
            self._sites.append(self._control_site)
        if self._status_sockets:
            names = [parse(text).interface for text in self._settings.status_listen]
            self._scrapes = Scrapes(clock)
            read_api = ReadApi(self._status, self._events, self._metrics, SameOrigin(names), self._scrapes.seen)
            self._apis.append(read_api)
            self._status_site = ControlSite(reactor, clock, hub, self._status_sockets, read_api)
            self._sites.append(self._status_site)
        if self._status_sockets or self._connected:
            self._metrics.load()
        for site in self._sites:
            if site is self._control_site or not self._awaits_counts:
                site.open()
        connected, self._connected = self._connected, []
        for sock in connected:
            assert self._control_site is not None
            self._control_site.serve(sock)
        clock.callLater(0, self._tick)

    def say_open(self, main: bool = True) -> None:
        """Tell the log and the service manager that the server's sockets accept.

        :param main: also tell that this is the main process; a predecessor has told that, if there was one.
        """
        if self._control is not None and self._control.where is not None:
            log.info("control at {path}", path=self._control.where)
        for bound in self._status_sockets:
            log.info("status page at {where}", where=_url(bound))
        self._news.ready(main)

    # -- from one instance to the next ---------------------------------------------------------------------

    def answer_successors(self, answer: AnswerSuccessor) -> None:
        """Have `answer` handle the orders of a successor."""
        self._control_api.answer_successors(answer)

    def path(self) -> str | None:
        """Returns the path at which this instance takes orders; None if there is none."""
        return self._control.where if self._control is not None else None

    def awaits_predecessor(self) -> bool:
        """Whether a predecessor still answers at the control socket."""
        return self._inherited is not None

    def asked_path(self) -> str:
        """Returns the path at which the newest instance takes orders; empty if there is none."""
        return self._control.path if self._control is not None else ""

    def sockets(self) -> list[tuple[str, BoundSocket]]:
        """Returns what a successor gets beside the application's sockets, each with its role."""
        control, at = self._control, self._control_site
        found = [(STATUS, bound) for bound in self._status_site.sockets()] if self._status_site is not None else []
        if at is not None and control is not None and control.where == control.path:
            found += [(CONTROL, bound) for bound in at.sockets()]
        return found

    def rebind(self, known: Sequence[BoundSocket]) -> None:
        """Take note of what has become known about sockets: who else holds them, and whose their paths are."""
        for site in self._sites:
            site.rebind(known)

    def hand_over(self, handed: Sequence[BoundSocket], pid: int) -> None:
        """Let go of sockets: another process accepts from them, has the control path, and is the main process."""
        control, site, sockets = self._control, self._control_site, [one.socket for one in handed]
        if control is not None and site is not None and any(one.socket in sockets for one in site.sockets()):
            listening = control.hand_over()
            if listening is not None:
                site.add(BoundSocket(f"unix:{control.where}", listening)).start()
        for one in self._sites:
            one.hand_over(handed, pid)
        self._news.hand_over(pid)

    def succeed(self) -> None:
        """Take the control path, which the predecessor has let go of, and answer on the status page.

        Not before: metrics without what the predecessor has counted would look like a restart.
        """
        if self._status_site is not None:
            self._status_site.open()
        inherited, self._inherited = self._inherited, None
        if inherited is None or self._control is None or self._control_site is None:
            return
        listening = self._control.succeed(inherited.socket)
        if listening is inherited.socket:
            self._control_site.add(inherited).start()
        elif listening is not None:
            self._control_site.add(BoundSocket(f"unix:{self._control.where}", listening)).start()

    def counted(self) -> dict[str, Any]:
        """Returns what was counted so far, here and by predecessors, for the successor that goes on counting.

        From now on Prometheus reads only the successor: connections on which it would ask this process are closed.
        """
        if self._status_site is not None:
            self._status_site.close_idle()
        return self._count_handover.hand_over()

    def inherit_counted(self, told: object) -> None:
        """Go on counting from what a predecessor has counted."""
        self._count_handover.inherit(told)

    # -- while it runs ------------------------------------------------------------------------------------

    def entered(self, state: State) -> None:
        """The instance has entered a state.  Called in the middle of a transition, so clients are told later."""
        if state == State.CLOSING and self._control is not None:
            self._control.release()  # before "closed" is said: a successor may start at that word
        if self._clock is not None:
            self._clock.callLater(0, self._tell)

    def going_down(self) -> None:
        """Tell the service manager that a drain begins."""
        self._news.going_down()

    def stop_ordered(self) -> None:
        """The instance is told to stop: if it has a successor already, its unit stops."""
        self._news.stop_ordered()

    def _tell(self) -> None:
        """Tell the clients that wait for a state, and the readers of the events."""
        if self._hub is not None:
            for api in self._apis:
                api.answer_waiting()
            self._events.tick()
            self._news.tell(self._clock.seconds())

    def _tick(self) -> None:
        clock, now = self._clock, self._clock.seconds()
        clock.callLater(min(TICK_IN_DRAIN if self._status.draining else TICK, self._news.within or TICK), self._tick)
        if now - self._since_second >= TICK * 0.9:
            self._since_second = now
            self._events.remember_load()
            for site in self._sites:
                site.sweep(now)
        if self._orders is not None:
            self._orders.renew_limit()
        self._events.tick()
        self._news.look(now)

    # -- down ---------------------------------------------------------------------------------------------

    def until_scraped(self, within: float) -> Deferred[None]:
        """Wait until Prometheus has read the metrics once more, if it reads them here.

        :param within: seconds.
        """
        listens = self._status_site is not None and bool(self._status_site.sockets())
        return self._scrapes.next(within) if self._scrapes is not None and listens else succeed(None)

    def end(self, ending: DrainResult) -> None:
        """Tell clients how the drain ended, and close; an order that has ended it is answered first."""
        if self._control_api.obeying and self._reactor is not None:
            self._reactor.callFromThread(self._end, ending)
        else:
            self._end(ending)

    def _end(self, ending: DrainResult) -> None:
        self._status.end(ending)
        attempt(self._count_handover.leave)
        if self._hub is not None:
            for site in self._sites:
                site.accept_waiting()
            self._hub.catch_up()  # a client that asks just now is told, too
        self._stop_accepting()
        for api in self._apis:
            api.answer_waiting()
        self._events.end()
        self._news.end(ending)
        self.close()

    def _stop_accepting(self) -> None:
        """Stop accepting, and only then remove the path, at which a successor would ask for the addresses."""
        for site in self._sites:
            site.close()
        if self._control is not None:
            self._control.remove()

    def descriptors(self) -> list[int]:
        """Returns the descriptors of the listening sockets and of the connections."""
        bound = [*self._control_sockets, *self._status_sockets]
        return [
            *(one.socket.fileno() for one in bound),
            *(sock.fileno() for sock in self._connected),
            *(descriptor for site in self._sites for descriptor in site.descriptors()),
        ]

    def close(self) -> None:
        """Give everything back, whether it is open, bound or not even that."""
        self._stop_accepting()
        if self._hub is not None:
            self._hub.stop()
            self._clock.stop()
            self._hub = None
        else:
            for bound in (*self._control_sockets, *self._status_sockets):
                bound.close()
            for sock in self._connected:
                sock.close()
        if self._inherited is not None:
            self._inherited.close()
            self._inherited = None


def _url(bound: BoundSocket) -> str:
    kind, _, where = bound.name.partition(":")
    return f"http://{where}/" if kind.startswith("tcp") else bound.name
