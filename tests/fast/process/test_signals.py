"""What each signal does: as little as possible in the handler, the rest in the reactor thread."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.process.signals import Signals


class Server:
    """What is asked of a server.

    :ivar done: what, in order; the limit is armed in the handler itself.
    :ivar trouble: what is raised when the limit is armed.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.draining = False
        self.trouble: Exception | None = None

    def arm_last_limit(self) -> None:
        self.done.append("limit")
        if self.trouble is not None:
            raise self.trouble

    def stop(self, quiet: bool) -> None:
        self.done.append("stop quietly" if quiet else "stop")

    def hurry(self) -> None:
        self.done.append("hurry")

    def reopen_logs(self) -> None:
        self.done.append("reopen")

    def deploy(self) -> None:
        self.done.append("deploy")

    def log_in_flight(self) -> None:
        self.done.append("say")


class SignalTests(SynchronousTestCase):
    """Signals, by their handlers."""

    def setUp(self) -> None:
        """Install handlers that are only written down."""
        self.server = Server()
        self.terminal = False
        self.later: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self.handlers: dict[int, Any] = {}
        self.signals = Signals(
            self.server,
            lambda function, *args: self.later.append((function, args)),
            lambda: self.terminal,
            self.handlers.__setitem__,
        )
        self.signals.install()

    def send(self, *numbers: int) -> tuple[list[str], list[str]]:
        """Send signals; what was done in the handlers, and what in the reactor thread then."""
        self.server.done.clear()
        for number in numbers:
            self.handlers[number](number, None)
        in_handler = list(self.server.done)
        self.server.done.clear()
        while self.later:
            function, args = self.later.pop(0)
            function(*args)
        return in_handler, self.server.done

    def test_all(self) -> None:
        """Every signal that has a meaning has a handler."""
        self.assertEqual(
            set(self.handlers),
            {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2},
        )

    def test_terminate(self) -> None:
        """SIGTERM stops, each time: the server knows what a second one means."""
        for _ in range(3):
            self.assertEqual(self.send(signal.SIGTERM), (["limit"], ["stop"]))

    def test_terminate_again_logs_what_is_waited_for(self) -> None:
        """In a drain, SIGTERM and a first SIGINT log what is in flight, too; whatever began the drain."""
        self.server.draining = True
        self.assertEqual(self.send(signal.SIGTERM), (["limit"], ["say", "stop"]))
        self.assertEqual(self.send(signal.SIGINT), (["limit"], ["say", "stop quietly"]))

    def test_stop_is_not_lost_when_the_limit_fails(self) -> None:
        """Whatever goes wrong with the last limit, the order is given."""
        self.server.trouble = RuntimeError("can't start new thread")
        for number, order in ((signal.SIGTERM, "stop"), (signal.SIGINT, "stop quietly"), (signal.SIGQUIT, "hurry")):
            with self.assertRaises(RuntimeError):
                self.handlers[number](number, None)
            self.assertEqual(self.send(), ([], [order]))

    def test_interrupt(self) -> None:
        """SIGINT stops without waiting for idle connections; again, without waiting for anything."""
        self.assertEqual(self.send(signal.SIGINT), (["limit"], ["stop quietly"]))
        for _ in range(2):
            self.assertEqual(self.send(signal.SIGINT), (["limit"], ["hurry"]))

    def test_interrupt_at_once(self) -> None:
        """Two that come before the reactor looks mean the same."""
        self.assertEqual(self.send(signal.SIGINT, signal.SIGINT), (["limit", "limit"], ["stop quietly", "hurry"]))

    def test_interrupt_after_terminate(self) -> None:
        """SIGINT behind a SIGTERM only ends the wait for idle connections."""
        self.send(signal.SIGTERM)
        self.assertEqual(self.send(signal.SIGINT), (["limit"], ["stop quietly"]))

    def test_quit(self) -> None:
        """SIGQUIT takes down now."""
        self.assertEqual(self.send(signal.SIGQUIT), (["limit"], ["hurry"]))

    def test_logs(self) -> None:
        """SIGUSR1 reopens the logs, and stops nothing."""
        self.assertEqual(self.send(signal.SIGUSR1), ([], ["reopen"]))

    def test_in_flight(self) -> None:
        """SIGUSR2 says what is in flight, and stops nothing."""
        self.assertEqual(self.send(signal.SIGUSR2), ([], ["say"]))

    def test_hang_up_of_a_terminal(self) -> None:
        """SIGHUP from a terminal that is closed is a SIGTERM."""
        self.terminal = True
        self.assertEqual(self.send(signal.SIGHUP), (["limit"], ["stop"]))

    def test_hang_up_of_a_daemon(self) -> None:
        """SIGHUP to a daemon has it start its successor."""
        self.assertEqual(self.send(signal.SIGHUP), ([], ["deploy"]))

    def test_stoppers(self) -> None:
        """The two that stop can be had before the others are installed, with the same meaning."""
        for number, handler in self.signals.stoppers().items():
            self.assertEqual(handler, self.handlers[number])
        self.assertEqual(set(self.signals.stoppers()), {signal.SIGTERM, signal.SIGINT})
