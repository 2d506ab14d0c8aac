"""The source of a server's listening sockets: it binds or receives them, and decides when the server accepts.

A server that stands alone binds its sockets, or gets them from a predecessor; one that is a worker gets them from its
supervisor, which also says when to accept.  Everything else about the two is the same:
:class:`graceful.server.app_server.AppServer`, which is given one of these sources.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from graceful.drain.machine import Drain
from graceful.drain.result import DrainResult
from graceful.server.engine import Engine
from graceful.server.server_orders import ServerOrders
from graceful.takeover.arrival_links import ArrivalLinks
from graceful.takeover.connection_takers import ConnectionTakers
from graceful.takeover.predecessor import Predecessor
from graceful.web.site import Interceptor
from graceful.web.transport_connection import EndpointFactory


class Acceptor(Protocol):
    """The server, as its socket source sees it once the application is imported.  Reactor thread.

    :ivar engine: serves.
    :ivar drain: its drain, which may have begun before the server accepts.
    :ivar orders: what the server can be told.
    :ivar factory: makes the protocols of connections that an endpoint's plugin accepts.
    :ivar arrivals: takes in connections that other processes have accepted.
    :ivar takers: gives connections to other processes; there if orders can come on a socket.
    """

    engine: Engine
    drain: Drain
    orders: ServerOrders
    factory: EndpointFactory
    arrivals: ArrivalLinks
    takers: ConnectionTakers

    def accepting(self) -> None:
        """All sockets accept: enter the state `serving`, unless a drain has begun, and tell the predecessor."""

    def leave_after(self, error: BaseException) -> None:
        """Stop, with exit status 1, since something failed."""


class SocketSource(Protocol):
    """The sockets of one server, from start-up to the end of its drain.  Reactor thread.

    :ivar control: a connected socket on which orders come; None if the server has a control socket of its own.
    :ivar label: begins the lines that list what is in flight.
    :ivar words: the first words of two log lines: that the server stops, and how the drain has ended.
    :ivar interceptors: see each exchange before the application does.
    """

    control: socket.socket | None
    label: str
    words: tuple[str, str]
    interceptors: Sequence[Interceptor]

    def bind(self, reactor: Any, factory: EndpointFactory, predecessor: Predecessor | None) -> None:
        """Have every socket; nothing is accepted yet.

        :param factory: makes the protocols of connections that an endpoint's plugin accepts.
        :param predecessor: has handed its sockets over; None if there is none.
        :raises BindError: one line for the operator.
        """

    def names(self) -> list[str]:
        """Returns where the server will listen."""

    def accept(self, server: Acceptor, reactor: Any) -> None:
        """Accept as soon as the reactor runs and this source allows it."""

    def descriptors(self) -> list[int]:
        """Returns the descriptors that are this source's, which a child of the application's must not hold open."""

    def inherited(self) -> None:
        """The predecessor has let go of everything."""

    def close(self) -> Deferred[None]:
        """Close everything: the server stops before it was built."""

    # -- in a drain ---------------------------------------------------------------------------------------

    def before_closing(self) -> Deferred[None]:
        """The sockets are about to be closed, which waits until this fires."""

    def sockets_closed(self) -> None:
        """Every listening socket is closed."""

    def drained(self, result: DrainResult, snapshot: dict[str, Any]) -> None:
        """The drain is over; the process leaves after this call.

        :param snapshot: the last status, with its counters.
        """
