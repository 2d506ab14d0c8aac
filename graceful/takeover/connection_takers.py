"""The processes that take this one's connections, each its share.

A single process has one successor, or the workers of one; a worker has the one that takes its place.  Each has a
:class:`~graceful.takeover.connection_moves.ConnectionMoves` of its own, and the descriptor of a connection says whose
it is, so that they are spread evenly.  One that fails is struck out, and its share is the others'; when none is left,
connections are drained here.

A taker that is alive and does not ask any more (it was stopped, or its machine is overloaded) would keep the clients
waiting whose connections are on their way to it.  So each has some seconds; then what it has not taken is served here
again, and what it says later is refused.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from graceful.control.client import process_descriptor
from graceful.sockets.binding import BoundSocket
from graceful.takeover.connection_links import Link, make_link, make_links
from graceful.takeover.connection_moves import ConnectionMoves, Moving, addresses_of
from graceful.takeover.socket_handover import TakeoverRefused
from graceful.web.connection import Connection

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange
    from graceful.web.site import Site

log = Logger(namespace="graceful")


#: Seconds within which a taker has to ask for more, as it does many times a second.
ASKS_IN: Final = 2.0

#: 2 ** 32 divided by the golden ratio: its multiples are spread evenly, also for descriptors that are all even.
GOLDEN: Final = 0x9E3779B1

#: Seconds for what it may have said while this process itself was stopped.
SAID_MEANWHILE: Final = 0.2


class Taker(Protocol):
    """A process that takes connections: its connection to control.  Compared by identity."""

    def when_gone(self) -> Deferred[None]:
        """Returns a Deferred that fires when it has hung up."""


@define(eq=False)
class _Share:
    """What one taker gets.

    :ivar late: the timer that strikes it out.
    """

    moves: ConnectionMoves
    late: IDelayedCall | None = field(default=None)


class ConnectionTakers:
    """Gives connections to those that take them.  Reactor thread.

    :param site: whose connections.
    :param clock: monotonic.
    :param serve: answers orders on a connected socket, as control does.  Returns its connection.
    """

    def __init__(self, site: Site, clock: IReactorTime, serve: Callable[[socket.socket], Taker]) -> None:
        self._site = site
        self._clock = clock
        self._serve = serve
        self._shares: dict[object, _Share] = {}
        self._order: tuple[ConnectionMoves, ...] = ()
        self._addresses: set[Any] | None = None  # those that the takers accept from; None before they do

    # -- who takes ----------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether connections move: what comes here from another process can move on."""
        return self._addresses is not None and bool(self._order)

    def expect(self, taker: object, carries: object = None) -> None:
        """A process says that it will ask for connections, if it gets the sockets; or it has got them.

        :param taker: identifies it: its connection to control.
        :param carries: the format in which it can take what is not in the kernel, if it has said it.
        """
        moves = ConnectionMoves(self._site, lambda connection: self._of(connection) is moves)
        moves.expect(taker, carries)
        self._shares[taker] = share = _Share(moves)
        self._order = (*self._order, moves)
        if self._addresses is not None:
            self._start(taker, share, self._addresses)

    def give(self, sock: socket.socket) -> None:
        """Expect the process at the other end of a connected socket, which is ours from now on."""
        taker = self._serve(sock)
        taker.when_gone().addCallback(lambda ignored: self.lost(taker))
        self.expect(taker)

    def links(self, count: int) -> list[Link]:
        """Expect that many processes.  Returns a link for each.

        :raises OSError: there are no descriptors left; those made already have hung up.
        """
        process = process_descriptor(os.getpid())
        try:
            return make_links([lambda: make_link(process, os.getpid(), self.give)] * count)
        finally:
            os.close(process)

    def begin(self, handed: Iterable[BoundSocket]) -> None:
        """They accept: answers keep their connections open, which move when they are idle.

        :param handed: the sockets that they accept from, still open; connections to others stay.
        """
        self._addresses = addresses_of(handed)
        for taker, share in self._shares.items():
            self._start(taker, share, self._addresses)

    def _start(self, taker: object, share: _Share, addresses: set[Any]) -> None:
        share.moves.begin_at(addresses)
        self._site.mover = self
        self._wait(taker, share)

    def lost(self, taker: object) -> None:
        """A taker has ended, or does not want connections any more."""
        share = self._shares.pop(taker, None)
        if share is None:
            return
        if share.late is not None:
            share.late.cancel()
        self._order = tuple(one.moves for one in self._shares.values())
        share.moves.lost(taker)
        if self.active:
            self._site.mover = self

    # -- what they take -----------------------------------------------------------------------------------

    def next_batch(
        self, taker: object, taken: int, room: int, refused: Collection[int] = (), carries: object = None
    ) -> Sequence[Moving]:
        """A taker has taken connections, and wants more (see :meth:`ConnectionMoves.next_batch`).

        :raises TakeoverRefused: it has none any more: what it was sent last is served here.
        """
        share = self._shares.get(taker)
        if share is None:
            raise TakeoverRefused("no connections move to this process any more")
        if share.late is not None:
            share.late.cancel()
            self._wait(taker, share)
        return share.moves.next_batch(taker, taken, room, refused, carries)

    def takes(self, connection: Connection) -> bool:
        """A request comes on a connection.  Returns whether a taker is to read it."""
        moves = self._of(connection)
        return moves is not None and moves.takes(connection)

    def holds(self, exchange: Exchange) -> bool:
        """It is a request's turn.  Returns whether a taker is to answer it.  Any thread."""
        connection: Any = exchange.connection
        moves = self._of(connection)
        return moves is not None and moves.holds(exchange)

    def tick(self, now: float) -> None:
        """Answer here what the takers have not come for."""
        for moves in self._order:
            moves.tick(now)

    def _of(self, connection: Connection) -> ConnectionMoves | None:
        order = self._order
        return order[(connection.fd * GOLDEN % (1 << 32)) * len(order) >> 32] if order else None

    # -- one that does not ask ----------------------------------------------------------------------------

    def _wait(self, taker: object, share: _Share) -> None:
        share.late = self._clock.callLater(ASKS_IN, self._look_once_more, taker, share)

    def _look_once_more(self, taker: object, share: _Share) -> None:
        """Read first what it has said: it is this process that may have been stopped."""
        share.late = self._clock.callLater(SAID_MEANWHILE, self._too_late, taker, share)

    def _too_late(self, taker: object, share: _Share) -> None:
        share.late = None
        log.warn("a process that takes connections does not ask any more: what is left stays here")
        self.lost(taker)
