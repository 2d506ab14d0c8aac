"""One slot to work in: who works there, who comes, and what is pending for it.

Whatever is pending here (a timer, somebody who waits for a replacement) is ended here.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from graceful.process.origin import Origin
from graceful.workers.worker import WorkerProcess

#: Seconds before each attempt in a row; then the last one, again and again.
BACKOFF: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 30.0)

#: After so many failures in a row there is little hope; if nobody else serves, there is none.
HOPELESS: Final = 6

#: Seconds of serving after which the next death is the first again.
STEADY: Final = 10.0


class Backoff:
    """The failures of one slot.

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
        pause = BACKOFF[min(self.failures, len(BACKOFF) - 1)]
        self.failures += 1
        return pause

    @property
    def hopeless(self) -> bool:
        """Whether it was tried often enough."""
        return self.failures >= HOPELESS


@define(eq=False)
class Slot:
    """A slot to work in.  Reactor thread.

    :ivar number: from 1.
    :ivar release: what is to be started here next.
    :ivar worker: accepts; None while nobody does.
    :ivar coming: is being started.
    :ivar keeper: accepts from the slot's sockets while nobody does whose they are.
    :ivar backoff: between attempts.
    :ivar again: starts another one, later.
    :ivar late: ends who has not accepted by then.
    :ivar awaited: tells whoever waits for a replacement.
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

    @property
    def empty(self) -> bool:
        """Whether nobody works here, nor comes, nor will."""
        return self.worker is None and self.coming is None and self.again is None

    def not_again(self) -> None:
        """No other attempt is wanted."""
        if self.again is not None:
            self.again.cancel()
            self.again = None

    def not_late(self) -> None:
        """Who was to be in time is, or will never be."""
        if self.late is not None:
            self.late.cancel()
            self.late = None

    def answer(self, why_not: str | None) -> None:
        """Tell who waits for a replacement that it accepts, or why there is none."""
        awaited, self.awaited = self.awaited, None
        if awaited is not None:
            awaited.callback(why_not)
