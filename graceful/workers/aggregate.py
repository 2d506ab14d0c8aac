"""The statuses of several workers put together: sums, the largest, the oldest first.

Workers may be of another version than their supervisor, which outlives them when the next release is rolled out.  So
what one does not say counts as nothing, and what cannot be added to the others' is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from graceful.control.totals import Picture

#: States of a listening socket; of several workers the last one in this order counts.
_RANK: Final = ("closed", "paused", "open")


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


def certificates(pictures: Iterable[Picture]) -> list[dict[str, Any]]:
    """Each certificate once: the one that ends first, if workers have different ones."""
    found: dict[str, dict[str, Any]] = {}
    for picture in pictures:
        for one in picture.get("certificates") or ():
            other = found.get(one["file"])
            if other is None or one["ends"] < other["ends"]:
                found[one["file"]] = one
    return list(found.values())


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
