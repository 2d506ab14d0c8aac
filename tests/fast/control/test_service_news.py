"""What the service manager hears: each change once, in a drain also the time left, and signs of life in time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.control.service_news import ServiceNews
from graceful.drain.state import State


class Notifier:
    """A notifier that notes what it is to send."""

    def __init__(self, watchdog: float | None = None) -> None:
        self.watchdog = watchdog
        self.said: list[tuple[str, float | None]] = []
        self.signs = 0

    def status(self, text: str, latest_exit: float | None = None) -> None:
        self.said.append((text, latest_exit))

    def alive(self) -> None:
        self.signs += 1


class ServiceNewsTests(SynchronousTestCase):
    """An instance that serves, and then drains."""

    def setUp(self) -> None:
        """Have an instance that serves."""
        self.status: Any = SimpleNamespace(
            state=State.SERVING, draining=False, deadline=None, latest_exit=9.0, in_flight_count=2
        )

    def look(self, notifier: Notifier, seconds: int) -> None:
        """Let seconds pass, with four looks in each."""
        news = ServiceNews(notifier, self.status)  # type: ignore[arg-type]
        for quarter in range(4 * seconds):
            news.look(100 + quarter / 4)

    def test_a_status_that_does_not_change_is_told_once(self) -> None:
        """Each message costs a system call, and says nothing new."""
        notifier = Notifier()
        self.look(notifier, 3)
        self.assertEqual(notifier.said, [("serving", None)])

    def test_a_drain_is_told_each_second_with_its_time(self) -> None:
        """The service manager extends its own time by what it is told."""
        self.status.state, self.status.draining, self.status.deadline = State.FINISHING, True, 7.4
        notifier = Notifier()
        self.look(notifier, 3)
        self.assertEqual(notifier.said, [("finishing: 2 in flight, deadline in 7 s", 9.0)] * 3)

    def test_signs_of_life_come_as_often_as_the_watchdog_wants(self) -> None:
        """A watchdog that wants more than one in a second gets them, and none is sent without a watchdog."""
        for watchdog, signs in ((None, 0), (60.0, 3), (0.25, 12)):
            notifier = Notifier(watchdog)
            self.look(notifier, 3)
            self.assertEqual(notifier.signs, signs, watchdog)
