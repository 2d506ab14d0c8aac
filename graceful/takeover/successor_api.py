"""The control API's two orders for a successor: it asks for the listening sockets, then says that it accepts.

    POST /takeover          {"protocol": 1}: the sockets; their descriptors ride on interim answers before this one
    POST /takeover/accepts  {"kept": [0, 2]}: the successor accepts from these; this process lets go, and drains

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

from graceful.control.api import credentials
from graceful.control.read_api import Problem
from graceful.sockets.binding import BoundSocket
from graceful.takeover.offers import offers
from graceful.takeover.socket_handover import PROTOCOL, SocketHandover, TakeoverRefused
from graceful.web.exchange import Exchange

#: The most descriptors that go with one message (SCM_MAX_FD is 253).
AT_ONCE: Final = 250

INTERIM: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

Sockets = Sequence[tuple[str, BoundSocket]]


class SuccessorApi:
    """Answers successors.  Reactor thread.

    :param handover: decides which successor gets the sockets.
    :param sockets: returns the sockets, each with its role.
    :param foreign: returns the endpoints that cannot be handed over, and are closed.
    """

    def __init__(
        self, handover: SocketHandover, sockets: Callable[[], Sockets], foreign: Callable[[], Sequence[str]]
    ) -> None:
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
            if path == "/takeover":
                return self._offer(exchange, pid, values)
            if path == "/takeover/accepts":
                return self._let_go(exchange, values)
        except TakeoverRefused as why:
            raise Problem(409, str(why)) from None
        raise Problem(404, f"there is no order {path[:100]}")

    def _offer(self, exchange: Exchange, pid: int, values: dict[str, Any]) -> dict[str, Any]:
        connection, sockets = exchange.connection, self._sockets()
        described = [offer.describe() for offer in offers(sockets)]
        self._handover.offer(connection, pid, values.get("protocol"))
        connection.when_gone().addCallback(lambda ignored: self._handover.lost(connection))
        descriptors = [bound.socket.fileno() for _, bound in sockets]
        try:
            for first in range(0, len(descriptors), AT_ONCE):
                socket.send_fds(connection.sock, [INTERIM], descriptors[first : first + AT_ONCE])
        except OSError as error:
            self._handover.lost(connection)
            raise Problem(503, f"the sockets cannot be sent: {error.strerror}") from None
        return {"protocol": PROTOCOL, "pid": os.getpid(), "sockets": described, "foreign": list(self._foreign())}

    def _let_go(self, exchange: Exchange, values: dict[str, Any]) -> dict[str, Any]:
        connection, kept = exchange.connection, values.get("kept")
        if not isinstance(kept, list) or not all(type(number) is int and number >= 0 for number in kept):
            raise Problem(400, "kept is a list of numbers")
        if _hung_up(connection.sock):
            # The successor has said that it accepts, and has died before this was read: then no process would accept.
            self._handover.lost(connection)
        self._handover.accepts(connection, kept)
        return {"pid": os.getpid(), "state": "closing"}


def _hung_up(sock: socket.socket) -> bool:
    """Whether the process at the other end is gone, or has closed the connection."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
