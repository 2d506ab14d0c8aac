"""How long an exchange may run: `--request-timeout`, and the deadline of a drain.

A limit is what the application is told (:func:`graceful.remaining`), so that it can end by itself.  Only a *margin*
later is it taken down: code that looks at the clock just before the end needs a moment to come to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from graceful.config.values import Limit

#: Seconds between a limit and the takedown: code that looks at the clock just before its end needs some to return.
MARGIN: Final = 5.0
#: The margin is at most this part of the limit: a quarter.
_SHARE: Final = 4
#: The status of an exchange that goes on as a WebSocket.
_SWITCHED: Final = 101


class Timed(Protocol):
    """What the limits ask of an exchange: its path and status, and when its time began, monotonic seconds."""

    target: bytes
    status: int
    started: float
    arrived: float


def margin(seconds: float) -> float:
    """Seconds between a limit and the takedown: 5, but for a short time a quarter of it."""
    return min(MARGIN, seconds / _SHARE)


class _LimitTable:
    """Limits by prefix: the longest that fits is the one that counts."""

    def __init__(self, limits: Iterable[Limit]) -> None:
        longest_first = sorted(limits, key=lambda limit: len(limit.prefix), reverse=True)
        self._rows = [(limit.prefix.encode("latin-1"), limit) for limit in longest_first]

    def of(self, exchange: Timed) -> Limit | None:
        """The limit of an exchange, if it has one; a WebSocket that is open is no request any more."""
        if exchange.status == _SWITCHED:
            return None
        target = exchange.target
        for prefix, limit in self._rows:
            if target.startswith(prefix):
                return limit
        return None


def _no_drain() -> float | None:
    """No drain is under way."""
    return None


class Limits:
    """The limits of a site's exchanges.  Any thread.

    :param limits: those that were asked for; of one prefix, the last counts.
    :param deadline: of a drain, seconds.
    :param takedown_at: returns when a drain takes down what is left, monotonic seconds; None before a drain.
    :ivar any: whether there are any, but for the deadline.
    """

    def __init__(
        self,
        limits: Iterable[Limit] = (),
        deadline: float = 0.0,
        takedown_at: Callable[[], float | None] = _no_drain,
    ) -> None:
        kept = {(limit.prefix, limit.report): limit for limit in limits}.values()
        self._enforced = _LimitTable(limit for limit in kept if not limit.report)
        self._tried = _LimitTable(limit for limit in kept if limit.report)
        self.any = bool(kept)
        self._margin = margin(deadline)
        self._takedown_at = takedown_at

    def until(self, exchange: Timed) -> float | None:
        """When an exchange has no more time, monotonic seconds; None if it has no limit."""
        limit = self._enforced.of(exchange)
        until = None if limit is None else (exchange.arrived or exchange.started) + limit.seconds
        drain = self._takedown_at()
        if drain is None or (until is not None and until < drain - self._margin):
            return until
        return drain - self._margin

    def passed(self, exchange: Timed, now: float) -> Limit | None:
        """The limit that an exchange has passed by its margin.  One that is only tried out comes second."""
        ran = now - (exchange.arrived or exchange.started)
        for table in (self._enforced, self._tried):
            limit = table.of(exchange)
            if limit is not None and ran >= limit.seconds + margin(limit.seconds):
                return limit
        return None
