"""How long to wait before a worker that has ended is started again.

One that dies once is replaced at once.  One that dies as soon as it is started would be started thousands of times a
minute, with an import each time that slows down all others.  So the pauses grow, up to half a minute; and a worker
that has served for a while has earned that its next death counts as the first.
"""

from __future__ import annotations

from typing import Final

#: Seconds before each attempt in a row; then the last one, again and again.
PAUSES: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 30.0)

#: After so many failures in a row there is little hope; if nobody else serves, there is none.
HOPELESS: Final = 6

#: Seconds of serving after which the next death is the first again.
STEADY: Final = 10.0


class Pauses:
    """The failures of one place.

    :ivar failures: how many there were in a row.
    """

    def __init__(self) -> None:
        self.failures = 0

    def after(self, served_for: float) -> float:
        """A worker has ended by itself: in how many seconds the next one is to be started.

        :param served_for: seconds for which it has accepted.
        """
        if served_for >= STEADY:
            self.failures = 0
        pause = PAUSES[min(self.failures, len(PAUSES) - 1)]
        self.failures += 1
        return pause

    @property
    def hopeless(self) -> bool:
        """Whether it was tried often enough."""
        return self.failures >= HOPELESS
