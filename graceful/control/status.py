"""What control asks of an instance: its status, and what that is read from.

The control socket, the status page, the metrics and systemd all show the same status, so they cannot disagree.  A
server in one process knows it at once (:class:`graceful.server.server_status.ServerStatus`).  A supervisor has to ask
its workers (:class:`graceful.workers.fleet_status.FleetStatus`); so a fresh status may come later, and what is shown
all the time is what the workers have said last.

Everything is read in the reactor thread and is a picture of one moment.  Ages and what is left of a deadline are
seconds, since a clock may be set; only `since` and `began` are wall-clock times, for people.

A target's query is left out: it may hold a secret, such as a token, that a reader of the status must not see.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from graceful.control.health import Health
from graceful.control.totals import Totals
from graceful.drain.result import DrainResult
from graceful.drain.state import State
from graceful.sockets.backlog import Queue

if TYPE_CHECKING:
    from graceful.config.settings import Settings
    from graceful.web.queue_times import QueueTimes
    from graceful.web.site import Recorder

#: How many ended exchanges a status remembers in a drain: more than a person reads.
KEPT: Final = 100


class ExitTime(Protocol):
    """The latest time at which the process ends."""

    def latest_exit(self) -> float:
        """Returns in how many seconds the process has ended in any case; before a drain, from its beginning."""


class HasSuccessor(Protocol):
    """The part of an instance that is succeeded."""

    @property
    def successor(self) -> int:
        """The process that takes over, or has; 0 for none."""


@define(eq=False)
class StateHistory:
    """The states that an instance goes through, from its start to its end.

    :param settings: of the instance.
    :ivar takeover: knows the successor; None if there can be none, or the instance starts.
    :ivar ending: how the drain ended; None before.
    """

    settings: Settings
    takeover: HasSuccessor | None = None
    ending: DrainResult | None = None
    _state: State | None = None
    _states: list[dict[str, Any]] = field(factory=list)
    _began: float | None = None

    def __attrs_post_init__(self) -> None:
        self.enter(State.STARTING)

    def enter(self, state: State) -> None:
        """Enter a state, unless the instance is in it already."""
        if state != self._state:
            now = round(time.time(), 3)
            self._state = state
            self._states.append({"state": state, "since": now})
            if self._began is None and state.draining:
                self._began = now
                self._drain_begins()

    def end(self, ending: DrainResult) -> None:
        """Enter the last state: the drain is over.

        :param ending: how it ended.
        """
        self.ending = ending
        self.enter(State.GONE)

    def _drain_begins(self) -> None:
        """Called when the drain begins: remember what a status shows of it."""

    @property
    def state(self) -> State:
        """How far the instance is."""
        assert self._state is not None
        return self._state

    @property
    def draining(self) -> bool:
        """Whether the drain has begun."""
        return self._began is not None

    def _successor(self) -> dict[str, Any] | None:
        pid = self.takeover.successor if self.takeover is not None else 0
        return {"pid": pid} if pid else None

    def last_word(self) -> dict[str, Any]:
        """Returns how the drain ended, for the clients that wait for that."""
        ending = self.ending
        assert ending is not None
        return {
            "pid": os.getpid(),
            "state": State.GONE,
            "takeover": self._successor(),
            "exit_status": ending.exit_status,
            "seconds": round(ending.seconds, 3),
            "finished": ending.finished,
            "taken_down": ending.taken_down,
            "abandoned": ending.abandoned,
            "reports": list(ending.reports),
        }


def rotation_of(health: Health | None) -> str:
    """Returns what health says: `in`, `away` by order, or `leaving` for good."""
    if health is None:
        return "away"
    return "leaving" if health.going_down else "away" if health.away else "in"


class StatusExchange(Protocol):
    """An exchange in flight, as a status shows it (:class:`graceful.web.exchange.Exchange` says what each means)."""

    @property
    def id(self) -> int:
        """Its number."""

    @property
    def connection(self) -> Any:
        """The connection that carries it."""

    @property
    def method(self) -> str:
        """The method of its request."""

    @property
    def target(self) -> bytes:
        """The target of its request."""

    @property
    def phase(self) -> int:
        """Index into :data:`graceful.web.exchange.PHASES`."""

    @property
    def started(self) -> float:
        """When its first byte came, monotonic seconds."""

    @property
    def sent(self) -> int:
        """Bytes of the answer's body that were handed over for sending."""

    @property
    def length(self) -> int:
        """Bytes that the answer's body will have; -1 if that is not known."""

    @property
    def peer(self) -> str:
        """The client's address; empty on a Unix socket."""

    @property
    def download(self) -> bool:
        """Whether the reactor sends its answer from a file or another server."""


class StatusRegister(Protocol):
    """Connections and exchanges, as a status counts them."""

    @property
    def connections(self) -> Sized:
        """All open client connections."""

    @property
    def exchanges(self) -> Sized:
        """All exchanges in flight."""

    @property
    def finished(self) -> int:
        """How many exchanges have ended since the start."""

    def in_flight(self) -> Sequence[StatusExchange]:
        """Returns the exchanges in flight, oldest first."""


class StatusSite(Protocol):
    """What is served, as far as a status looks at it."""

    def record_first(self, recorder: Recorder) -> None:
        """From now on a recorder gets each exchange that ends, before all others."""

    @property
    def queue_times(self) -> QueueTimes | None:
        """Measures how long exchanges wait for the application; None if that is not measured."""

    @property
    def register(self) -> StatusRegister:
        """Its connections and exchanges."""

    @property
    def arrived(self) -> int:
        """How many connections have moved here from a predecessor."""

    @property
    def moved(self) -> int:
        """How many connections have moved to a successor."""


class StatusInputs(Protocol):
    """What a status is read from: the engine of an application server, or a reactor that is drained."""

    @property
    def clock(self) -> IReactorTime:
        """Monotonic time."""

    @property
    def health(self) -> Health:
        """Answers for a balancer."""

    @property
    def site(self) -> StatusSite:
        """What is served."""

    def sockets(self) -> list[tuple[str, str]]:
        """Returns the listening sockets: the name and the state of each."""

    def queues(self) -> Sequence[Queue]:
        """Returns how many clients wait in the queue of each listening socket, where the kernel tells it."""

    def working(self) -> Mapping[Any, int]:
        """Returns the thread that works for each exchange."""

    def thread_names(self) -> dict[int, str]:
        """Returns the names of the threads."""

    def threads(self) -> tuple[int, int, int]:
        """Returns how many threads are busy, how many there are, and how many exchanges wait for one."""


class StatusSource(Protocol):
    """The status of an instance.  Reactor thread."""

    @property
    def ending(self) -> DrainResult | None:
        """How the drain ended; None before."""

    @property
    def health(self) -> Health | None:
        """Answers for a balancer; None while it starts."""

    @property
    def state(self) -> State:
        """How far the instance is."""

    @property
    def draining(self) -> bool:
        """Whether the drain has begun."""

    @property
    def deadline(self) -> float | None:
        """Seconds until the next deadline; None while none runs."""

    @property
    def latest_exit(self) -> float:
        """Seconds until the process is gone in any case; before a drain, from its beginning."""

    @property
    def in_flight_count(self) -> int:
        """How many exchanges are in flight."""

    def enter(self, state: State) -> None:
        """Enter a state, unless the instance is in it already."""

    def end(self, ending: DrainResult) -> None:
        """Enter the last state: the drain is over."""

    def snapshot(self, limit: int | None = None) -> dict[str, Any]:
        """Returns the whole status as it is known, ready for JSON.

        :param limit: how many exchanges to list; None for all.
        """

    def fresh_snapshot(self, limit: int | None = None) -> dict[str, Any] | Deferred[dict[str, Any]]:
        """Returns the whole status as it is now; a supervisor has to ask its workers for it."""

    def snapshot_with_counters(self, limit: int | None = None) -> dict[str, Any] | Deferred[dict[str, Any]]:
        """Returns a fresh status with the numbers behind the metrics (`tally`), and what ended recently (`ended`)."""

    def totals(self) -> Totals:
        """Returns what was counted, as it is known."""

    def exchanges(self, limit: int | None = None) -> list[dict[str, Any]] | Deferred[list[dict[str, Any]]]:
        """Returns what is in flight now, oldest first, each with the stack of its thread."""

    def exchange(self, which: str) -> dict[str, Any] | Deferred[dict[str, Any] | None] | None:
        """Returns an exchange in flight by its id; None if it is not in flight."""

    def recently_ended(self) -> Sequence[dict[str, Any]]:
        """Returns the last exchanges that ended since the drain began, newest first."""

    def last_word(self) -> dict[str, Any]:
        """Returns how the drain ended, once it is over."""
