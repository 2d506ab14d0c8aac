"""The status of a server that serves in this process, read from its engine and its drain."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define

from graceful._version import __version__
from graceful.control.counters import Counters
from graceful.control.status import (
    ExitTime,
    HasSuccessor,
    StateHistory,
    StatusInputs,
    rotation_of,
)
from graceful.control.totals import Totals
from graceful.drain.state import State
from graceful.process.exit import latest_exit
from graceful.process.interpreter import is_compiled
from graceful.server.ended_exchanges import EndedExchanges, path_of
from graceful.threads.stacks import stack_of
from graceful.web.exchange import PHASES, QUEUED

if TYPE_CHECKING:
    from graceful.control.health import Health
    from graceful.drain.machine import Drain


class ShutdownProgress(Protocol):
    """The part of a shutdown that a status shows."""

    @property
    def taken_down(self) -> int:
        """How many exchanges were taken down so far."""

    @property
    def abandoned(self) -> int:
        """How many threads were abandoned so far."""


@define(eq=False)
class ServerStatus(StateHistory):
    """Reads an instance's status; a :class:`graceful.control.status.StatusSource`.  Reactor thread.

    :ivar inputs, drain, progress, exit_time: None while the instance starts.
    :ivar certificates: returns what is known of the certificates of the listening sockets.
    """

    inputs: StatusInputs | None = None
    drain: Drain | None = None
    progress: ShutdownProgress | None = None
    exit_time: ExitTime | None = None
    certificates: Callable[[], list[dict[str, Any]]] = list
    _finished_before: int = 0
    _counters: Counters | None = None
    _ended: EndedExchanges | None = None  # those of the drain
    _downloaded: int = 0

    def read_from(
        self,
        inputs: StatusInputs,
        drain: Drain,
        progress: ShutdownProgress,
        exit_time: ExitTime,
        takeover: HasSuccessor | None = None,
        counters: Counters | None = None,
    ) -> None:
        """Read these from now on: the server is built.

        :param counters: count what ends; None if that is not counted.
        """
        self.inputs, self.drain, self.progress, self.exit_time = inputs, drain, progress, exit_time
        self.takeover, self._counters = takeover, counters

    def _drain_begins(self) -> None:
        if self.inputs is not None:
            self._finished_before = self.inputs.site.register.finished
            self._ended = EndedExchanges()
            self.inputs.site.record_first(self._ended)

    @property
    def health(self) -> Health | None:
        """Answers for a balancer; None while the instance starts."""
        return self.inputs.health if self.inputs is not None else None

    @property
    def in_flight_count(self) -> int:
        """How many exchanges are in flight."""
        return len(self.inputs.site.register.exchanges) if self.inputs is not None else 0

    @property
    def latest_exit(self) -> float:
        """Seconds within which the process has ended in any case; before a drain, from its beginning."""
        if self.exit_time is None:
            return latest_exit(self.settings.lame_duck, self.settings.deadline)
        return self.exit_time.latest_exit()

    @property
    def taken_down(self) -> int:
        """How many exchanges were taken down so far."""
        return self.progress.taken_down if self.progress is not None else 0

    @property
    def _abandoned(self) -> int:
        if self.ending is not None:
            return self.ending.abandoned
        return self.progress.abandoned if self.progress is not None else 0

    @property
    def deadline(self) -> float | None:
        """Seconds until the next deadline; None while none runs."""
        if (
            self.inputs is None
            or self.drain is None
            or self.state != State.FINISHING
            or self.drain.next_deadline is None
        ):
            return None
        return max(0.0, self.drain.next_deadline - self.inputs.clock.seconds())

    def in_flight(self, limit: int | None = None, stacks: bool = False) -> list[dict[str, Any]]:
        """Returns the exchanges in flight, oldest first.

        :param limit: how many at most; None for all.
        :param stacks: each with the stack of its thread.
        """
        inputs = self.inputs
        if inputs is None:
            return []
        now, working, names = inputs.clock.seconds(), inputs.working(), inputs.thread_names()
        found = []
        for exchange in islice(inputs.site.register.in_flight(), limit):
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

    def snapshot(self, limit: int | None = None) -> dict[str, Any]:
        """Returns the whole status, ready for JSON.

        :param limit: how many exchanges to list; None for all.
        """
        inputs, site = self.inputs, self.inputs.site if self.inputs is not None else None
        register = site.register if site is not None else None
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
            "sockets": [{"name": name, "state": state} for name, state in inputs.sockets()] if inputs else [],
            "certificates": self.certificates(),
            "in_flight": self.in_flight(limit),
            "in_flight_count": len(exchanges),
            "threads": dict(zip(("busy", "size", "queued"), inputs.threads() if inputs else (0, 0, 0), strict=True)),
            "connections": {"idle": max(0, connections - busy), "busy": min(busy, connections)},
            "moved": {"in": site.arrived, "out": site.moved} if site is not None else {"in": 0, "out": 0},
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
            "compiled": is_compiled(),
        }

    # -- a supervisor asks its workers for these ----------------------------------------------------------

    def fresh_snapshot(self, limit: int | None = None) -> dict[str, Any]:
        """Returns the whole status as it is now."""
        return self.snapshot(limit)

    def snapshot_with_counters(self, limit: int | None = None) -> dict[str, Any]:
        """Returns the status with the numbers behind the metrics as `tally`, and what ended recently as `ended`."""
        return {**self.snapshot(limit), "ended": list(self.recently_ended()), "tally": self._numbers()}

    def totals(self) -> Totals:
        """Returns what was counted."""
        return Totals().plus([self.snapshot_with_counters(0)])

    def exchanges(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Returns what is in flight, oldest first, each with the stack of its thread."""
        return self.in_flight(limit, stacks=True)

    def exchange(self, which: str) -> dict[str, Any] | None:
        """Returns an exchange in flight by its id; None if it is not in flight."""
        for shown in self.in_flight(stacks=True):
            if str(shown["id"]) == which:
                return shown
        return None

    def recently_ended(self) -> Sequence[dict[str, Any]]:
        """Returns the last exchanges that ended since the drain began, newest first."""
        return self._ended.rows if self._ended is not None else ()

    # -- numbers ------------------------------------------------------------------------------------------

    def _numbers(self) -> dict[str, Any]:
        """Returns the numbers of the metrics that are not in the status.

        `backlog`: the queues of the listening sockets, see :mod:`graceful.sockets.backlog`; `phases`: how many
        exchanges are in which phase; `queue_oldest`: seconds; `abandoned`: threads; `downloaded`:
        bytes; `ended`: a row for each class of status, and `waited`: one for each place (see
        :mod:`graceful.control.counters`), null if not counted.
        """
        site, counters = self.inputs.site if self.inputs is not None else None, self._counters
        measures = site is not None and site.queue_times is not None
        exchanges = site.register.in_flight() if site is not None else []
        phases, queued = dict.fromkeys(PHASES, 0), None
        total = counters.downloaded() if counters is not None else 0
        for exchange in exchanges:
            phases[PHASES[exchange.phase]] += 1
            if exchange.phase == QUEUED and queued is None:
                queued = exchange
            if exchange.download:
                total += exchange.sent
        # Never less than last time, although an exchange may end while this adds up.
        self._downloaded = max(self._downloaded, total)
        return {
            "backlog": self.inputs.queues() if self.inputs is not None else [],
            "phases": phases,
            "queue_oldest": max(0.0, time.monotonic() - queued.started) if queued is not None else 0.0,
            "abandoned": self._abandoned,
            "downloaded": self._downloaded,
            "ended": counters.sums() if counters is not None else None,
            "waited": counters.waits.sums() if counters is not None and measures else None,
        }
