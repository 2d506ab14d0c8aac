"""Steps that may fail."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.logs.attempt import attempt, attempt_deferred


class Trouble(Exception):
    """What a step raises."""


def step(*arguments: object) -> None:
    """Fail."""
    raise Trouble(*arguments)


class AttemptTests(SynchronousTestCase):
    """A step that fails, at once or later."""

    def test_a_failure_is_logged_with_the_name_of_the_step(self) -> None:
        """And nothing is raised."""
        with capturedLogs() as events:
            attempt(step, 1)
            self.successResultOf(attempt_deferred(step, 2))
            self.successResultOf(attempt_deferred(lambda: fail(Trouble(3))))
        self.assertEqual([event["log_failure"].value.args for event in events], [(1,), (2,), (3,)])
        self.assertIn("step failed, and what follows", formatEvent(events[0]) or "")
        self.flushLoggedErrors(Trouble)

    def test_a_step_is_waited_for(self) -> None:
        """A Deferred fires when the step is done, whatever it returns."""
        done: Deferred[int] = Deferred()
        waiting = attempt_deferred(lambda: done)
        self.assertNoResult(waiting)
        done.callback(5)
        self.assertIsNone(self.successResultOf(waiting))
