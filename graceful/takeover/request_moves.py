"""Requests that no application has seen move with their connections: no old code starts a new request.

When a successor accepts, this process gives no further request to the application.  One that waits for a thread is
taken out of the queue, one whose turn comes later is held, and both go with the next batch of connections.  If the
successor fails, has no room, or does not come for them in time, they are answered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger
from zope.interface import implementer

from graceful.web.carrying import CarriedAnswer, IMovable, answer_of, settled
from graceful.web.connection import Connection, open_connections
from graceful.web.exchange import QUEUED, Exchange
from graceful.web.interfaces import IAnswerer

if TYPE_CHECKING:
    from graceful.web.site import Site

log = Logger(namespace="graceful")

#: Seconds that a request is held for the successor; then it is answered here.
HELD_FOR: Final = 3.0


@implementer(IAnswerer)
class RequestMoves:
    """Holds the requests that are to move.  Reactor thread.

    :param site: whose requests.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._held: dict[Exchange, float] = {}  # since when
        self._stay = False

    def begin(self, goes: Callable[[Connection], bool]) -> None:
        """From now on no request is to reach the application here.

        :param goes: whether a connection may move.
        """
        for connection in sorted(open_connections(self._site), key=_number):
            if connection.write_token.current is not None and goes(connection):
                self._withdraw(connection)

    def stay(self) -> None:
        """The requests that are held, and all that come, are answered here."""
        self._stay = True
        self.answer_here([*self._held])

    def hold_no_more(self) -> None:
        """The requests that are held, and all that come, are answered here, but for what is on its way."""
        self._stay = True
        self.answer_all_here()

    def held(self) -> list[Connection]:
        """Returns the connections whose requests are held, in the order in which they came."""
        return [one.connection for one in self._held]  # type: ignore[misc]

    def hold(self, exchange: Exchange) -> None:
        """Keep a request, whose turn has come, for the successor."""
        if self._stay or exchange.connection.write_token.current is not exchange:
            self.answer_here([exchange])
            return
        exchange.handler = self
        self._held[exchange] = monotonic()

    def _withdraw(self, connection: Connection) -> bool:
        """Take the connection's request out of the queue for a thread, if it waits there."""
        exchange = connection.write_token.current
        if exchange is None or exchange in self._held:
            return exchange is not None
        # One that resources have found the application for has been seen by their code.
        if exchange.phase != QUEUED or exchange.mount is not None or not self._site.withdraw(exchange):
            return False
        self.hold(exchange)
        return exchange in self._held

    def ready(self, connection: Connection) -> tuple[bool, CarriedAnswer | None]:
        """Whether a connection can move with what is on it.

        :returns: that, and the answer that it carries.
        """
        if not settled(connection):
            return False, None
        token = connection.write_token
        if token.current is None:
            return not token.held, None
        if not token.begun and self._withdraw(connection):
            return True, None
        answer = answer_of(connection)
        return answer is not None, answer

    @staticmethod
    def hand_on(connection: Connection, answer: CarriedAnswer | None) -> bool:
        """A connection is about to be sent.  Returns False if it is too late for its answer."""
        current = connection.write_token.current
        if answer is None or current is None or not IMovable.providedBy(current.handler):
            return True
        return bool(current.handler.hand_on(current))

    def left(self, connection: Connection) -> None:
        """Another process goes on with a connection: close this one's descriptor for it, and forget its requests."""
        token = connection.write_token
        exchanges = [*token.waiting, *connection.under_way()]
        if token.current is not None:
            exchanges.append(token.current)
        for exchange in exchanges:
            self._site.register.leave(exchange)
            if exchange.body is not None and not isinstance(exchange.body, list):
                with suppress(OSError):
                    exchange.body.close()
        if not token.closed:
            connection.close()

    def kept(self, connection: Connection) -> None:
        """A connection stays here: its request is answered here."""
        current = connection.write_token.current
        if current is None:
            return
        if current in self._held:
            self.answer_here([current])
        elif IMovable.providedBy(current.handler):
            current.handler.kept(current)

    def answer_all_here(self) -> None:
        """Answer here what is held, and is not on its way to the successor."""
        self.answer_here([one for one in self._held if not one.connection.leaving])  # type: ignore[attr-defined]

    def answer_here(self, exchanges: Iterable[Exchange]) -> None:
        """Answer requests in this process after all."""
        for exchange in exchanges:
            self._held.pop(exchange, None)
            token = exchange.connection.write_token
            if token.closed or token.current is not exchange:
                exchange.abandon()  # the client left, or the deadline came, meanwhile
                exchange.release()
            else:
                self._site.start(exchange)

    def tick(self, now: float) -> bool:
        """Answer what the successor has not come for.  Several times a second.

        :returns: whether there was something.
        """
        late = [one for one, since in self._held.items() if now - since > HELD_FOR]
        late = [one for one in late if not one.connection.leaving]  # type: ignore[attr-defined]
        self.answer_here(late)
        return bool(late)

    # -- IAnswerer -----------------------------------------------------------------------------------------

    def disconnected(self, exchange: Exchange) -> None:
        """The client has left, or the exchange was taken down, or it goes on in another process."""
        if self._held.pop(exchange, None) is not None:
            exchange.abandon()
            exchange.release()

    def parked(self, exchange: Exchange) -> bool:
        """It will be answered."""
        return False

    def works_for(self, exchange: Exchange) -> bool:
        """Whether it is held."""
        return exchange in self._held


def _number(connection: Connection) -> int:
    current = connection.write_token.current
    return current.id if current is not None else 0
