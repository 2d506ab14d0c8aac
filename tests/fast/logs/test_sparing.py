"""Lines that a stranger could have written at will."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from graceful.logs.sparing import PAUSE, SparingLog


class SparingLogTests(SynchronousTestCase):
    """How often a line is written."""

    def test_one_line_a_minute_counts_the_others(self) -> None:
        """The first is written at once; the first a minute later says how many were not."""
        events: list[str] = []
        observer = lambda event: events.append(formatEvent(event))  # noqa: E731
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        clock = Clock()
        sparing = SparingLog(clock.seconds)
        for _ in range(3):
            sparing.warn("{peer} is refused", peer="a")
        clock.advance(PAUSE)
        sparing.warn("{peer} is refused", peer="b")
        clock.advance(PAUSE)
        sparing.warn("{peer} is refused", peer="c")
        self.assertEqual(
            events, ["a is refused", "b is refused (and 2 more since the last such line)", "c is refused"]
        )
