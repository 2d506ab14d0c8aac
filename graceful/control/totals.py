"""What is counted, and only grows: of a process, of several together, and of those before it.

Prometheus takes a counter that goes down for a restart, and sees nothing of what was counted since it last asked.  So
what a process has counted must not end with it: a supervisor carries the totals of workers that have ended, and a
successor those of its predecessors.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import add, sub
from typing import Any, Final

from attrs import asdict, define, evolve, fields

from graceful.control.counters import BOUNDS, CLASSES, PLACES

Rows = list[list[float]]
Picture = dict[str, Any]  # what a process says of itself, as JSON has said it

#: The lengths of the rows of each histogram: what is of a version with others is left out of the sums.
_SHAPES: Final = {"ended": [len(BOUNDS) + 2] * len(CLASSES), "waited": [len(BOUNDS) + 2] * len(PLACES)}


@define
class Totals:
    """Everything that is counted, and only grows.

    :ivar finished, taken_down: exchanges.
    :ivar drained: those that have finished since a drain began.
    :ivar moved_in, moved_out: connections.
    :ivar abandoned: threads.
    :ivar downloaded: bytes.
    :ivar ended, waited: rows as in :mod:`graceful.control.counters`; None if nothing was counted.
    """

    finished: int = 0
    taken_down: int = 0
    drained: int = 0
    moved_in: int = 0
    moved_out: int = 0
    abandoned: int = 0
    downloaded: int = 0
    ended: Rows | None = None
    waited: Rows | None = None

    def plus(self, pictures: Iterable[Picture]) -> Totals:
        """Returns these, and what more processes have counted."""
        total = self
        for picture in pictures:
            total = total.added(_of(picture))
        return total

    def added(self, others: Totals) -> Totals:
        """Returns the sums of these and others."""
        sums = {name: getattr(self, name) + getattr(others, name) for name in _NUMBERS}
        ended, waited = _plus(self.ended, others.ended), _plus(self.waited, others.waited)
        return Totals(**sums, ended=ended, waited=waited)

    def since(self, before: Totals) -> Totals:
        """Returns what was counted after `before`, which these contain."""
        more = {name: max(0, getattr(self, name) - getattr(before, name)) for name in _NUMBERS}
        ended, waited = _minus(self.ended, before.ended), _minus(self.waited, before.waited)
        return Totals(**more, ended=ended, waited=waited)

    def told(self) -> dict[str, Any]:
        """Returns these, ready for JSON."""
        return asdict(self)

    @classmethod
    def read(cls, told: object) -> Totals:
        """Returns what another process has told, as far as it can be understood: it may be of another version."""
        if not isinstance(told, dict):
            return cls()
        numbers = {name: told[name] for name in _NUMBERS if _is_count(told.get(name))}
        ended, waited = (_rows(told.get(name), shape) for name, shape in _SHAPES.items())
        return cls(**numbers, ended=ended, waited=waited)


_NUMBERS: Final = [one.name for one in fields(Totals) if one.name not in _SHAPES]


def _of(picture: Picture) -> Totals:
    tally, moved = picture.get("tally") or {}, picture.get("moved") or {}
    return evolve(
        Totals(),
        finished=picture.get("finished", 0),
        taken_down=picture.get("taken_down", 0),
        drained=(picture.get("drain") or {}).get("finished", 0),
        moved_in=moved.get("in", 0),
        moved_out=moved.get("out", 0),
        abandoned=tally.get("abandoned", 0),
        downloaded=tally.get("downloaded", 0),
        ended=_rows(tally.get("ended"), _SHAPES["ended"]),
        waited=_rows(tally.get("waited"), _SHAPES["waited"]),
    )


def _plus(old: Rows | None, new: Rows | None) -> Rows | None:
    if old is None or new is None:
        return new if old is None else old
    return [list(map(add, *rows)) for rows in zip(old, new, strict=True)]


def _minus(new: Rows | None, old: Rows | None) -> Rows | None:
    if new is None or old is None:
        return new
    return [[max(0, number) for number in map(sub, *rows)] for rows in zip(new, old, strict=True)]


def _rows(rows: object, shape: list[int]) -> Rows | None:
    if not isinstance(rows, list) or [len(row) if isinstance(row, list) else 0 for row in rows] != shape:
        return None
    return rows if all(_is_count(number) for row in rows for number in row) else None


def _is_count(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < float("inf")
