"""What control asks of whoever knows how an instance is: the instance itself, or the supervisor of several workers.

An instance knows it at once (:class:`graceful.control.status.Status`).  A supervisor has to ask its workers
(:class:`graceful.workers.fleet_status.FleetStatus`); so what has to be true now may come later, and what is told all
the time is told from what was heard last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from graceful.control.health import Health
from graceful.control.status import Ending


class Telling(Protocol):
    """How an instance is.  Reactor thread."""

    ending: Ending | None

    @property
    def health(self) -> Health | None:
        """Answers for a balancer; None while it starts."""

    @property
    def state(self) -> str:
        """The word for it."""

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

    def enter(self, state: str) -> None:
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
