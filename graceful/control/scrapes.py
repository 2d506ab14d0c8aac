"""When Prometheus has read the metrics, and whether a stop waits until it has done so once more.

What is taken down at a deadline is counted in the last second of a process, and Prometheus asks every few seconds:
the alert of it would never come.  So the address of the metrics stays for its next question.  But a stop is to be
short:

- a server that Prometheus does not read waits for nothing, and neither does one that has taken nothing down;
- it waits no longer than from one question to the next, and never until the process would be ended in any case.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger(namespace="graceful")

#: Seconds between two questions of Prometheus at most, for a reader that has asked once only.
LONGEST: Final = 60.0
#: Seconds by which a question may be late.
LATE: Final = 1.0
#: Seconds that an answer has to leave the process.
ANSWERED: Final = 0.1


@define(eq=False)
class Scrapes:
    """Watches the questions for the metrics.  Reactor thread.

    :param clock: monotonic.
    """

    clock: IReactorTime
    _last: float | None = None
    _gaps: deque[float] = field(factory=lambda: deque(maxlen=2))  # two, since two readers may ask in turn
    _limit: IDelayedCall | None = None

    def seen(self) -> None:
        """Take note of a question that is answered now."""
        now = self.clock.seconds()
        if self._last is not None:
            self._gaps.append(now - self._last)
        self._last = now
        if self._limit is not None and self._limit.active():
            self._limit.reset(ANSWERED)

    def due(self) -> float | None:
        """Returns in how many seconds the next question comes at the latest; None if none is to be expected."""
        if self._last is None:
            return None
        left = self._last + max(self._gaps, default=LONGEST) + LATE - self.clock.seconds()
        return left if left > 0 else None

    def next(self, within: float) -> Deferred[None]:
        """Wait for the next question.

        :param within: seconds.
        :returns: fires when the question is answered, or is not to be expected any more.
        """
        due = self.due()
        if due is None or within <= 0:
            return succeed(None)
        seconds = min(due, within)
        log.info("the metrics stay for up to {seconds:.0f} s, until they are read once more", seconds=seconds)
        waiting: Deferred[None] = Deferred()
        self._limit = self.clock.callLater(seconds, waiting.callback, None)
        return waiting
