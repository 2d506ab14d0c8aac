"""Points of a process's code at which it meets a signal; `tests/apps/points` counts them in the process."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.support.clients import Connection, Failure
from tests.support.home import Home
from tests.support.server import APPLICATIONS
from tests.support.waiting import wait_for

#: The number of no point: the process only counts.
NOT_AT_ALL = 0


class Points:
    """The points that a process passes, and the one at which it gets a signal.

    :param which: the signal.
    :param number: of the point; `NOT_AT_ALL` only counts.
    :param role: which process counts, as `tests/apps/points` says; empty for the one that has the environment.
    :ivar environment: has a server count, once :meth:`begin` was called.
    """

    def __init__(self, home: Home, which: signal.Signals, number: int, role: str = "") -> None:
        self._file = home.path / "points"
        self._hit = Path(f"{self._file}.hit")
        for path in (self._file, self._hit):
            path.unlink(missing_ok=True)
        self.environment = {
            "POINT": f"{which.value} {number} {self._file} {role}".rstrip(),
            "PYTHONPATH": f"{APPLICATIONS / 'points'}:{APPLICATIONS}",
        }

    def begin(self) -> None:
        """Count from now on."""
        self._file.touch()

    def passed(self) -> list[str]:
        """Returns the points that were passed, a line each."""
        return self._file.read_text().splitlines()

    def came(self, is_over: Callable[[], bool], within: float) -> bool:
        """Wait until a process has come to the point, or all is over.  Returns whether it has.

        :param within: seconds.
        """
        wait_for(lambda: self._hit.exists() or is_over(), within)
        came = self._hit.exists()
        self._hit.touch()  # else it would be in the stop
        return came


def spread(count: int, index: int, of: int) -> int:
    """Returns the number of one of some points that are spread evenly.

    :param count: how many points there are.
    :param index: of the one that is wanted, from 0.
    :param of: how many are wanted.
    """
    return 1 + (2 * index + 1) * count // (2 * of)


def ask(clients: Iterable[Connection]) -> Counter[int | str]:
    """Ask once on each connection.  Returns how many have answered, by process, or else how it ended."""
    found: Counter[int | str] = Counter()
    for client in clients:
        try:
            found[int(client.get("/pid").body)] += 1
        except Failure as failure:
            found[failure.outcome] += 1
    return found
