"""What is sent on a WebSocket, and what its senders are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.web.disconnected import Disconnected
from graceful.websocket.outgoing import Outgoing


class Answered:
    """An exchange whose connection does what a test wants with each piece."""

    def __init__(self) -> None:
        self.sent, self.ended = 0, 0.0
        self.connection = self
        self.steps: list[Callable[[], object]] = []
        self.pieces: list[tuple[bytes, bool]] = []

    def send(self, exchange: Any, head: bytes, data: bytes, last: bool) -> None:
        """Take a piece, then do the next step."""
        if self.steps:
            self.steps.pop(0)()
        self.pieces.append((data, last))


def gone() -> None:
    """The client does not read it."""
    raise Disconnected


class OutgoingTests(SynchronousTestCase):
    """One WebSocket that is open."""

    def setUp(self) -> None:
        """Open it."""
        self.answered: Any = Answered()
        self.outgoing = Outgoing(self.answered, lambda: 1.0)

    def test_a_message_that_was_sent_is_no_error(self) -> None:
        """Its client has got it and left before `send` returns: only the next one is refused."""
        self.answered.steps = [self.outgoing.drop, gone]
        self.outgoing.send(b"hello")
        self.assertEqual(self.answered.pieces, [(b"hello", False)])
        self.assertRaises(Disconnected, self.outgoing.send, b"again")

    def test_a_message_that_was_not_sent_is_told(self) -> None:
        """The client has left before."""
        self.answered.steps = [gone]
        self.assertRaises(Disconnected, self.outgoing.send, b"hello")
        self.assertRaises(Disconnected, self.outgoing.send, b"again")

    def test_what_others_leave_is_sent_behind_it(self) -> None:
        """Also the protocol's last bytes; what comes behind those is refused."""
        self.answered.steps = [lambda: (self.outgoing.send(b"two"), self.outgoing.queue(b"close", True, True))]
        self.outgoing.send(b"one")
        self.assertEqual(self.answered.pieces, [(b"one", False), (b"twoclose", True)])
        self.assertRaises(Disconnected, self.outgoing.send, b"three")
