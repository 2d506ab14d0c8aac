"""Counts exchanges that have ended, which cannot be read from the register later.

The thread that ends an exchange counts it, in rows of its own to which no other thread writes.  So there is no lock
and no lost count, and counting takes about a third of a microsecond.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from threading import get_ident
from typing import Any, Final

from graceful.web.exchange import Exchange

#: Upper bounds of the duration histogram, seconds.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

#: Classes of response statuses; `none` is for exchanges that ended before one was sent.
CLASSES: Final = ("none", "1xx", "2xx", "3xx", "4xx", "5xx", "6xx", "7xx", "8xx", "9xx")

Row = list[Any]  # how many in each bucket, and the sum of the durations at the end


class Counters:
    """Counts exchanges that have ended; a :class:`graceful.web.site.Recorder`.

    :ivar waits: counts how long they have waited before.
    """

    def __init__(self) -> None:
        # By thread: a row for each class of status, and the bytes of downloads.  Each is written by its thread alone.
        self._rows: dict[int, tuple[list[Row], list[int]]] = {}
        self.waits = WaitCounters()

    def before(self, record: Callable[[Exchange], object] | None) -> Callable[[Exchange], None]:
        """Returns a function that counts an exchange that is over, and then calls `record`.  Any thread calls it."""
        rows_of = self._rows

        # A closure, since this runs for every request: it looks up no attribute of ours.
        def counted(exchange: Exchange) -> None:
            mine = rows_of.get(get_ident())
            if mine is None:
                mine = rows_of[get_ident()] = [_empty() for _ in CLASSES], [0]
            took = exchange.ended - exchange.started
            row = mine[0][exchange.status // 100]
            row[bisect_left(BOUNDS, took)] += 1
            row[-1] += took
            if exchange.download:
                mine[1][0] += exchange.sent
            if record is not None:
                record(exchange)

        return counted

    def sums(self) -> list[Row]:
        """Returns a row for each class of statuses, summed over all threads."""
        return _summed([_empty() for _ in CLASSES], [rows for rows, _ in list(self._rows.values())])

    def downloaded(self) -> int:
        """Returns how many bytes were sent by downloads that have ended."""
        return sum(count[0] for _, count in list(self._rows.values()))


#: Where an exchange has waited for the application: in the queue here, or in a proxy before this server.
PLACES: Final = ("server", "proxy")


class WaitCounters:
    """Counts how long exchanges have waited for the application."""

    def __init__(self) -> None:
        self._rows: dict[int, list[Row]] = {}  # by thread: a row for each place; each is written by its thread alone

    def count(self, waited: float, before: float | None) -> None:
        """Count an exchange; any thread.

        :param waited: seconds here.
        :param before: seconds in a proxy; None if they are not known.
        """
        mine = self._rows.get(get_ident())
        if mine is None:
            mine = self._rows[get_ident()] = [_empty() for _ in PLACES]
        for row, seconds in zip(mine, (waited, before), strict=True):
            if seconds is not None:
                row[bisect_left(BOUNDS, seconds)] += 1
                row[-1] += seconds

    def sums(self) -> list[Row]:
        """Returns a row for each place, summed over all threads."""
        return _summed([_empty() for _ in PLACES], list(self._rows.values()))


def _empty() -> Row:
    return [0] * (len(BOUNDS) + 1) + [0.0]


def _summed(total: list[Row], added: list[list[Row]]) -> list[Row]:
    for rows in added:
        for sums, row in zip(total, rows, strict=True):
            for index, value in enumerate(list(row)):
                sums[index] += value
    return total
