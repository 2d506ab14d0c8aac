"""What an instance says of itself: the one place where its register, drain and threads become a status.

The control socket, the status page, the metrics and systemd all show what is made here, so they cannot disagree.
Everything is read in the reactor thread and is a picture of one moment.  Ages and what is left of a deadline are
seconds, since a clock may be set; only `since` and `began` are wall-clock times, for people.

A target's query is left out: it may hold what not everybody who may look at a status shall read, such as a token.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import define, field, frozen

from graceful._version import __version__
from graceful.control.tally import Tally
from graceful.exit import latest_exit
from graceful.takedown.stacks import stack_of
from graceful.web.exchange import PHASES, QUEUED, Exchange

if TYPE_CHECKING:
    from graceful.control.health import Health
    from graceful.drain import Drain
    from graceful.engine import Engine
    from graceful.settings import Settings
    from graceful.web.site import Site

LONGEST_PATH: Final = 200
KEPT: Final = 100

#: States in which nobody accepts any more.
CLOSED_SINCE: Final = ("finishing", "takedown", "gone")


@frozen
class Ending:
    """How a drain has gone.

    :ivar exit_status: the process's, or what it would be.
    :ivar seconds: how long the drain took.
    :ivar finished: exchanges that ended by themselves in it.
    :ivar taken_down: exchanges that were interrupted.
    :ivar abandoned: threads that did not end.
    :ivar reports: the ids of the reports on what was interrupted.
    """

    exit_status: int
    seconds: float
    finished: int
    taken_down: int
    abandoned: int
    reports: tuple[str, ...] = ()


class Way(Protocol):
    """What a status asks of whoever knows how far an instance is on its way out."""

    @property
    def taken_down(self) -> int:
        """How many exchanges were taken down so far."""

    def latest_exit(self) -> float:
        """In how many seconds the process is gone in any case; before a drain, from its beginning."""


@define(eq=False)
class Course:
    """The states that an instance goes through, from its start to its end.

    :ivar successor: says which process takes over, or has; 0 for none.
    :ivar ending: how it ended; None before.
    """

    settings: Settings
    successor: Callable[[], int] = lambda: 0
    ending: Ending | None = None
    _state: str = ""
    _states: list[dict[str, Any]] = field(factory=list)
    _began: float | None = None

    def __attrs_post_init__(self) -> None:
        self.enter("starting")

    def enter(self, state: str) -> None:
        """Another state begins now."""
        if state != self._state:
            now = round(time.time(), 3)
            self._state = state
            self._states.append({"state": state, "since": now})
            if self._began is None and state not in ("starting", "serving"):
                self._began = now
                self._drain_begins()

    def _drain_begins(self) -> None:
        """Take note of what is to be told of the drain."""

    @property
    def state(self) -> str:
        """`starting`, `serving`, `lame-duck`, `closing`, `finishing`, `takedown` or `gone`."""
        return self._state

    @property
    def draining(self) -> bool:
        """Whether the way out has begun."""
        return self._began is not None

    def _successor(self) -> dict[str, Any] | None:
        return {"pid": self.successor()} if self.successor() else None

    def last_word(self) -> dict[str, Any]:
        """How it ended, for those who have waited for that."""
        ending = self.ending
        assert ending is not None
        return {
            "pid": os.getpid(),
            "state": "gone",
            "takeover": self._successor(),
            "exit_status": ending.exit_status,
            "seconds": round(ending.seconds, 3),
            "finished": ending.finished,
            "taken_down": ending.taken_down,
            "abandoned": ending.abandoned,
            "reports": list(ending.reports),
        }


@define(eq=False)
class Status(Course):
    """Reads an instance's status; a :class:`graceful.control.telling.Telling`.  Reactor thread.

    :ivar engine, drain, way: None while the instance starts.
    :ivar ended: the last exchanges that ended since the drain began, newest first.
    """

    engine: Engine | None = None
    drain: Drain | None = None
    way: Way | None = None
    ended: deque[dict[str, Any]] | None = None
    _finished_before: int = 0
    _tally: Tally | None = None
    _downloaded: int = 0

    def of(self, engine: Engine, drain: Drain, way: Way) -> None:
        """The instance is put together: read these from now on."""
        self.engine, self.drain, self.way = engine, drain, way

    def count(self) -> None:
        """Count from now on what ends."""
        if self.engine is not None:
            site = self.engine.site
            self._tally = Tally(site.record)
            site.record = self._tally.record

    def _drain_begins(self) -> None:
        if self.engine is not None:
            self._finished_before = self.engine.site.register.finished
            self._remember_what_ends(self.engine.site)

    @property
    def health(self) -> Health | None:
        """Answers for a balancer; None while the instance starts."""
        return self.engine.health if self.engine is not None else None

    @property
    def in_flight_count(self) -> int:
        """How many exchanges are in flight."""
        return len(self.engine.site.register.exchanges) if self.engine is not None else 0

    @property
    def latest_exit(self) -> float:
        """In how many seconds the process is gone in any case; before a drain, from its beginning."""
        if self.way is None:
            return latest_exit(self.settings.lame_duck, self.settings.deadline)
        return self.way.latest_exit()

    @property
    def taken_down(self) -> int:
        """How many exchanges were taken down so far."""
        return self.way.taken_down if self.way is not None else 0

    @property
    def deadline(self) -> float | None:
        """Seconds until the next deadline; None while none runs."""
        if self.engine is None or self.drain is None or self.state != "finishing" or self.drain.deadline is None:
            return None
        return max(0.0, self.drain.deadline - self.engine.clock.seconds())

    def _remember_what_ends(self, site: Site) -> None:
        """From now on exchanges that end are kept for a while, for people; that costs nothing before."""
        ended = self.ended = deque(maxlen=KEPT)
        record = site.record
        clock = time.monotonic

        def remember(exchange: Exchange) -> None:
            interrupted = self._state == "takedown" and not exchange.through
            ended.appendleft(
                {
                    "id": exchange.id,
                    "method": exchange.method,
                    "path": path_of(exchange),
                    "status": exchange.status,
                    "seconds": round((exchange.ended or clock()) - exchange.started, 3),
                    "taken_down": interrupted,
                }
            )
            if record is not None:
                record(exchange)

        site.record = remember

    def in_flight(self, limit: int | None = None, stacks: bool = False) -> list[dict[str, Any]]:
        """The exchanges in flight, oldest first.

        :param limit: so many at most.
        :param stacks: each with the stack of its thread.
        """
        engine = self.engine
        if engine is None:
            return []
        now, working, names = engine.clock.seconds(), engine.working(), engine.thread_names()
        found = []
        for exchange in islice(engine.site.register.in_flight(), limit):
            thread = working.get(exchange, 0)
            shown = {
                "id": exchange.id,
                "method": exchange.method,
                "path": path_of(exchange),
                "phase": PHASES[exchange.phase],
                "age": round(now - exchange.started, 3),
                "bytes_sent": exchange.sent,
                "bytes_total": exchange.length if exchange.length >= 0 else None,
                "peer": exchange.peer or "unix",
                "thread": names.get(thread),
            }
            if stacks:
                shown["stack"] = stack_of(thread)
            found.append(shown)
        return found

    def __call__(self, limit: int | None = None) -> dict[str, Any]:
        """The whole status, as JSON can say it.

        :param limit: how many exchanges to list; None for all.
        """
        engine, register = self.engine, self.engine.site.register if self.engine is not None else None
        exchanges = register.in_flight() if register is not None else []
        busy = len({exchange.connection for exchange in exchanges})
        connections = len(register.connections) if register is not None else 0
        deadline, ending = self.deadline, self.ending
        finished = register.finished if register is not None else 0
        return {
            "pid": os.getpid(),
            "state": self.state,
            "since": self._states[-1]["since"],
            "deadline": round(deadline, 3) if deadline is not None else None,
            "sockets": [{"name": name, "state": state} for name, state in engine.sockets()] if engine else [],
            "in_flight": self.in_flight(limit),
            "in_flight_count": len(exchanges),
            "threads": dict(zip(("busy", "size", "queued"), engine.threads() if engine else (0, 0, 0), strict=True)),
            "connections": {"idle": max(0, connections - busy), "busy": min(busy, connections)},
            "finished": finished,
            "taken_down": self.taken_down,
            "latest_exit": round(self.latest_exit, 3),
            "rotation": rotation_of(self.health),
            "states": self._states,
            "drain": None
            if self._began is None
            else {"began": self._began, "finished": finished - self._finished_before},
            "takeover": self._successor(),
            "exit_status": ending.exit_status if ending is not None else None,
            "app_version": self.settings.app_version or None,
            "version": __version__,
        }

    # -- what has to be asked for, where there are workers ------------------------------------------------

    def asked(self, limit: int | None = None) -> dict[str, Any]:
        """The whole status, as it is now."""
        return self(limit)

    def picture(self, limit: int | None = None) -> dict[str, Any]:
        """The same, and the numbers behind the metrics, and what has ended."""
        return {**self(limit), "ended": list(self.recently_ended()), "tally": self._numbers()}

    def exchanges(self, limit: int | None = None) -> list[dict[str, Any]]:
        """What is in flight, oldest first, each with the stack of its thread."""
        return self.in_flight(limit, stacks=True)

    def exchange(self, which: str) -> dict[str, Any] | None:
        """One of them by its id; None if that is not in flight."""
        for shown in self.in_flight(stacks=True):
            if str(shown["id"]) == which:
                return shown
        return None

    def recently_ended(self) -> Sequence[dict[str, Any]]:
        """The last exchanges that ended since the drain began, newest first."""
        return self.ended or ()

    # -- numbers ------------------------------------------------------------------------------------------

    def _numbers(self) -> dict[str, Any]:
        """What metrics are made of beside the status.

        `phases`: how many exchanges are in which phase; `queue_oldest`: seconds; `abandoned`: threads; `downloaded`:
        bytes; `ended`: a row for each class of status (see :mod:`graceful.control.tally`), null if nobody counts.
        """
        exchanges = self.engine.site.register.in_flight() if self.engine is not None else []
        phases, queued = dict.fromkeys(PHASES, 0), None
        total = self._tally.downloaded() if self._tally is not None else 0
        for exchange in exchanges:
            phases[PHASES[exchange.phase]] += 1
            if exchange.phase == QUEUED and queued is None:
                queued = exchange
            if exchange.download:
                total += exchange.sent
        # Never less than last time, whatever ends in this moment.
        self._downloaded = max(self._downloaded, total)
        return {
            "phases": phases,
            "queue_oldest": max(0.0, time.monotonic() - queued.started) if queued is not None else 0.0,
            "abandoned": self.ending.abandoned if self.ending is not None else 0,
            "downloaded": self._downloaded,
            "ended": self._tally.sums() if self._tally is not None else None,
        }


def rotation_of(health: Health | None) -> str:
    """What health says: `in`, `away` by order, or `leaving` for good."""
    if health is None:
        return "away"
    return "leaving" if health.going_down else "away" if health.away else "in"


def path_of(exchange: Exchange) -> str:
    """The path that an exchange asks for, for people: without its query, and no longer than can be read."""
    path = exchange.target.partition(b"?")[0]
    text = path[:LONGEST_PATH].decode("latin-1").encode("unicode_escape").decode("ascii")
    return text + "…" if len(path) > LONGEST_PATH else text or "-"
