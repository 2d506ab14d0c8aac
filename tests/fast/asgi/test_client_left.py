"""What an application raises because its client has left is told from its faults."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from graceful.asgi.client_left import says_that_the_client_left
from graceful.web.disconnected import Disconnected


class WebSocketDisconnect(Exception):
    """A framework's."""


class Group(Exception):
    """What a task group raises; Python 3.10 has none of its own."""

    def __init__(self, *exceptions: BaseException) -> None:
        super().__init__("unhandled errors")
        self.exceptions = exceptions


def coming_from(error: Exception, cause: BaseException) -> Exception:
    """Returns an exception that has a cause."""
    error.__cause__ = cause
    return error


class ErrorTests(SynchronousTestCase):
    """Exceptions of applications."""

    def test_the_servers_and_the_frameworks_words_are_known(self) -> None:
        """Also as the cause of another exception, and in a group."""
        for error in (
            Disconnected("gone"),
            WebSocketDisconnect(),
            coming_from(ValueError(), Disconnected("gone")),
            Group(Disconnected("gone"), Group(WebSocketDisconnect())),
        ):
            self.assertTrue(says_that_the_client_left(error), error)

    def test_a_fault_stays_a_fault(self) -> None:
        """Also in a group with others, and in a chain that is a circle."""
        circle = ValueError()
        coming_from(circle, coming_from(KeyError(), circle))
        for error in (KeyError(), Group(), Group(Disconnected("gone"), KeyError()), circle, None):
            self.assertFalse(says_that_the_client_left(error), error)
