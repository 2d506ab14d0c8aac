"""The one place that knows what is in flight.

A server that wants to stop has one question: which requests are still running?  Counters drift, lists kept by
several parties disagree, and a thread that went back to its pool says nothing about the bytes that the event
loop still sends.  So there is one register: every connection from its accept to its close, and every exchange
from its first request byte until its last response byte has reached the client's kernel, or cannot any more.
The drain waits for it, the log and the status are read from it, and the takedown works through it.  There is
no other list.

It has to cost next to nothing: two dictionary operations for an exchange, no lock.  That is sound because
`dict` operations are atomic in CPython, exchanges are only added by the reactor thread, and their numbers are
given out by it alone: how many have finished is what was given out less what is still here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred, DeferredList

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange


class Interruptible(Protocol):
    """What the register asks of a connection."""

    def when_gone(self) -> Deferred[None]:
        """Return a new Deferred that fires in the reactor thread when the connection is closed."""


class Register:
    """All connections and all exchanges in flight on them.

    :ivar connections: every open client connection; reactor thread only.
    :ivar exchanges: every exchange in flight by its number; added by the reactor thread, popped by whichever
        thread sees its end: of several that do, one gets it.
    :ivar issued: the last exchange number given out; reactor thread only.
    :ivar moved: how many exchanges another process goes on with.
    """

    __slots__ = ("connections", "exchanges", "issued", "moved")

    def __init__(self) -> None:
        self.connections: set[Interruptible] = set()
        self.exchanges: dict[int, Exchange] = {}
        self.issued = self.moved = 0

    def add(self, exchange: Exchange) -> None:
        """Number an exchange whose first byte has come, and list it.  Reactor thread."""
        self.issued = exchange.id = self.issued + 1
        self.exchanges[exchange.id] = exchange

    def replace(self, substitute: Exchange) -> None:
        """List an exchange in the place of the one with its number, which may be over.  Reactor thread."""
        if substitute.id in self.exchanges:
            self.exchanges[substitute.id] = substitute

    def leave(self, exchange: Exchange) -> None:
        """Take an exchange out that another process goes on with.  Reactor thread."""
        if self.exchanges.pop(exchange.id, None) is not None:
            self.moved += 1

    @property
    def finished(self) -> int:
        """How many exchanges have ended here since the start, in whatever way."""
        return self.issued - self.moved - len(self.exchanges)

    def in_flight(self) -> list[Exchange]:
        """The exchanges in flight at this moment, oldest first."""
        return list(self.exchanges.copy().values())

    def all_gone(self) -> Deferred[None]:
        """Fire when no connection is left.  Reactor thread, after the listeners are closed.

        A `DeferredList` is a snapshot, and a connection that is accepted or takes one more request after it
        was made would be missed: so this waits for list after list until there is nothing left to list.
        """
        done: Deferred[None] = Deferred()

        def look(ignored: object) -> None:
            waiting = [connection.when_gone() for connection in self.connections]
            if waiting:
                DeferredList(waiting).addCallback(look)
            else:
                done.callback(None)

        look(None)
        return done
