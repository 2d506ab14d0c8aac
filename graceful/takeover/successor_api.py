"""The control API's two orders for a successor: it asks for the listening sockets, then says that it accepts.

    POST /takeover          {"protocol": 1}: the sockets; their descriptors ride on interim answers before this one
    POST /takeover/accepts  {"kept": [0, 2]}: the successor accepts from these; this process lets go, and drains.
                            With "links": N the successor also wants the connections that are open, for N
                            processes: it gets links to the processes that have them
                            (:mod:`graceful.takeover.connection_links`).  With "moves": true a single process that
                            serves gives them on this connection instead.  With "carries": 1 it also wants what has
                            been read on them (:mod:`graceful.takeover.parcels`)
    POST /takeover/connections   some of them (see :mod:`graceful.takeover.connection_moves`)

Descriptors pass over a Unix socket beside bytes (SCM_RIGHTS, unix(7)), and the kernel allows some 250 with one
message.  So they are sent with as many interim answers (`100 Continue`, RFC 9110 §15.2) as needed, each in one
piece, which every HTTP client skips; the JSON of the final answer describes them.

The successor keeps its connection open.  If it ends before the successor has said that it accepts, the successor is
gone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.logger import Logger

from graceful.control.api import credentials
from graceful.control.read_api import Problem
from graceful.sockets.binding import BoundSocket
from graceful.takeover.connection_links import Link, describe
from graceful.takeover.connection_takers import ConnectionTakers
from graceful.takeover.offers import offers
from graceful.takeover.socket_handover import PROTOCOL, SocketHandover, TakeoverRefused
from graceful.web.exchange import Exchange

log = Logger(namespace="graceful")


#: The most descriptors that go with one message (SCM_MAX_FD is 253).
AT_ONCE: Final = 250

#: The most links that one successor gets.
MOST_LINKS: Final = 1000

INTERIM: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

Sockets = Sequence[tuple[str, BoundSocket]]


class SuccessorApi:
    """Answers successors.  Reactor thread.

    :param handover: decides which successor gets the sockets; None if another process hands them over.
    :param sockets: returns the sockets, each with its role.
    :param foreign: returns the endpoints that cannot be handed over, and are closed.
    :param moves: gives this process's connections to those that ask; None if it has none that can move.
    :param links: makes links for that many processes, on which connections move to them.
    :param counted: returns what was counted, on which the successor goes on.
    """

    def __init__(
        self,
        handover: SocketHandover | None,
        sockets: Callable[[], Sockets] = tuple,
        foreign: Callable[[], Sequence[str]] = tuple,
        moves: ConnectionTakers | None = None,
        links: Callable[[int], Sequence[Link]] = lambda count: (),
        counted: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._counted = counted
        self._moves = moves
        self._links = links
        self._handover = handover
        self._sockets = sockets
        self._foreign = foreign

    def answer(self, exchange: Exchange, path: str, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the answer to an order.

        :raises Problem: the sender may not give this order, or it cannot be obeyed.
        """
        connection = exchange.connection
        pid, uid, _ = credentials(connection.sock)
        if uid not in (0, os.geteuid()):
            raise Problem(403, "only root and the server's own user may take its sockets over")
        try:
            if path == "/takeover" and self._handover is not None:
                return self._offer(exchange, self._handover, pid, values)
            if path == "/takeover/accepts" and self._handover is not None:
                return self._let_go(exchange, self._handover, values)
            if path == "/takeover/connections" and self._moves is not None:
                return self._move(exchange, self._moves, values)
        except TakeoverRefused as why:
            raise Problem(409, str(why)) from None
        raise Problem(404, f"there is no order {path[:100]}")

    def _offer(
        self, exchange: Exchange, handover: SocketHandover, pid: int, values: dict[str, Any]
    ) -> dict[str, Any]:
        connection, sockets = exchange.connection, self._sockets()
        described = [offer.describe() for offer in offers(sockets)]
        handover.offer(connection, pid, values.get("protocol"))
        connection.when_gone().addCallback(lambda ignored: self._lost(connection))
        try:
            _send(connection.sock, [bound.socket.fileno() for _, bound in sockets])
        except OSError as error:
            handover.lost(connection)
            raise Problem(503, f"the sockets cannot be sent: {error.strerror}") from None
        return {"protocol": PROTOCOL, "pid": os.getpid(), "sockets": described, "foreign": list(self._foreign())}

    def _let_go(self, exchange: Exchange, handover: SocketHandover, values: dict[str, Any]) -> dict[str, Any]:
        connection, kept, count = exchange.connection, values.get("kept"), values.get("links", 0)
        if not isinstance(kept, list) or not all(type(number) is int and number >= 0 for number in (*kept, count)):
            raise Problem(400, "kept is a list of numbers, and links is a number")
        if _hung_up(connection.sock):
            # The successor has said that it accepts, and has died before this was read: then no process would accept.
            handover.lost(connection)
        links: Sequence[Link] = ()
        if self._moves is not None and values.get("moves") is True:
            self._moves.expect(connection, values.get("carries"))
        else:
            links = self._make_links(min(count, MOST_LINKS))
        try:
            handover.accepts(connection, kept)
            _send(connection.sock, [descriptor for link in links for descriptor in link.descriptors()])
        except TakeoverRefused:
            self._lost(connection)
            raise
        except OSError as error:
            log.warn("no connections move: the links cannot be sent: {error}", error=error.strerror)
        finally:
            for link in links:
                link.close()
        counted = self._counted()
        return {"pid": os.getpid(), "state": "closing", "links": describe(links), "counted": counted}

    def _make_links(self, count: int) -> Sequence[Link]:
        try:
            return self._links(count)
        except OSError as error:
            log.warn("no connections move: no links can be made: {error}", error=error.strerror)
            return ()

    def _move(self, exchange: Exchange, moves: ConnectionTakers, values: dict[str, Any]) -> dict[str, Any]:
        connection, taken, room = exchange.connection, values.get("taken"), values.get("room")
        refused = values.get("refused", [])
        if not isinstance(refused, list):
            raise Problem(400, "refused is a list")
        if not all(type(number) is int and number >= 0 for number in (taken, room, *refused)):
            raise Problem(400, "taken, room and what is refused are numbers")
        if _hung_up(connection.sock):
            # This process was stuck for so long that the successor has given up, and closed what it had been sent.
            moves.lost(connection)
        batch = moves.next_batch(connection, taken, room, refused, values.get("carries"))  # type: ignore[arg-type]
        try:
            _send(connection.sock, [descriptor for _, descriptors in batch for descriptor in descriptors])
        except OSError as error:
            moves.lost(connection)
            raise Problem(503, f"the connections cannot be sent: {error.strerror}") from None
        return {"connections": [moved.describe() for moved, _ in batch]}

    def _lost(self, connection: object) -> None:
        if self._handover is not None:
            self._handover.lost(connection)
        if self._moves is not None:
            self._moves.lost(connection)


def _send(sock: socket.socket, descriptors: Sequence[int]) -> None:
    for first in range(0, len(descriptors), AT_ONCE):
        socket.send_fds(sock, [INTERIM], descriptors[first : first + AT_ONCE])


def _hung_up(sock: socket.socket) -> bool:
    """Whether the process at the other end is gone, or has closed the connection."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
