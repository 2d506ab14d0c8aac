"""What an instance says of itself: the one place where its register, drain and threads become a status.

The control socket, the status page, the metrics and systemd all show what is made here, so they cannot disagree.
Everything is read in the reactor thread and is a picture of one moment.  Ages and what is left of a deadline are
seconds, since a clock may be set; only `since` and `began` are wall-clock times, for people.

A target's query is left out: it may hold what not everybody who may look at a status shall read, such as a token.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred

from graceful.control.health import Health
from graceful.drain import DrainResult, State

if TYPE_CHECKING:
    from graceful.config.settings import Settings
    from graceful.control.health import Health

KEPT: Final = 100


@define(eq=False)
class StateHistory:
    """The states that an instance goes through, from its start to its end.

    :ivar successor: says which process takes over, or has; 0 for none.
    :ivar ending: how it ended; None before.
    """

    settings: Settings
    successor: Callable[[], int] = lambda: 0
    ending: DrainResult | None = None
    _state: State | None = None
    _states: list[dict[str, Any]] = field(factory=list)
    _began: float | None = None

    def __attrs_post_init__(self) -> None:
        self.enter(State.STARTING)

    def enter(self, state: State) -> None:
        """Another state begins now."""
        if state != self._state:
            now = round(time.time(), 3)
            self._state = state
            self._states.append({"state": state, "since": now})
            if self._began is None and state.draining:
                self._began = now
                self._drain_begins()

    def _drain_begins(self) -> None:
        """Take note of what is to be told of the drain."""

    @property
    def state(self) -> State:
        """How far the instance is."""
        assert self._state is not None
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
    """What health says: `in`, `away` by order, or `leaving` for good."""
    if health is None:
        return "away"
    return "leaving" if health.going_down else "away" if health.away else "in"


class StatusSource(Protocol):
    """How an instance is.  Reactor thread."""

    ending: DrainResult | None

    @property
    def health(self) -> Health | None:
        """Answers for a balancer; None while it starts."""

    @property
    def state(self) -> State:
        """How far the instance is."""

    @property
    def draining(self) -> bool:
        """Whether the way out has begun."""

    @property
    def deadline(self) -> float | None:
        """Seconds until the next deadline; None while none runs."""

    @property
    def latest_exit(self) -> float:
        """In how many seconds it is gone in any case; before a drain, from its beginning."""

    @property
    def in_flight_count(self) -> int:
        """How many exchanges are in flight."""

    def enter(self, state: State) -> None:
        """Another state begins now."""

    def count(self) -> None:
        """Count from now on what ends."""

    def __call__(self, limit: int | None = None) -> dict[str, Any]:
        """The whole status, as it is known; as JSON can say it.

        :param limit: how many exchanges to list; None for all.
        """

    def asked(self, limit: int | None = None) -> dict[str, Any] | Deferred[dict[str, Any]]:
        """The same, as it is now."""

    def picture(self, limit: int | None = None) -> dict[str, Any] | Deferred[dict[str, Any]]:
        """The same, with the numbers behind the metrics as `tally`, and what has ended recently as `ended`."""

    def exchanges(self, limit: int | None = None) -> list[dict[str, Any]] | Deferred[list[dict[str, Any]]]:
        """What is in flight now, oldest first, each with the stack of its thread."""

    def exchange(self, which: str) -> dict[str, Any] | Deferred[dict[str, Any] | None] | None:
        """One of them by its id; None if that is not in flight."""

    def recently_ended(self) -> Sequence[dict[str, Any]]:
        """The last exchanges that ended since the way out began, newest first."""

    def last_word(self) -> dict[str, Any]:
        """How it ended, once `ending` is known."""
