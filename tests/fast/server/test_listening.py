"""The limit of connections, at which listening sockets pause."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from graceful.server.listening import ListeningSockets


class LimitTests(SynchronousTestCase):
    """A server with room for two connections."""

    def setUp(self) -> None:
        """Have a listener that notes whether it is paused."""
        self.connections: set[object] = set()
        self.draining = False
        nothing = cast(Any, None)
        self.listening = ListeningSockets(
            nothing, nothing, self.connections, 2, 1.0, lambda bound: nothing, lambda: self.draining
        )
        self.listener: Any = SimpleNamespace(
            name="tcp:0", paused=None, closed=False, pause=self.pause, resume=self.resume
        )
        self.listening.add(self.listener)

    def pause(self, why: str) -> None:
        """Note it."""
        self.listener.paused = why

    def resume(self) -> None:
        """Note it."""
        self.listener.paused = None

    def test_listeners_pause_at_the_limit_and_resume_below_it(self) -> None:
        """What exceeds the limit waits in the kernel's queue, until a connection has closed."""
        for expected in (None, "max-connections"):
            self.connections.add(object())
            self.listening.pause_at_limit()
            self.assertEqual(self.listener.paused, expected)
        self.listening.resume_below_limit()
        self.assertEqual(self.listening.sockets(), [("tcp:0", "paused")])
        self.connections.pop()
        self.listening.resume_below_limit()
        self.assertEqual(self.listening.sockets(), [("tcp:0", "open")])

    def test_no_listener_pauses_in_a_drain(self) -> None:
        """A socket that is about to be closed takes everything out of its queue."""
        self.draining = True
        self.connections.update((1, 2))
        self.listening.pause_at_limit()
        self.assertIsNone(self.listener.paused)
