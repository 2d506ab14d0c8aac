"""One slot of the pool: its worker, the worker that is being started for it, and what is pending.

What is pending (a timer, a caller that waits for a replacement) is ended here.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from graceful.process.origin import Origin
from graceful.workers.worker import WorkerProcess

#: Seconds before each attempt in a row; the last one holds for all later attempts.
BACKOFF: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 30.0)

#: Failures in a row after which a slot counts as hopeless; if all are, and no worker serves, the instance stops.
HOPELESS: Final = 6

#: Seconds of serving after which the count of failures starts again.
STEADY: Final = 10.0


class Backoff:
    """The pauses between the attempts to start a worker in one slot.

    :ivar failures: how many attempts have failed in a row.
    """

    def __init__(self) -> None:
        self.failures = 0

    def after(self, served_for: float) -> float:
        """Count a failure; returns in how many seconds the next worker is to be started.

        :param served_for: seconds for which the worker that has ended had accepted.
        """
        if served_for >= STEADY:
            self.failures = 0
        pause = BACKOFF[min(self.failures, len(BACKOFF) - 1)]
        self.failures += 1
        return pause

    @property
    def hopeless(self) -> bool:
        """Whether enough attempts have failed to expect no better."""
        return self.failures >= HOPELESS


@define(eq=False)
class Slot:
    """The place of one worker in the pool.  Reactor thread.

    :ivar number: from 1.
    :ivar release: what the next worker is to run.
    :ivar worker: the worker that accepts; None while there is none.
    :ivar coming: the worker that is being started.
    :ivar keeper: the sibling that accepts from the slot's sockets while the slot has no worker.
    :ivar backoff: the pauses between attempts.
    :ivar again: the timer that starts another worker.
    :ivar late: the timer that kills `coming` unless it accepts before.
    :ivar awaited: fires when a replacement accepts, or cannot.
    :ivar removed: there are fewer workers now; what is in it comes to its end, and nothing is started.
    """

    number: int
    release: Origin
    worker: WorkerProcess | None = None
    coming: WorkerProcess | None = None
    keeper: WorkerProcess | None = None
    backoff: Backoff = field(factory=Backoff)
    again: IDelayedCall | None = None
    late: IDelayedCall | None = None
    awaited: Deferred[str | None] | None = None
    removed: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is no worker, none is being started, and no timer will start one."""
        return self.worker is None and self.coming is None and self.again is None

    def not_again(self) -> None:
        """Cancel the timer of the next attempt."""
        if self.again is not None:
            self.again.cancel()
            self.again = None

    def not_late(self) -> None:
        """Cancel the start-up time-out: the worker is accepting, or has ended."""
        if self.late is not None:
            self.late.cancel()
            self.late = None

    def answer(self, why_not: str | None) -> None:
        """Tell the caller that waits for a replacement that it accepts, or why there is none."""
        awaited, self.awaited = self.awaited, None
        if awaited is not None:
            awaited.callback(why_not)
