"""What is in flight in a process that knows nothing of us: on its connections, and what it tells us of.

In normal running nothing is known of a connection but that it is there.  What it carries is found out when somebody
wants to know: a drain, or a person who looks.  Then its protocol is asked what it is: of HTTP, each exchange counts
(:mod:`graceful.reactor.twisted_web`); of anything else the connection, until it ends or is idle by its own word.

What is found is given the shape of an exchange (:class:`graceful.web.exchange.Exchange`), so that status, metrics and
log need not know the difference.  But since when an exchange is there, nobody has written down: its age is counted
from when it was first seen.
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


#: Seconds that a connection has to be gone once it was told to, and has nothing more to send.  Only TLS needs any: it
#: waits for the peer to agree.
AGREES_IN: Final = 1.0


@define(eq=False)
class TrackedItem:
    """Something in flight.

    :ivar connection: what carries it.
    :ivar method: an exchange's method; of other things, what they are.
    :ivar target: an exchange's target; empty for other things.
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
        """One line for people: what it is, how old, how far."""
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
    """A connection that a status or a drain asks about; this class serves protocols that are not known here.

    :ivar transport: the connection.
    :ivar protocol: what is spoken on it, without what is around that.
    :ivar items: what is in flight on it, each by what it was recognised by.
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
        """Find out what is in flight on it now."""
        if not self.items:
            what = f"connection of {type(self.protocol).__name__}"
            self.items[self] = self._tracker.issue(self.transport, what, b"", self.peer, self.transport.accepted)

    def begin_drain(self) -> None:
        """A drain has begun: see to it that the connection ends when it is in the middle of nothing.

        Called again and again; only the first time counts.
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
        """Some time has passed in a drain.

        :param now: monotonic seconds.
        :param quiet: no client sends further requests on idle connections.
        """
        if not self.closing or self.unsent:
            self._closing_since = None
        elif self._closing_since is None:
            self._closing_since = now
        elif now - self._closing_since >= AGREES_IN:
            # In the plain way: TLS has said its own, and not everything that was sent may be at the peer.
            FileDescriptor.loseConnection(self.transport)

    @property
    def closing(self) -> bool:
        """Whether the connection was told to end."""
        return bool(self.transport.disconnecting or getattr(self.transport.protocol, "disconnecting", False))

    @property
    def unsent(self) -> int:
        """Bytes that are yet to go to the kernel; of what TLS holds back, only whether there is any."""
        transport = self.transport
        waiting: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
        return waiting + bool(getattr(transport.protocol, "_appSendBuffer", None))

    def close(self) -> None:
        """End it as its own protocol would."""
        (getattr(self.protocol, "transport", None) or self.transport).loseConnection()

    def take_down(self, only: TrackedItem | None = None) -> list[TrackedItem]:
        """End it; what was interrupted by that.

        :param only: if it can carry several things at a time, only this one.
        """
        if self.closing and not self.unsent:
            return []  # no client waits for it any more
        self.refresh()
        self.close()
        return list(self.items.values())


class Tracker:
    """All that a reactor counts.  Reactor thread.

    :param kind_of: says for a transport how its connection is watched, and which protocol is asked about it.
    :ivar ports: what listens, each with the log prefix under which it was opened: a connection's, or `-`.
    :ivar connections: what was accepted and is open.
    :ivar issued: the last number given out.
    :ivar on_add: called with each new connection.
    :ivar lingering: holds connections that are closed; None while no drain needs that.
    """

    def __init__(self, kind_of: Callable[[Any], tuple[type[ConnectionWatch], Any]]) -> None:
        self._kind_of = kind_of
        self.ports: dict[Any, str] = {}
        self.connections: set[Any] = set()
        self.issued = 0
        self.on_add: Callable[[Any], object] | None = None
        self.lingering: Lingering | None = None
        self._watches: dict[Any, ConnectionWatch] = {}
        self._deferreds: dict[Deferred[Any], TrackedItem] = {}
        self._waiting: dict[Any, list[Deferred[None]]] = {}

    # -- while it runs ------------------------------------------------------------------------------------

    def add(self, transport: Any) -> None:
        """A connection was accepted."""
        self.connections.add(transport)
        if self.on_add is not None:
            self.on_add(transport)

    def lost(self, transport: Any) -> None:
        """A connection is closed."""
        self.connections.discard(transport)
        self._watches.pop(transport, None)
        self._ended(transport)

    def track(self, deferred: Deferred[Any], what: str) -> None:
        """Count something until a Deferred fires."""
        self._deferreds[deferred] = self.issue(deferred, what, b"", "", monotonic())

        def fired(result: Any) -> Any:
            self._deferreds.pop(deferred, None)
            self._ended(deferred)
            return result

        deferred.addBoth(fired)

    def issue(self, connection: Any, method: str, target: bytes, peer: str, started: float) -> TrackedItem:
        """Number something that is in flight."""
        self.issued += 1
        return TrackedItem(self.issued, connection, method, target, peer, started)

    # -- for a status or a drain ---------------------------------------------------------------------------

    def watches(self) -> list[ConnectionWatch]:
        """Every connection, with what is spoken on it at this moment, and what is in flight on it."""
        for transport in list(self.connections):
            self.watch(transport)
        return list(self._watches.values())

    def watch(self, transport: Any) -> ConnectionWatch | None:
        """One of them; None if it is gone."""
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
        """What is in flight at this moment, oldest first."""
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
        """What has a number, and the connection that carries it, if one does; None if it is not in flight."""
        for watch in self.watches():
            for item in watch.items.values():
                if item.id == number:
                    return watch, item
        for item in self._deferreds.values():
            if item.id == number:
                return None, item
        return None

    def deferreds(self) -> list[tuple[Deferred[Any], TrackedItem]]:
        """What a service has asked to have counted."""
        return list(self._deferreds.items())

    # -- the wait -----------------------------------------------------------------------------------------

    def all_gone(self) -> Deferred[None]:
        """Fire when nothing that is counted is left.

        A `DeferredList` is a snapshot, and what comes after it was made would be missed: so this waits for list after
        list until there is nothing left to list.
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
