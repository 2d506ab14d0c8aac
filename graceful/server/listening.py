"""An engine's listening sockets: they accept up to a limit, can be given away, and close without losing a client.

They are our own listeners, and endpoints that a plugin listens on, which cannot be given away.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence, Sized
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from graceful.process.clock import MonotonicClock
from graceful.sockets.backlog import Queue, backlog
from graceful.sockets.binding import BoundSocket
from graceful.sockets.endpoint_listener import EndpointListener
from graceful.sockets.listener import Listener, Readers

log = Logger(namespace="graceful")


class ListeningSockets:
    """Owns the sockets that an engine accepts from.  Reactor thread.

    :param readers: watches the sockets.
    :param clock: monotonic.
    :param connections: all that are open.
    :param limit: how many there may be.
    :param close_within: seconds that a socket has to be closed.
    :param accepter: returns the function that takes in the connections of a socket.
    :param is_draining: whether the server stops: then nothing is left in the kernel's queues because of the limit.
    """

    def __init__(
        self,
        readers: Readers,
        clock: MonotonicClock,
        connections: Sized,
        limit: int,
        close_within: float,
        accepter: Callable[[BoundSocket], Callable[[socket.socket, Any], object]],
        is_draining: Callable[[], bool],
    ) -> None:
        self.clock = clock
        self._readers = readers
        self._connections = connections
        self._limit = limit
        self._close_within = close_within
        self._accepter = accepter
        self._is_draining = is_draining
        self._listeners: list[Listener | EndpointListener] = []
        self._silent = False

    # -- accepting ----------------------------------------------------------------------------------------

    def accept(self, bound: Sequence[BoundSocket], foreign: Sequence[EndpointListener], silent: bool) -> None:
        """Begin to accept.

        :param bound: listening sockets, which are ours from now on.
        :param foreign: endpoints that a plugin listens on, which are ours, too.
        :param silent: another process logs which sockets are closed.
        """
        self._silent = silent
        self.accept_more(bound)
        self._listeners += foreign

    def accept_more(self, bound: Sequence[BoundSocket]) -> None:
        """Accept from more sockets, which are ours from now on."""
        self._listeners = [listener for listener in self._listeners if not listener.closed]
        for one in bound:
            listener = Listener(self._readers, self.clock, one, self._accepts(one), silent=self._silent)
            self._listeners.append(listener)
            listener.start()
        if bound:
            self.pause_at_limit()

    def _accepts(self, bound: BoundSocket) -> Callable[[socket.socket, Any], None]:
        accept = self._accepter(bound)

        def accepted(sock: socket.socket, peer: Any) -> None:
            accept(sock, peer)
            self.pause_at_limit()

        return accepted

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

    def pause_at_limit(self) -> None:
        """Leave further connections in the kernel's queues if the connection just accepted has reached the limit."""
        if len(self._connections) >= self._limit and not self._is_draining():
            for listener in self._listeners:
                listener.pause("max-connections")

    def resume_below_limit(self) -> None:
        """Accept again if a closed connection has brought their number below the limit."""
        if len(self._connections) < self._limit:
            for listener in self._listeners:
                if listener.paused is not None:
                    listener.resume()

    # -- what there is ------------------------------------------------------------------------------------

    def all(self) -> list[Listener | EndpointListener]:
        """Returns all listeners, those of plugins as well."""
        return self._listeners

    def sockets(self) -> list[tuple[str, str]]:
        """Returns the listening sockets by name, each `open`, `paused` or `closed`."""
        return [
            (listener.name, "closed" if listener.closed else "paused" if listener.paused else "open")
            for listener in self._listeners
        ]

    def queues(self) -> list[Queue]:
        """Returns how many clients wait in the queue of each listening socket, where the kernel tells it."""
        own = [one for one in self._listeners if isinstance(one, Listener)]
        return [queue for one in own if (queue := backlog(one.name, one.bound.socket)) is not None]

    def descriptors(self) -> list[int]:
        """Returns the descriptors of the sockets, those of plugins excepted."""
        return [one.bound.socket.fileno() for one in self._listeners if isinstance(one, Listener)]

    # -- to another process -------------------------------------------------------------------------------

    def open_sockets(self) -> list[BoundSocket]:
        """Returns the listening sockets that can be handed over, in their order."""
        return [one.bound for one in self._listeners if isinstance(one, Listener) and not one.closed]

    def rebind(self, known: Sequence[BoundSocket]) -> None:
        """Replace what is known about these sockets: whether other processes hold them, and who owns their paths."""
        for listener in self._listeners:
            if isinstance(listener, Listener):
                listener.rebind(known)

    def hand_sockets(self, handed: Sequence[BoundSocket], pid: int) -> None:
        """Let go of sockets that process `pid` accepts from; the connections in their queues are left to it."""
        taken = [one.socket for one in handed]
        for listener in self._listeners:
            if isinstance(listener, Listener) and listener.bound.socket in taken:
                listener.hand_over(pid)

    def foreign(self) -> list[str]:
        """Returns the endpoints that plugins listen on; they cannot be handed over."""
        return [one.description for one in self._listeners if isinstance(one, EndpointListener) and not one.closed]

    # -- the end ------------------------------------------------------------------------------------------

    def close(self) -> Deferred[None]:
        """Close all listening sockets without losing a connection; each is logged.  Fires when all are closed."""
        closing = [
            listener.close(self._close_within) if isinstance(listener, Listener) else listener.close()
            for listener in self._listeners
        ]
        closed: Deferred[None] = Deferred()
        DeferredList(closing).addCallback(lambda ignored: closed.callback(None))
        return closed
