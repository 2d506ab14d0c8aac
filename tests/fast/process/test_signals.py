"""What each signal does: as little as possible in the handler, the rest in the reactor thread."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.process.signals import Signals


class Server:
    """Records the orders to a server.

    :ivar done: the orders, in order; the limit is armed in the handler itself.
    :ivar trouble: is raised when the limit is armed.
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

    def change_workers(self, by: int) -> None:
        self.done.append(f"workers {by:+}")


class SignalTests(SynchronousTestCase):
    """The handlers of the signals are called as the kernel would."""

    def setUp(self) -> None:
        """Install the handlers in a dictionary."""
        self.server = Server()
        self.terminal = False
        self.later: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self.handlers: dict[int, Any] = {}
        self.background = False
        self.suspended: list[tuple[int, Any]] = []
        self.signals = Signals(
            self.server,
            lambda function, *args: self.later.append((function, args)),
            lambda: self.terminal,
            self.handlers.__setitem__,
            lambda: self.background,
            lambda number: self.suspended.append((number, self.handlers[number])),
        )
        self.signals.install()

    def send(self, *numbers: int) -> tuple[list[str], list[str]]:
        """Send signals.  Returns the orders given in the handlers, and those given in the reactor thread."""
        self.server.done.clear()
        for number in numbers:
            self.handlers[number](number, None)
        in_handler = list(self.server.done)
        self.server.done.clear()
        while self.later:
            function, args = self.later.pop(0)
            function(*args)
        return in_handler, self.server.done

    def test_installs_handler_of_every_signal_with_a_meaning(self) -> None:
        """Every signal that has a meaning has a handler."""
        self.assertEqual(
            set(self.handlers),
            {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
            | {signal.SIGTTIN, signal.SIGTTOU},
        )

    def test_sigterm_stops_each_time(self) -> None:
        """SIGTERM stops, each time: the server knows what a second one means."""
        for _ in range(3):
            self.assertEqual(self.send(signal.SIGTERM), (["limit"], ["stop"]))

    def test_second_sigterm_logs_what_is_in_flight(self) -> None:
        """In a drain, SIGTERM and a first SIGINT log what is in flight, too, whatever order has begun it."""
        self.server.draining = True
        self.assertEqual(self.send(signal.SIGTERM), (["limit"], ["say", "stop"]))
        self.assertEqual(self.send(signal.SIGINT), (["limit"], ["say", "stop quietly"]))

    def test_gives_order_although_last_limit_fails(self) -> None:
        """The order is given even if the last limit cannot be armed."""
        self.server.trouble = RuntimeError("can't start new thread")
        for number, order in ((signal.SIGTERM, "stop"), (signal.SIGINT, "stop quietly"), (signal.SIGQUIT, "hurry")):
            with self.assertRaises(RuntimeError):
                self.handlers[number](number, None)
            self.assertEqual(self.send(), ([], [order]))

    def test_second_sigint_hurries(self) -> None:
        """SIGINT stops without waiting for idle connections; again, without waiting for anything."""
        self.assertEqual(self.send(signal.SIGINT), (["limit"], ["stop quietly"]))
        for _ in range(2):
            self.assertEqual(self.send(signal.SIGINT), (["limit"], ["hurry"]))

    def test_two_sigints_at_once_stop_and_hurry(self) -> None:
        """Two SIGINTs before the reactor runs the first order mean the same."""
        self.assertEqual(self.send(signal.SIGINT, signal.SIGINT), (["limit", "limit"], ["stop quietly", "hurry"]))

    def test_sigint_after_sigterm_only_stops_quietly(self) -> None:
        """SIGINT behind a SIGTERM only ends the wait for idle connections."""
        self.send(signal.SIGTERM)
        self.assertEqual(self.send(signal.SIGINT), (["limit"], ["stop quietly"]))

    def test_sigquit_takes_down_what_is_in_flight(self) -> None:
        """SIGQUIT takes down at once what is in flight."""
        self.assertEqual(self.send(signal.SIGQUIT), (["limit"], ["hurry"]))

    def test_sigusr1_reopens_logs(self) -> None:
        """SIGUSR1 reopens the logs, and stops nothing."""
        self.assertEqual(self.send(signal.SIGUSR1), ([], ["reopen"]))

    def test_sigusr2_logs_what_is_in_flight(self) -> None:
        """SIGUSR2 logs what is in flight, and stops nothing."""
        self.assertEqual(self.send(signal.SIGUSR2), ([], ["say"]))

    def test_sigttin_and_sigttou_change_the_number_of_workers(self) -> None:
        """SIGTTIN asks for one worker more, SIGTTOU for one fewer; neither suspends."""
        self.assertEqual(self.send(signal.SIGTTIN, signal.SIGTTOU), ([], ["workers +1", "workers -1"]))
        self.assertEqual(self.suspended, [])

    def test_the_terminal_still_suspends_its_background_job(self) -> None:
        """What its terminal sends to a background job suspends it, and is no order, also the next time."""
        self.background = True
        for _ in range(2):
            self.assertEqual(self.send(signal.SIGTTOU), ([], []))
        self.assertEqual(self.suspended, [(signal.SIGTTOU, signal.SIG_DFL)] * 2)

    def test_sighup_from_closed_terminal_stops(self) -> None:
        """SIGHUP from a terminal that is closed is a SIGTERM."""
        self.terminal = True
        self.assertEqual(self.send(signal.SIGHUP), (["limit"], ["stop"]))

    def test_sighup_to_daemon_deploys(self) -> None:
        """SIGHUP to a daemon starts its successor."""
        self.assertEqual(self.send(signal.SIGHUP), ([], ["deploy"]))

    def test_stop_handlers_are_available_before_installation(self) -> None:
        """The two handlers that stop are available before the others are installed, with the same meaning."""
        for number, handler in self.signals.stoppers().items():
            self.assertEqual(handler, self.handlers[number])
        self.assertEqual(set(self.signals.stoppers()), {signal.SIGTERM, signal.SIGINT})
