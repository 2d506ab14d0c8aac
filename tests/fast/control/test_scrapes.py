"""A stop waits for the next question of Prometheus, if one is to be expected, and only so long."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from graceful.control.scrapes import ANSWERED, LATE, Scrapes


class ScrapesTests(SynchronousTestCase):
    """Questions at moments of a clock."""

    def setUp(self) -> None:
        """Have a clock."""
        self.clock = Clock()
        self.scrapes = Scrapes(self.clock)

    def ask(self, *pauses: float) -> None:
        """Ask now, and after each of these pauses."""
        self.scrapes.seen()
        for pause in pauses:
            self.clock.advance(pause)
            self.scrapes.seen()

    def test_a_server_that_nothing_reads_waits_for_nothing(self) -> None:
        """Without a question before, none is waited for."""
        self.assertTrue(self.scrapes.next(9).called)

    def test_a_reader_that_has_left_is_not_waited_for(self) -> None:
        """Nor is one whose next question is overdue."""
        self.ask(5)
        self.clock.advance(5 + LATE)
        self.assertTrue(self.scrapes.next(9).called)

    def test_the_next_question_ends_the_wait(self) -> None:
        """Its answer has a moment to leave the process."""
        self.ask(5)
        waiting = self.scrapes.next(9)
        self.clock.advance(4)
        self.assertFalse(waiting.called)
        self.scrapes.seen()
        self.assertFalse(waiting.called)
        self.clock.advance(ANSWERED)
        self.assertTrue(waiting.called)

    def test_the_wait_ends_when_the_question_is_late(self) -> None:
        """The wait is as long as the time between two questions, and a second."""
        self.ask(5)
        waiting = self.scrapes.next(9)
        self.clock.advance(5.5)
        self.assertFalse(waiting.called)
        self.clock.advance(0.5)
        self.assertTrue(waiting.called)

    def test_the_limit_ends_the_wait(self) -> None:
        """Whatever is expected, the wait is over within its limit, and there is none without time."""
        self.ask(30)
        waiting = self.scrapes.next(9)
        self.clock.advance(9)
        self.assertTrue(waiting.called)
        self.assertTrue(self.scrapes.next(0).called)
        self.assertTrue(self.scrapes.next(-1).called)

    def test_two_readers_count_as_one_that_asks_more_often(self) -> None:
        """Of the last two pauses the longer one counts."""
        self.ask(1, 4, 1)
        waiting = self.scrapes.next(9)
        self.clock.advance(4)
        self.assertFalse(waiting.called)
