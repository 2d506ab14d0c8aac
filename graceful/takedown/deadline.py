"""The deadline of a drain: what is still running is ended honestly, and named.

Most servers kill the process at this point and say nothing.  The client of an answer that had not begun deserves
a 503 and a time to try again; the client of one that had must see that it is cut; and the operator must read which
requests were interrupted, how old they were, and where their threads stood.  Threads are given a moment to notice
that their client is gone; those that do not end are abandoned with the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.takedown.stacks import stack_of
from graceful.web.connection import Connection
from graceful.web.exchange import Exchange
from graceful.web.site import Site

LAST_MOMENT: Final = 2.0
LOOK_AGAIN: Final = 0.05


class Takedown:
    """Takes down what a site still has in flight.  Reactor thread.

    :param site: whose connections and exchanges.
    :param clock: monotonic time.
    :param working: the exchanges that a thread works for, each with its thread.
    :ivar taken: how many exchanges were interrupted.
    :ivar abandoned: how many threads did not end.
    """

    log = Logger(namespace="graceful")

    def __init__(self, site: Site, clock: IReactorTime, working: Callable[[], dict[Exchange, int]]) -> None:
        self._site = site
        self._clock = clock
        self._working = working
        self._everything = True
        self.taken = 0
        self.abandoned = 0

    def start(self, everything: bool) -> Deferred[None]:
        """End what has had its time; fires when all threads have ended, or have had theirs.

        :param everything: also downloads, which are spared otherwise.
        """
        self._everything = everything
        spared = self._spared()
        working = self._working()
        for exchange in self._site.register.in_flight():
            if exchange not in spared:
                self._name(exchange, stack_of(working.get(exchange, 0)))
        for connection in self._ending(spared):
            self._end(connection)
        for exchange in self._site.register.in_flight():
            if exchange in working and exchange not in spared:  # its client has left, and it goes on
                self.taken += 1
                self._site.finished(exchange)
        done: Deferred[None] = Deferred()
        self._wait(done, self._clock.seconds() + LAST_MOMENT)
        return done

    def _spared(self) -> set[Exchange]:
        return set() if self._everything else self._site.spared()

    def _ending(self, spared: set[Exchange]) -> list[Connection]:
        """The connections that carry nothing that is spared."""
        return [connection for connection in self._site.connections() if connection.turn.current not in spared]

    def _name(self, exchange: Exchange, stack: str) -> None:
        self.log.warn(
            "taking down {what}{stack}",
            what=exchange.describe(self._clock.seconds()),
            stack=f", its thread is here:\n{stack}" if stack else "",
        )

    def _end(self, connection: Connection) -> None:
        try:
            interrupted = connection.take_down()
        except Exception:
            # One that fails must not keep the others from their end.
            self.log.failure("a connection could not be taken down and is closed")
            connection.close(reset=True)
            return
        for exchange in interrupted:
            self.taken += 1
            self._site.finished(exchange)

    def _wait(self, done: Deferred[None], until: float) -> None:
        spared = self._spared()
        left = len(self._working().keys() - spared)
        ending = self._ending(spared)
        if (left or ending) and self._clock.seconds() < until:
            self._clock.callLater(LOOK_AGAIN, self._wait, done, until)
            return
        self.abandoned = left
        for connection in ending:
            connection.close()
        done.callback(None)
