"""A site for control, on sockets of its own, beside the application's.

The same web engine serves it, but it has its own register, so that no drain waits for it, and its own hub, so that it
stops last.  Everything is answered in the reactor thread, also when the process has no descriptors left.  It holds at
most :data:`MOST_CONNECTIONS`; further clients wait in the kernel's queue.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from graceful.config.settings import YEAR, Settings
from graceful.sockets.binding import BoundSocket
from graceful.sockets.listener import Listener
from graceful.sockets.reserve import Reserve
from graceful.web.connection import Connection, accept_connection, open_connections, server_of
from graceful.web.hub import Hub
from graceful.web.interfaces import IHandler
from graceful.web.site import Site
from graceful.web.timeouts import Sweep

#: How many connections control holds at once: room for :data:`graceful.control.events.MOST` readers and for orders.
MOST_CONNECTIONS: Final = 250

#: Seconds and bytes that a client of the status page has.
LIMITS: Final = Settings(keep_alive=60, header_timeout=10, send_timeout=10, max_body=4096)

#: On the control socket a client that has sent an order may stay: a successor's connection lasts as long as it does.
STAY: Final = Settings(keep_alive=YEAR, header_timeout=10, send_timeout=10, max_body=4096)

#: A supervisor that is stuck for a while must not lose its workers: only the end of either ends the connection.
FOR_EVER: Final = Settings(keep_alive=YEAR, header_timeout=YEAR, send_timeout=YEAR, max_body=4096)


class ControlSite:
    """Listening sockets, and the API that answers on them.  Reactor thread.

    :param reactor: watches the sockets.
    :param clock: times the pauses.
    :param hub: reads from the connections.
    :param bound: the sockets.
    :param handler: answers everything.
    :param limits: of its connections.
    :ivar site: what is served, with its own register.
    """

    def __init__(
        self,
        reactor: Any,
        clock: IReactorTime,
        hub: Hub,
        bound: Sequence[BoundSocket],
        handler: IHandler,
        limits: Settings = LIMITS,
    ) -> None:
        self.site = Site(handler, limits, on_room=self._room)
        self._sweep = Sweep(self.site, clock)
        self._reactor = reactor
        self._clock = clock
        self._hub = hub
        self._listeners: list[Listener] = []
        self._reserve = Reserve()
        self._is_open = False
        for one in bound:
            self.add(one)

    def open(self) -> None:
        """Begin to accept."""
        self._is_open = True
        self._reserve.refill()
        for listener in self._listeners:
            listener.start()

    def add(self, bound: BoundSocket) -> Listener:
        """Add a listening socket.  Returns its listener, which accepts when it is started."""
        listener = Listener(self._reactor, self._clock, bound, self._accepted, silent=True, reserve=self._reserve)
        self._listeners.append(listener)
        return listener

    def serve(self, sock: socket.socket) -> Connection:
        """Answer on a socket that is connected already.  Returns its connection."""
        sock.setblocking(False)
        return self._accepted(sock, None)

    def sockets(self) -> list[BoundSocket]:
        """Returns the listening sockets."""
        return [listener.bound for listener in self._listeners]

    def descriptors(self) -> list[int]:
        """Returns the descriptors of the listening sockets and of the connections."""
        connections: list[Any] = list(self.site.register.connections)
        return [
            *(listener.bound.socket.fileno() for listener in self._listeners),
            *(connection.sock.fileno() for connection in connections),
        ]

    def rebind(self, known: Sequence[BoundSocket]) -> None:
        """Take note of what has become known about sockets: who else holds them, and whose their paths are."""
        for listener in self._listeners:
            listener.rebind(known)

    def hand_over(self, handed: Sequence[BoundSocket], pid: int) -> None:
        """Let go of sockets that another process accepts from; connections go on."""
        sockets = [one.socket for one in handed]
        for listener in [one for one in self._listeners if one.bound.socket in sockets]:
            self._listeners.remove(listener)
            listener.hand_over(pid)

    def _accepted(self, sock: socket.socket, peer: Any) -> Connection:
        connection = accept_connection(self.site, self._hub, sock, peer, server_of(sock))
        if len(self.site.register.connections) >= MOST_CONNECTIONS:
            for listener in self._listeners:
                listener.pause("max-connections")
        return connection

    def _room(self) -> None:
        if len(self.site.register.connections) < MOST_CONNECTIONS:
            for listener in self._listeners:
                if listener.paused is not None:
                    listener.resume()

    def sweep(self, now: float) -> None:
        """End the connections whose time is over; called once a second."""
        self.site.tick()
        self._reserve.refill()
        self._sweep(now)

    def close_idle(self) -> None:
        """Make each answer the last one of its connection, and close those on which none is owed any more.

        A client that has just connected is about to ask: it has its time (see :mod:`graceful.web.timeouts`).
        """
        self.site.drain(self._clock.seconds(), quiet=True)
        for connection in list(open_connections(self.site)):
            if connection.answered and connection.idle():
                connection.half_close()

    def accept_waiting(self) -> None:
        """Accept the connections that the kernel has completed by now; none if we have not begun to."""
        for listener in self._listeners if self._is_open else ():
            listener.doRead()

    def close(self) -> None:
        """Stop accepting; open connections go on."""
        self._reserve.close()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.connectionLost(Failure(ConnectionDone()))
