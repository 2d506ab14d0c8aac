"""Connections move to the successor, so that a deploy closes none: the predecessor's side.

    POST /takeover/connections {"room": 1000, "taken": 3}   the successor has taken the first 3 of the last batch, and
                                                            has room for 1000 more: the next batch
                               "refused": [1]               but for the second of them, which this process keeps

A connection is in exactly one process's hands.  When it moves, this process stops reading from it and sending on it,
so what the client sends stays in the kernel, for the successor; what was read before goes beside it
(:mod:`graceful.takeover.parcels`).  The successor does not read before it has said that it has taken it, and this
process has closed its own descriptor for it, by a plain close, which the client does not notice.  A connection that
was not taken, because there was no room or the successor has failed, is read here again, and drained.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

from graceful.sockets.binding import BoundSocket
from graceful.takeover.parcels import FORMAT, pack
from graceful.takeover.request_moves import RequestMoves
from graceful.web.carrying import CarriedAnswer, carry
from graceful.web.connection import Connection, address_of, open_connections
from graceful.web.exchange import Exchange
from graceful.web.moving import MovedConnection

if TYPE_CHECKING:
    from graceful.web.site import Site

log = Logger(namespace="graceful")


#: Descriptors in a batch: those of one message (SCM_MAX_FD is 253).
BATCH: Final = 250
#: Bytes that the connections of a batch may carry together; one may exceed it.
CARRIED: Final = 1 << 24

#: What moves of one connection: its description, and descriptors, the first of which is its own.
Moving = tuple[MovedConnection, list[int]]


class ConnectionMoves:
    """Gives connections to the successor, batch by batch.  Reactor thread, but for :meth:`holds`.

    :param site: whose connections; its `moved` counts those that the successor has taken.
    :param may_have: whether the successor may have a connection, of which others may have the rest.
    """

    def __init__(self, site: Site, may_have: Callable[[Connection], bool] = lambda connection: True) -> None:
        self._site = site
        self._may_have = may_have
        self._taker: object = None
        self._begun = False
        self._carries = False  # whether the successor takes what is not in the kernel
        self._failed = False  # the system has refused to make it ready
        self._addresses: set[Any] = set()
        self._waiting: list[Connection] = []  # a request has come on these, which the successor is to read
        self._batch: list[Connection] = []
        self._parcels: list[int] = []  # what the last batch has carried; sent by now
        self._refused: set[Connection] = set()
        self._room = 0  # in the successor, beyond the batch, as it has last said
        self._requests = RequestMoves(site)

    def expect(self, taker: object, carries: object = None) -> None:
        """A successor says that it will ask for connections, if it gets the sockets.

        :param taker: identifies it: its connection to control.
        :param carries: the format in which it can take what is not in the kernel.
        """
        if not self._begun:
            self._taker = taker
            self._carries = carries == FORMAT

    def begin(self, handed: Sequence[BoundSocket]) -> None:
        """The successor accepts: answers keep their connections open, which move when they are idle.

        :param handed: the sockets that it accepts from, still open; connections to others stay.
        """
        self.begin_at(addresses_of(handed))

    def begin_at(self, addresses: set[Any]) -> None:
        """The same, given the addresses from which it accepts (:func:`addresses_of`)."""
        if self._taker is not None:
            self._begun = True
            self._addresses = addresses
            self._room = BATCH  # until it asks, in a moment: no request is to be read here meanwhile
            self._site.mover = self
            if self._carries:
                self._requests.begin(self._served)

    def next_batch(
        self, taker: object, taken: int, room: int, refused: Collection[int] = (), carries: object = None
    ) -> list[Moving]:
        """The successor has taken connections, and wants more.

        :param taker: its connection to control.
        :param taken: how many of the last batch, from its beginning, are the successor's now.
        :param room: how many more it can take.
        :param refused: the numbers of those among them that it cannot take after all.
        :param carries: the format in which it can take what is not in the kernel.
        :returns: the caller sends all descriptors at once.
        """
        if not self._begun or taker is not self._taker:
            return []
        if carries == FORMAT and not (self._carries or self._failed):
            self._carries = True
            self._requests.begin(self._served)
        last, self._batch = self._batch, []
        self._close_parcels()
        gone = [one for number, one in enumerate(last[:taken]) if number not in refused]
        self._site.moved += len(gone)  # before the last of them is closed, with which the drain may end
        for connection in gone:
            self._requests.left(connection)
        self._refused.update(last[number] for number in refused if number < len(last))
        self._keep([one for one in last if one not in gone])
        batch = self._fill(min(BATCH, room))
        self._room = room - len(batch)
        if self._room <= 0:
            self._requests.answer_all_here()
        return batch

    def _fill(self, most: int) -> list[Moving]:
        """Take out what is to go with the next batch."""
        batch: list[Moving] = []
        waiting, self._waiting = self._waiting, []
        left = dict.fromkeys(waiting)
        carried = count = 0
        for connection in chain(waiting, self._requests.held(), list(open_connections(self._site))):
            if len(batch) >= most or carried > CARRIED:
                break
            if connection.leaving and connection not in left:
                continue
            left.pop(connection, None)
            loaded = self._load(connection, BATCH - count)
            if loaded is None:
                if connection.leaving:
                    self._keep([connection])
                continue
            moved, descriptors, size = loaded
            self._batch.append(connection)
            batch.append((moved, descriptors))
            self._parcels += descriptors[1:2]
            carried += size
            count += len(descriptors)
        self._keep(left)
        return batch

    def _load(self, connection: Connection, most: int) -> tuple[MovedConnection, list[int], int] | None:
        """Take a connection out, with what it carries.

        :param most: how many descriptors may be sent.
        :returns: its description, its descriptors, and how many bytes it carries; None if it does not go now.
        """
        goes, answer = self._goes(connection)
        if not goes or not (connection.leaving or connection.take_out()):
            return None
        if not self._requests.hand_on(connection, answer):
            return None
        carried = carry(connection, answer)
        if (len(carried.files) + 2 if carried is not None else 1) > most:
            return None
        if carried is None:
            return MovedConnection.of(connection), [connection.fd], 0
        try:
            parcel = pack(carried)
        except OSError as error:
            log.error("no more requests can move: {error}", error=error)
            self._carries, self._failed = False, True
            self._requests.hold_no_more()
            return None
        return MovedConnection.of(connection, len(parcel)), [connection.fd, *parcel], carried.size

    def takes(self, connection: Connection) -> bool:
        """A request comes on a connection.  Returns whether the successor is to read it.

        Then the connection moves with the next batch.
        """
        if len(self._waiting) >= self._room or not self._goes(connection)[0] or not connection.take_out():
            return False
        self._waiting.append(connection)
        return True

    def holds(self, exchange: Exchange) -> bool:
        """It is a request's turn.  Returns whether the successor is to answer it.  Any thread."""
        connection: Any = exchange.connection
        if not self._carries or connection in self._refused or not self._served(connection):
            return False
        connection.call(self._requests.hold, exchange)
        return True

    def tick(self, now: float) -> None:
        """Answer here what the successor has not come for."""
        if self._requests.tick(now):
            waiting, self._waiting, self._room = self._waiting, [], 0
            self._keep(waiting)

    def lost(self, taker: object) -> None:
        """The successor has ended, or does not want connections any more: what is left is drained here."""
        if taker is self._taker:
            self._taker = self._site.mover = None  # so that what it has asked for before has no effect any more
            left, self._batch, self._waiting = [*self._batch, *self._waiting], [], []
            self._close_parcels()
            self._keep(left)
            self._requests.stay()

    def _close_parcels(self) -> None:
        for descriptor in self._parcels:
            os.close(descriptor)
        self._parcels.clear()

    def _keep(self, connections: Iterable[Connection]) -> None:
        for connection in connections:
            if connection.write_token.closed:
                continue
            try:
                connection.put_back()
                self._requests.kept(connection)
            except Exception:  # whatever it is: the others wait to be read again
                log.failure("a connection that did not move cannot be served here, and is closed")
                self._end(connection)

    @staticmethod
    def _end(connection: Connection) -> None:
        """Close a connection so that its client learns of it, although the successor may have a descriptor for it."""
        with suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()

    def _goes(self, connection: Connection) -> tuple[bool, CarriedAnswer | None]:
        """Whether a connection can move now, and the answer that it carries then."""
        if connection in self._refused or not self._served(connection):
            return False, None
        if self._carries:
            return self._requests.ready(connection)
        token = connection.write_token
        return connection.idle() and not (token.lingering or token.closing), None

    def _served(self, connection: Connection) -> bool:
        """Whether the successor may have a connection, and serves its address.  Any thread."""
        if not connection.movable or not self._may_have(connection):
            return False
        try:
            if connection.sock.family == socket.AF_UNIX:
                return connection.sock.getsockname() in self._addresses
        except OSError:
            return False  # it is closed
        return connection.listener in self._addresses


def addresses_of(bound: Iterable[BoundSocket]) -> set[Any]:
    """Returns the addresses of open listening sockets, as their connections know them."""
    names = (one.socket.getsockname() for one in bound)
    return {address_of(name) or name for name in names}
