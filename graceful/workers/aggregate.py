"""The statuses of several workers put together: sums, the largest, the oldest first.

Workers may be of another version than their supervisor, which outlives them when the next release is rolled out.  So
what one does not say counts as nothing, and what cannot be added to the others' is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import add
from typing import Any, Final

from attrs import define, evolve

from graceful.control.counters import BOUNDS, CLASSES

Picture = dict[str, Any]  # what a worker says of itself, as JSON has said it

#: The lengths of the rows of a histogram: a worker of a version with others is left out of the sums.
_SHAPE: Final = [len(BOUNDS) + 2] * len(CLASSES)
#: States of a listening socket; of several workers the last one in this order counts.
_RANK: Final = ("closed", "paused", "open")


@define
class Totals:
    """Everything that is counted, and only grows.

    :ivar finished, taken_down: exchanges.
    :ivar drained: those that have finished since a drain began.
    :ivar abandoned: threads.
    :ivar downloaded: bytes.
    :ivar ended: rows as in :mod:`graceful.control.counters`; None if nobody has counted.
    """

    finished: int = 0
    taken_down: int = 0
    drained: int = 0
    abandoned: int = 0
    downloaded: int = 0
    ended: list[list[float]] | None = None

    def plus(self, pictures: Iterable[Picture]) -> Totals:
        """These, and what more workers have counted."""
        total = evolve(self)
        for picture in pictures:
            total._add(picture)
        return total

    def _add(self, picture: Picture) -> None:
        tally = picture.get("tally") or {}
        self.finished += picture.get("finished", 0)
        self.taken_down += picture.get("taken_down", 0)
        self.drained += (picture.get("drain") or {}).get("finished", 0)
        self.abandoned += tally.get("abandoned", 0)
        self.downloaded += tally.get("downloaded", 0)
        rows: list[list[float]] | None = tally.get("ended")
        if rows is not None and [len(row) for row in rows] == _SHAPE:
            before = self.ended or [[0] * size for size in _SHAPE]
            self.ended = [list(map(add, old, new)) for old, new in zip(before, rows, strict=True)]


def named(pid: int, exchange: dict[str, Any]) -> dict[str, Any]:
    """An exchange by an id that no other worker's has: their numbers are the same."""
    return {**exchange, "id": f"{pid}-{exchange['id']}", "worker": pid}


def merged(exchanges: Iterable[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """The oldest first.

    :param limit: how many at most.
    """
    return sorted(exchanges, key=lambda exchange: exchange["age"], reverse=True)[:limit]


def sums(pictures: Iterable[Picture], key: str, parts: tuple[str, ...]) -> dict[str, int]:
    """What is told in parts, each of them added up."""
    found = [picture.get(key) or {} for picture in pictures]
    return {part: sum(one.get(part, 0) for one in found) for part in parts}


def phases(tallies: Iterable[dict[str, Any]], known: Iterable[str]) -> dict[str, int]:
    """How many exchanges are in which phase."""
    counts = dict.fromkeys(known, 0)
    for tally in tallies:
        for phase, count in tally.get("phases", {}).items():
            counts[phase] = counts.get(phase, 0) + count
    return counts


def sockets(pictures: Iterable[Picture], seen: Iterable[str]) -> dict[str, str]:
    """The states of listening sockets by name: open if any worker accepts there.

    :param seen: names that were there before; those that no worker has any more are closed.
    """
    found = dict.fromkeys(seen, "closed")
    for picture in pictures:
        for socket in picture.get("sockets", ()):
            states = (found.get(socket["name"], "closed"), socket["state"])
            found[socket["name"]] = max(states, key=lambda state: _RANK.index(state) if state in _RANK else 0)
    return found
