"""Exchanges that nothing works for any more: a fault of the server, which is found, logged and ended.

An exchange passes from the event loop to a thread, back to the event loop, to a thread of the disk's, and so on, and
each of them ends it whatever is raised.  If one of them did not, the client would wait for ever, and a stop would
wait for the client until its deadline.  No time-out covers that: an exchange that waits for the server is not timed.
So once a second each exchange in flight is asked what works for it: a thread, a queue, its connection, or its
handler.

On its way from one to the next an exchange may have none of them for a moment.  Only one that has none for
:data:`SUSPECTED` seconds is ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange
    from graceful.web.site import Site

log = Logger(namespace="graceful")


#: Seconds between two looks.
LOOK: Final = 1.0
#: Seconds without anything that works for an exchange, after which it is ended; on its way from one thread to the
#: next an exchange is without an owner for microseconds, or for as long as the system runs neither of them.
SUSPECTED: Final = 10.0


class LostExchanges:
    """Finds and ends exchanges that nothing works for.  Reactor thread.

    :param site: its exchanges are looked at.
    :param working: returns the exchanges that a thread works for.
    :param queued: returns the exchanges that wait for a thread.
    :ivar ended: how many were found and ended.
    """

    def __init__(
        self,
        site: Site,
        working: Callable[[], Collection[Exchange]],
        queued: Callable[[], Collection[Exchange]],
    ) -> None:
        self._site = site
        self._working = working
        self._queued = queued
        self._suspects: dict[Exchange, float] = {}  # since when nothing has been seen to work for it
        self._looked = 0.0
        self.ended = 0

    def __call__(self, now: float) -> None:
        """Look at all exchanges in flight, once in :data:`LOOK` seconds.

        :param now: monotonic seconds.
        """
        if now - self._looked < LOOK * 0.9:
            return
        self._looked = now
        working, queued = self._working(), set(self._queued())
        suspects = {}
        for exchange in self._site.register.in_flight():
            if exchange in working or exchange in queued or self._has_owner(exchange):
                continue
            since = self._suspects.get(exchange, now)
            if now - since < SUSPECTED:
                suspects[exchange] = since
            else:
                self._end(exchange, now)
        self._suspects = suspects

    def _has_owner(self, exchange: Exchange) -> bool:
        """Whether the exchange's connection or its handler still works for it."""
        connection = exchange.connection
        write_token = connection.write_token
        if write_token.closed:
            if connection in self._site.register.connections:
                return True  # its transport is closing, and will say when that is done
        elif exchange is not write_token.current:
            return exchange in (*write_token.waiting, *connection.under_way())
        elif write_token.holder or write_token.lingering:
            return True
        elif exchange.released:
            return False
        return exchange.handler is not None and bool(exchange.handler.works_for(exchange))

    def _end(self, exchange: Exchange, now: float) -> None:
        self.ended += 1
        log.error(
            "{what}: nothing works for it any more, which is a fault of the server; it is ended",
            what=exchange.describe(now),
        )
        connection = exchange.connection
        if not exchange.begun and connection.write_token.current is exchange and not connection.write_token.closed:
            self._site.answer(exchange, 500)
            return
        exchange.keep = False
        connection.close(reset=True, only=exchange)
        exchange.abandon()
        exchange.release()
