"""Log lines that a stranger could have written at will: each kind at most once a minute.

What clients do wrong is worth a line, for the operator who has just configured a proxy wrongly.  It is not worth a
line for each of a thousand connections a second, by which anyone could fill the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from twisted.logger import Logger

log = Logger(namespace="graceful")

#: Seconds between two lines of one kind.
PAUSE: Final = 60.0


class SparingLog:
    """Writes lines of one kind, the first at once, and says how many it has left out.  Reactor thread.

    :param clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._last: float | None = None
        self._unsaid = 0

    def warn(self, form: str, **values: object) -> None:
        """Write a line, unless one was written a short time ago.

        :param form: as for Twisted's logger; what it leaves out is said at its end.
        """
        now = self._clock()
        if self._last is not None and now < self._last + PAUSE:
            self._unsaid += 1
            return
        more = f" (and {self._unsaid} more since the last such line)" if self._unsaid else ""
        self._last, self._unsaid = now, 0
        log.warn(form + "{more}", more=more, **values)
