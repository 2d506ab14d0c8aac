"""All of control, put together: who may ask, who may order, who is told, and in which order it comes and goes.

It is the first thing up: its sockets listen before the application is imported, so whoever connects while that takes
its time waits in the kernel's queue and is answered as soon as the reactor runs.  And it is the last thing down: it
has a hub and a clock of its own, which go on when the engine has given everything back, and its last word is how the
drain has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from socket import socket
from typing import Any, Final

from twisted.logger import Logger

from graceful.config.settings import Settings
from graceful.control.api import ControlApi, Orders
from graceful.control.client import ClientError, ControlClient
from graceful.control.control_site import FOR_EVER, STAY, ControlSite
from graceful.control.control_socket import ControlSocket
from graceful.control.discovery import beside
from graceful.control.events import Events
from graceful.control.metrics import Metrics
from graceful.control.read_api import ReadApi
from graceful.control.same_origin import SameOrigin
from graceful.control.status import StatusSource
from graceful.drain import DrainResult, State
from graceful.process.clock import on
from graceful.process.systemd import SystemdNotifier
from graceful.sockets.address import Address, parse
from graceful.sockets.binding import CONTROL, STATUS, BindError, BoundSocket, bind
from graceful.takeover.predecessor import Predecessor
from graceful.web.exchange import Exchange
from graceful.web.hub import Hub

log = Logger(namespace="graceful")


#: Seconds between two pictures for those who look.
TICK: Final = 1.0
TICK_IN_DRAIN: Final = 0.25

#: Seconds between two lines for the service manager.
STATUS_EVERY: Final = 1.0


class ControlServer:
    """Control of one instance.  Reactor thread.

    :param settings: of the instance.
    :param status: what it says of itself.
    :param control: the control socket, None for none.
    :param notify: word to the service manager.
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
        self._notify = notify
        self._orders: Orders | None = None
        self._events = Events(status)
        self._metrics = Metrics(status)
        self._for_control = ControlApi(status, self._events, self._metrics, self._yield)
        self._readers: list[ReadApi] = [self._for_control]
        self._control_sockets: list[BoundSocket] = []
        self._status_sockets: list[BoundSocket] = []
        self._connected: list[socket] = []  # to whoever has started us
        self._doors: list[ControlSite] = []
        self._hub: Hub | None = None
        self._clock: Any = None
        self._reactor: Any = None
        self._inherited: BoundSocket | None = None  # the control socket, while a predecessor still answers there
        self._control_door: ControlSite | None = None
        self._since_second = self._since_status = self._since_alive = 0.0
        self._said = ""

    # -- up -----------------------------------------------------------------------------------------------

    def bind(self, environ: Mapping[str, str], pid: int | None, predecessor: Predecessor | None = None) -> None:
        """Bind everything, while we may still be root.

        :param environ: what systemd has said of the sockets that it hands over.
        :param pid: the process it has said it to.
        :param predecessor: has handed its own sockets over, and goes on using them until we accept.
        :raises ControlError, BindError, TakeoverError: one line for the operator.
        """
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
            self._ask_for_places()
            return bind(address, environ, pid)  # also if nobody was there to be asked: he may just have left

    def _ask_for_places(self) -> None:
        """Ask instances that are leaving for their places; their sockets outlive those of the application."""
        for path in beside(self._control.path) if self._control is not None else []:
            with suppress(ClientError), ControlClient(path) as client:
                client.post("/yield")

    def _yield(self) -> None:
        """A successor wants our places: who looks at us already may go on."""
        for door in self._doors[1:]:
            door.close()

    def serve(self, sock: socket) -> None:
        """Answer on a connected socket as on those of the control socket; before `open`.

        :param sock: a Unix stream socket, at whose other end is the supervisor of this worker.
        """
        self._connected.append(sock)

    def open(self, reactor: Any, orders: Orders) -> None:
        """Begin to answer; as soon as the reactor runs, that is.

        :param orders: what the instance can be told.
        """
        self._reactor = reactor
        self._orders = self._for_control.orders = orders
        clock = self._clock = on(reactor)
        clock.start()
        hub = self._hub = Hub(reactor)
        hub.start()
        if self._control_sockets or self._connected or self._inherited is not None:
            limits = FOR_EVER if self._connected else STAY
            self._control_door = ControlSite(reactor, clock, hub, self._control_sockets, self._for_control, limits)
            self._doors.append(self._control_door)
        if self._status_sockets:
            names = [parse(text).interface for text in self._settings.status_listen]
            reading = ReadApi(self._status, self._events, self._metrics, SameOrigin(names))
            self._readers.append(reading)
            self._doors.append(ControlSite(reactor, clock, hub, self._status_sockets, reading))
        if self._status_sockets or self._connected:
            self._metrics.count()
        for door in self._doors:
            door.open()
        connected, self._connected = self._connected, []
        for sock in connected:
            assert self._control_door is not None
            self._control_door.serve(sock)
        clock.callLater(0, self._tick)

    def say_open(self, main: bool = True) -> None:
        """The server's sockets accept: tell whom it may concern.

        :param main: that this is the main process; a predecessor has said it, if there was one.
        """
        if self._control is not None and self._control.where is not None:
            log.info("control at {path}", path=self._control.where)
        for bound in self._status_sockets:
            log.info("status page at {where}", where=_url(bound))
        if not self._status.draining:
            self._notify.ready(main)

    # -- from one instance to the next ---------------------------------------------------------------------

    def answer_successors(self, answer: Callable[[Exchange, str, dict[str, Any]], Any]) -> None:
        """Have this answer the orders of a successor."""
        self._for_control.takeover = answer

    def path(self) -> str | None:
        """Where we can be given orders; None for nowhere."""
        return self._control.where if self._control is not None else None

    def asked_path(self) -> str:
        """Where the newest instance is given orders; empty for nowhere."""
        return self._control.path if self._control is not None else ""

    def sockets(self) -> list[tuple[str, BoundSocket]]:
        """What a successor gets beside the application's sockets: each with its role."""
        control, at = self._control, self._control_door
        found = [(STATUS, bound) for door in self._doors if door is not at for bound in door.sockets()]
        if at is not None and control is not None and control.where == control.path:
            found += [(CONTROL, bound) for bound in at.sockets()]
        return found

    def rebind(self, known: Sequence[BoundSocket]) -> None:
        """Take note of what has become known about sockets: who else holds them, and whose their paths are."""
        for door in self._doors:
            door.rebind(known)

    def hand_over(self, handed: Sequence[BoundSocket], pid: int) -> None:
        """Let go of sockets: another process accepts from them, has the control path, and is the main one."""
        control, door, sockets = self._control, self._control_door, [one.socket for one in handed]
        if control is not None and door is not None and any(one.socket in sockets for one in door.sockets()):
            listening = control.hand_over()
            if listening is not None:
                door.add(BoundSocket(f"unix:{control.where}", listening)).start()
        for one in self._doors:
            one.hand_over(handed, pid)
        self._notify.hand_over(pid)

    def succeed(self) -> None:
        """The predecessor has let go of the control path: it is ours."""
        inherited, self._inherited = self._inherited, None
        if inherited is None or self._control is None or self._control_door is None:
            return
        listening = self._control.succeed(inherited.socket)
        if listening is inherited.socket:
            self._control_door.add(inherited).start()
        elif listening is not None:
            self._control_door.add(BoundSocket(f"unix:{self._control.where}", listening)).start()

    # -- while it runs ------------------------------------------------------------------------------------

    def entered(self, state: State) -> None:
        """The instance has entered another state; in the middle of that."""
        if state == State.CLOSING and self._control is not None:
            self._control.release()  # before "closed" is said: a successor may start at that word
        if self._clock is not None:
            self._clock.callLater(0, self._tell)

    def going_down(self) -> None:
        """A drain begins."""
        self._notify.stopping(self._status.latest_exit)

    def _tell(self) -> None:
        """Tell those who wait for a state, and those who look."""
        if self._hub is not None:
            for reading in self._readers:
                reading.tell()
            self._events.tick()
            self._notify_status(True)

    def _tick(self) -> None:
        clock, now = self._clock, self._clock.seconds()
        alive = self._notify.watchdog
        clock.callLater(min(TICK_IN_DRAIN if self._status.draining else TICK, alive or TICK), self._tick)
        if now - self._since_second >= TICK * 0.9:
            self._since_second = now
            self._events.second()
            for door in self._doors:
                door.sweep(now)
        if self._orders is not None:
            self._orders.renew_limit()
        self._events.tick()
        self._notify_status(now - self._since_status >= STATUS_EVERY)
        if alive is not None and now - self._since_alive >= min(TICK, alive) * 0.9:
            self._since_alive = now
            self._notify.alive()

    def _notify_status(self, due: bool) -> None:
        """Tell the service manager how it is, if that has changed, or how long it may take, if it may run out."""
        if not self._notify or not due:
            return
        self._since_status = self._clock.seconds()
        line = self._line()
        draining = self._status.draining
        if line != self._said or draining:
            self._said = line
            self._notify.status(line, self._status.latest_exit if draining else None)

    def _line(self) -> str:
        """The status in a line."""
        status = self._status
        if not status.draining:
            return status.state
        deadline = status.deadline
        return f"{status.state}: {status.in_flight_count} in flight" + (
            f", deadline in {deadline:.0f} s" if deadline else ""
        )

    # -- down ---------------------------------------------------------------------------------------------

    def end(self, ending: DrainResult) -> None:
        """Say how it ended, and go; whoever gave the order that has ended it gets the answer before."""
        if self._for_control.obeying and self._reactor is not None:
            self._reactor.callFromThread(self._end, ending)
        else:
            self._end(ending)

    def _end(self, ending: DrainResult) -> None:
        self._status.ending = ending
        self._status.enter(State.GONE)
        self._leave_places()
        for reading in self._readers:
            reading.tell()
        self._events.end()
        self._notify.status(
            f"gone: {ending.finished} finished, {ending.taken_down} taken down, {ending.abandoned} abandoned",
            self._status.latest_exit,
        )
        self.close()

    def _leave_places(self) -> None:
        """Accept nobody any more; and only then let our path go, by which a successor would ask for them."""
        for door in self._doors:
            door.close()
        if self._control is not None:
            self._control.remove()

    def close(self) -> None:
        """Give everything back, at whatever point it is."""
        self._leave_places()
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
