"""What is in flight in any Twisted service: on its connections, and in the Deferreds that it names.

A service under the graceful reactor does not report its requests.  So until a drain begins or a status is asked for,
only the existence of a connection is known.  Then its protocol is inspected: with HTTP, each exchange counts
(:mod:`graceful.reactor.twisted_web`); with any other protocol the connection counts, until it ends or says that it is
idle.

Each item has the shape of an exchange (:class:`graceful.web.exchange.Exchange`), so that status, metrics and log
treat both alike.  The start of an exchange is not recorded: its age is counted from when it was first seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Final

from attrs import define
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from graceful.reactor.interfaces import IIdling
from graceful.reactor.lingering import Lingering
from graceful.web.exchange import APPLICATION, PHASES

log = Logger(namespace="graceful")


#: Seconds until a connection that was told to end, and has sent everything, is closed.  Only TLS needs any, since it
#: waits for the goodbye of its peer.
AGREES_IN: Final = 1.0


@define(eq=False)
class TrackedItem:
    """Something in flight.

    :ivar connection: the transport that carries it, or the Deferred that it waits for.
    :ivar method: an exchange's method; for other items, their description.
    :ivar target: an exchange's target; empty for other items.
    :ivar peer: the address at the other end.
    :ivar started: when it was first seen; of a connection, when it was accepted.  Monotonic seconds.
    :ivar phase: index into `PHASES`.
    :ivar sent: bytes of an answer's body handed over for sending.
    :ivar length: how many there will be; -1 if it is not known.
    """

    id: int
    connection: Any
    method: str
    target: bytes
    peer: str
    started: float
    phase: int = APPLICATION
    sent: int = 0
    length: int = -1
    status: int = 0
    ended: float = 0.0
    through: bool = False
    download: bool = False

    def describe(self, now: float) -> str:
        """Returns one line for people: what the item is, its age, its progress."""
        age = f"{now - self.started:.1f} s"
        if not self.target:
            return f"{self.id}, {self.method}{f' with {self.peer}' if self.peer else ''}, {age} old"
        target = self.target.decode("latin-1").encode("unicode_escape").decode("ascii")
        sent = f", {self.sent} bytes sent" if self.sent else ""
        return (
            f"exchange {self.id} {self.method} {target} from {self.peer or 'unix'}: "
            f"{PHASES[self.phase]} for at least {age}{sent}"
        )


class ConnectionWatch:
    """Watches a connection for a status or a drain; this class serves protocols that are not known here.

    :ivar transport: the connection.
    :ivar protocol: the innermost protocol, without its wrappers.
    :ivar items: what is in flight on the connection, by the object that stands for it in the protocol.
    """

    def __init__(self, tracker: Tracker, transport: Any, protocol: Any) -> None:
        self._tracker = tracker
        self.transport = transport
        self.protocol = protocol
        self.items: dict[Any, TrackedItem] = {}
        self._closing_since: float | None = None
        self._draining = False

    @property
    def peer(self) -> str:
        """The address at the other end; empty on a Unix socket."""
        return str(getattr(self.transport.getPeer(), "host", ""))

    def refresh(self) -> None:
        """Update `items` to what is in flight now."""
        if not self.items:
            what = f"connection of {type(self.protocol).__name__}"
            self.items[self] = self._tracker.issue(self.transport, what, b"", self.peer, self.transport.accepted)

    def begin_drain(self) -> None:
        """Have the connection end as soon as that interrupts nothing, since a drain has begun.

        Only the first call has an effect.
        """
        if not self._draining:
            self._draining = True
            self._announce()

    def _announce(self) -> None:
        idling = IIdling(self.protocol, None)
        if idling is not None:
            idling.whenIdle().addCallbacks(lambda ignored: self.close(), self._cannot_say)

    def _cannot_say(self, failure: Failure) -> None:
        log.failure("{protocol} cannot say when it is idle", failure, protocol=self.protocol)

    def sweep(self, now: float, quiet: bool) -> None:
        """Close the connection if its time in the drain is over; called every few moments.

        :param now: monotonic seconds.
        :param quiet: no client sends further requests on idle connections.
        """
        if not self.closing or self.unsent:
            self._closing_since = None
        elif self._closing_since is None:
            self._closing_since = now
        elif now - self._closing_since >= AGREES_IN:
            # Not by an abort: TLS has said goodbye, but bytes may still be on their way to the peer.
            FileDescriptor.loseConnection(self.transport)

    @property
    def closing(self) -> bool:
        """Whether the connection was told to end."""
        return bool(self.transport.disconnecting or getattr(self.transport.protocol, "disconnecting", False))

    @property
    def unsent(self) -> int:
        """How many bytes have still to go to the kernel; those that TLS holds back count as one."""
        transport = self.transport
        waiting: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
        return waiting + bool(getattr(transport.protocol, "_appSendBuffer", None))

    def close(self) -> None:
        """Close the connection as its own protocol would."""
        (getattr(self.protocol, "transport", None) or self.transport).loseConnection()

    def take_down(self, only: TrackedItem | None = None) -> list[TrackedItem]:
        """End the connection; returns the items that this interrupts.

        :param only: end this item alone, if the protocol carries several at a time.
        """
        if self.closing and not self.unsent:
            return []  # no client waits for it any more
        self.refresh()
        self.close()
        return list(self.items.values())


class Tracker:
    """Knows a reactor's ports and connections, and numbers what is in flight.  Reactor thread.

    :param kind_of: returns for a transport the class that watches it, and the protocol that is inspected.
    :ivar ports: what listens, each with the log prefix under which it was opened: a connection's, or `-`.
    :ivar connections: the transports that were accepted and are open.
    :ivar issued: the last number given out.
    :ivar lingering: holds connections that are closed; None while no drain needs that.
    """

    def __init__(self, kind_of: Callable[[Any], tuple[type[ConnectionWatch], Any]]) -> None:
        self._kind_of = kind_of
        self.ports: dict[Any, str] = {}
        self.connections: set[Any] = set()
        self.issued = 0
        self._on_add: Callable[[Any], object] | None = None
        self.lingering: Lingering | None = None
        self._watches: dict[Any, ConnectionWatch] = {}
        self._deferreds: dict[Deferred[Any], TrackedItem] = {}
        self._waiting: dict[Any, list[Deferred[None]]] = {}

    # -- while it runs ------------------------------------------------------------------------------------

    def add(self, transport: Any) -> None:
        """Register a connection that was accepted."""
        self.connections.add(transport)
        if self._on_add is not None:
            self._on_add(transport)

    def lost(self, transport: Any) -> None:
        """Forget a connection that is closed."""
        self.connections.discard(transport)
        self._watches.pop(transport, None)
        self._ended(transport)

    def track(self, deferred: Deferred[Any], what: str) -> None:
        """Count work as in flight until a Deferred fires."""
        self._deferreds[deferred] = self.issue(deferred, what, b"", "", monotonic())

        def fired(result: Any) -> Any:
            self._deferreds.pop(deferred, None)
            self._ended(deferred)
            return result

        deferred.addBoth(fired)

    def issue(self, connection: Any, method: str, target: bytes, peer: str, started: float) -> TrackedItem:
        """Returns a new item with the next number."""
        self.issued += 1
        return TrackedItem(self.issued, connection, method, target, peer, started)

    # -- for a status or a drain ---------------------------------------------------------------------------

    def watches(self) -> list[ConnectionWatch]:
        """Returns the watches of all connections, each updated."""
        for transport in list(self.connections):
            self.watch(transport)
        return list(self._watches.values())

    def watch(self, transport: Any) -> ConnectionWatch | None:
        """Returns the watch of a connection, updated; None if the connection is gone."""
        if transport not in self.connections:
            return None
        if not transport.connected or transport.fileno() < 0:
            self.lost(transport)  # its socket was taken away from the reactor, to hand it to another program
            return None
        try:
            known, (kind, protocol) = self._watches.get(transport), self._kind_of(transport)
            if known is None or known.protocol is not protocol or type(known) is not kind:
                known = self._watches[transport] = kind(self, transport, protocol)
            known.refresh()
        except Exception:
            log.failure("nobody can say what is in flight on {transport!r}", transport=transport)
            known = self._watches[transport] = ConnectionWatch(self, transport, transport.protocol)
            known.refresh()
        return known

    def in_flight(self) -> list[TrackedItem]:
        """Returns what is in flight at this moment, oldest first."""
        items = [item for watch in self.watches() for item in watch.items.values()]
        return sorted([*items, *self._deferreds.values()], key=lambda item: item.id)

    @property
    def exchanges(self) -> dict[int, TrackedItem]:
        """What is in flight at this moment, by number."""
        return {item.id: item for item in self.in_flight()}

    @property
    def finished(self) -> int:
        """How many of those that were looked at have ended, in any way."""
        in_flight = len(self.in_flight())
        return self.issued - in_flight

    def find(self, number: int) -> tuple[ConnectionWatch | None, TrackedItem] | None:
        """Returns the item with a number, and the connection that carries it, if any; None if it is not in flight."""
        for watch in self.watches():
            for item in watch.items.values():
                if item.id == number:
                    return watch, item
        for item in self._deferreds.values():
            if item.id == number:
                return None, item
        return None

    def deferreds(self) -> list[tuple[Deferred[Any], TrackedItem]]:
        """Returns the Deferreds that the service has named, each with its item."""
        return list(self._deferreds.items())

    # -- a drain ------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether a drain is under way."""
        return self.lingering is not None

    def begin_drain(self, on_add: Callable[[Any], object], lingering: Lingering) -> None:
        """Tell a drain of each new connection, and let it hold those that are closed.

        :param on_add: called with each new connection.
        :param lingering: holds connections that are closed.
        """
        self._on_add, self.lingering = on_add, lingering

    def end_drain(self) -> None:
        """The drain is over."""
        self._on_add = self.lingering = None

    # -- the wait -----------------------------------------------------------------------------------------

    def all_gone(self) -> Deferred[None]:
        """Fire when no connection and no named Deferred is left.

        A `DeferredList` is a snapshot, which misses what comes later.  So this waits for one list after another,
        until a list is empty.
        """
        done: Deferred[None] = Deferred()

        def look(ignored: object) -> None:
            waiting = list(self._endings())
            if waiting:
                DeferredList(waiting).addCallback(look)
            else:
                done.callback(None)

        look(None)
        return done

    def _endings(self) -> Iterator[Deferred[None]]:
        for one in (*self.connections, *self._deferreds):
            when: Deferred[None] = Deferred()
            self._waiting.setdefault(one, []).append(when)
            yield when

    def _ended(self, one: Any) -> None:
        for when in self._waiting.pop(one, ()):
            when.callback(None)
