"""How long a request waits before the application gets it: in the queue here, and in a proxy before this server.

The time in the queue is what tells that a site needs more processes; the number in the queue does not.  A proxy that
queues says in X-Request-Start when it got the request; only a trusted one is believed, since every client can write
the field.  There is no standard for it, so each of the forms in use is read:

========================== ========================================================================
`t=1771491234.567`         seconds: nginx's `t=${msec}`
`t=1771491234567890`       microseconds: HAProxy's `t=%[date()]%[date_us()]`, also without leading zeros
`1771491234567`            milliseconds: Heroku, and HAProxy's `%[date(0,ms)]`
========================== ========================================================================

A request that has waited longer than `--max-wait` is answered with 503: its client has given up, and work for it
would only have the others wait longer.

Nothing here is called unless the log, the metrics or `--max-wait` need it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from time import monotonic, time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from graceful.config.settings import Settings
    from graceful.web.exchange import Exchange

#: Whole seconds since 1970 have ten digits until 2286; digits behind them, with a point or without, are a fraction.
_START: Final = re.compile(rb"(?:t=)?([0-9]{10})(?:\.([0-9]{1,9})|([0-9]{1,9}))?\Z")

#: Digits behind the seconds that are a number of milliseconds, or nanoseconds; with others it is of microseconds.
_UNITS: Final = {3: 1e3, 9: 1e9}

#: Seconds beyond which a time in a proxy is a mistake.
LONGEST: Final = 86_400.0


class QueueTimes:
    """Measures, and refuses what has waited for too long.

    :param max_wait: seconds that a request may wait; None for any time.
    :param wall: returns seconds since the epoch.
    :param count: called with the seconds that a request has waited here and, if that is known, before; any
        thread.
    """

    def __init__(
        self,
        max_wait: float | None = None,
        wall: Callable[[], float] = time,
        count: Callable[[float, float | None], object] | None = None,
    ) -> None:
        self.max_wait = max_wait
        self._wall = wall
        self._count = count if count is not None else _count_nothing

    @classmethod
    def needed(
        cls, settings: Settings, count: Callable[[float, float | None], object] | None = None
    ) -> QueueTimes | None:
        """Returns what measures, if anything is to be done with the times; else None."""
        logged = settings.access_log is not None and settings.logs_queue_times
        if settings.max_wait is None and not settings.status_listen and not logged:
            return None
        return cls(settings.max_wait, count=count)

    def before(self, handle: Callable[[Exchange], object]) -> Callable[[Exchange], None]:
        """Returns a handler that notes when an exchange's turn has come, and then calls `handle`."""

        def entered(exchange: Exchange) -> None:
            exchange.entered = now = monotonic()
            if exchange.connection.trusted:
                for name, value in exchange.headers:
                    if len(name) == 15 and name.lower() == b"x-request-start":
                        started = start_of(value)
                        if started is not None:
                            # What came after the first byte is no time of the proxy's.
                            seconds = self._wall() - started - (now - exchange.started)
                            if seconds <= LONGEST:
                                exchange.waited_before = max(0.0, seconds)
            handle(exchange)

        return entered

    def runs(self, run: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
        """Returns a function that a thread calls with an exchange: it measures, and then calls `run`."""

        def begins(exchange: Exchange) -> None:
            if not self.refuses(exchange):
                run(exchange)

        return begins

    def refuses(self, exchange: Exchange) -> bool:
        """Measure an exchange that the application is about to get; any thread.

        :returns: whether it has waited for too long: then it is answered.
        """
        entered = getattr(exchange, "entered", None)
        if entered is None:
            return False  # it has come on another way, as a parked one does whose view is called again
        now = monotonic()
        exchange.waited = now - entered
        self._count(exchange.waited, getattr(exchange, "waited_before", None))
        if not self.too_long(exchange, now):
            return False
        write_token = exchange.connection.write_token
        if write_token.current is not exchange or write_token.closed:
            return False  # its client has left: whatever runs next ends it
        exchange.connection.site.answer(exchange, 503)
        return True

    def too_long(self, exchange: Exchange, now: float) -> bool:
        """Whether an exchange that waits has waited for too long.

        :param now: monotonic seconds.
        """
        entered = getattr(exchange, "entered", None)
        if self.max_wait is None or entered is None:
            return False
        return bool(now - entered + getattr(exchange, "waited_before", 0.0) > self.max_wait)


def _count_nothing(waited: float, before: float | None) -> None:
    """Called where no metrics are served."""


def start_of(value: bytes) -> float | None:
    """Returns the seconds since the epoch that an X-Request-Start says; None if it is no time."""
    match = _START.match(value)
    if match is None:
        return None
    seconds = float(match[1])
    if match[2]:
        return seconds + float(b"0." + match[2])
    digits = match[3] or b"0"
    return seconds + int(digits) / _UNITS.get(len(digits), 1e6)
