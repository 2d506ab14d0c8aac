"""Orders, and the last limit that moves with them."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from graceful.drain.machine import Drain
from graceful.process.exit import EXIT_SECONDS, LastLimit, latest_exit
from graceful.server.drain_limit import DrainLimit
from graceful.server.server_orders import ServerOrders
from graceful.workers.fleet_orders import BEYOND, FleetOrders
from graceful.workers.worker import WorkerState


class Work:
    """Work that never ends by itself."""

    def __getattr__(self, name: str) -> Any:
        return lambda *ignored: Deferred()


class LastLimitTests(SynchronousTestCase):
    """The last limit of a process that the server owns moves whenever the time left changes."""

    def setUp(self) -> None:
        """Make an instance with a fake clock."""
        self.clock = Clock()
        self.clock.advance(1000)
        self.armed: list[float] = []
        system: Any = SimpleNamespace(
            monotonic=self.clock.seconds,
            setitimer=lambda which, seconds: self.armed.append(seconds),
            signal=lambda number, action: None,
            start_thread=lambda function, arguments: None,
        )
        self.in_flight: list[Any] = []
        register: Any = SimpleNamespace(in_flight=lambda: self.in_flight)
        self.drain = Drain(self.clock, cast(Any, Work()), 200, 3600, 10)
        self.limit = DrainLimit(register, self.drain, LastLimit(system=system))
        nothing = cast(Any, None)
        self.orders = ServerOrders(nothing, self.drain, nothing, self.limit, None, None)

    def test_stop_arms_limit_with_its_deadline(self) -> None:
        """An order to stop arms the limit, with the deadline that came with the order."""
        self.assertEqual(self.limit.latest_exit(), latest_exit(10, 200))
        self.orders.stop(False, 50)
        self.assertEqual(self.limit.latest_exit(), latest_exit(10, 50))
        self.clock.advance(5)
        self.assertEqual(self.limit.latest_exit(), latest_exit(10, 50) - 5)
        self.assertEqual(len(self.armed), 1)

    def test_extend_moves_armed_limit(self) -> None:
        """Another deadline moves the limit, later or earlier; before a drain there is no limit to move."""
        self.orders.extend(5)
        self.assertEqual(self.armed, [])
        self.orders.stop(False, None)
        self.clock.advance(4)
        self.orders.extend(100)
        self.assertEqual(self.limit.latest_exit(), latest_exit(6, 305))
        self.orders.extend(-200)
        self.assertEqual(self.limit.latest_exit(), latest_exit(6, 105))
        self.assertEqual(len(self.armed), 3)

    def test_late_download_moves_limit(self) -> None:
        """An answer that becomes a download in the middle of a drain is not cut by the old limit."""
        self.orders.stop(False, None)
        self.orders.renew_limit()
        self.assertEqual(len(self.armed), 1)
        self.in_flight.append(SimpleNamespace(download=True))
        self.orders.renew_limit()
        self.assertEqual(self.limit.latest_exit(), latest_exit(10, 3600))
        self.in_flight.clear()
        self.clock.advance(EXIT_SECONDS)
        self.orders.renew_limit()
        self.assertEqual(len(self.armed), 2)

    def test_second_stop_moves_limit(self) -> None:
        """A second order with another deadline moves the limit."""
        self.orders.stop(False, None)
        self.orders.stop(False, 20)
        self.assertEqual(self.limit.latest_exit(), latest_exit(10, 20))

    def test_order_that_comes_late_does_not_put_off_the_limit_of_its_signal(self) -> None:
        """A signal sets the limit; the reactor, which was busy, obeys it later, and that is no more time."""
        self.orders.arm_last_limit()
        for order in (lambda: self.orders.stop(False), self.orders.hurry):
            self.clock.advance(30)
            order()
            self.assertEqual(len(self.armed), 1)
        self.assertEqual(self.limit.latest_exit(), latest_exit(10, 200) - 60)


class FleetTests(SynchronousTestCase):
    """The last limit of a supervisor, whose workers report how long they may still run."""

    def setUp(self) -> None:
        """Begin to drain with workers that have 20 seconds."""
        self.at_most = 20.0
        self.remaining_seconds: float | None = None
        self.killed = 0
        nowhere = lambda *ignored: None  # noqa: E731
        self.fleet_drain: Any = SimpleNamespace(
            state="serving", began=None, kill=self.kill, begin=nowhere, hurry=nowhere
        )
        fleet_drain = self.fleet_drain
        test, nothing = cast(Any, self), cast(Any, None)  # the test is their status, and the limit
        self.orders = FleetOrders(
            nothing, fleet_drain, test, nothing, test, nothing, nothing, lambda: None, lambda: None
        )
        self.orders.arm_last_limit()
        fleet_drain.state, fleet_drain.began = "finishing", 0.0

    def log_missing(self) -> None:
        """Nothing is missing."""

    def arm(self, seconds: float) -> None:
        """Note the limit."""
        self.remaining_seconds = seconds

    def kill(self) -> None:
        """Count the calls."""
        self.killed += 1

    def pass_by(self, seconds: float) -> None:
        """Let time pass without news from the workers."""
        assert self.remaining_seconds is not None
        self.remaining_seconds -= seconds
        self.at_most = max(0.0, self.at_most - seconds)
        self.orders.renew_limit()

    def test_order_that_comes_late_does_not_put_off_the_limit_of_its_signal(self) -> None:
        """As with one process: what the signal has set holds."""
        self.fleet_drain.state, self.fleet_drain.began = "serving", None
        self.remaining_seconds = 5.0
        self.orders.stop(False)
        self.orders.hurry()
        self.assertEqual(self.remaining_seconds, 5.0)

    def test_more_time_moves_limit(self) -> None:
        """Workers with more time than expected move the limit."""
        self.at_most = 100.0
        self.orders.renew_limit()
        self.assertEqual((self.remaining_seconds, self.killed), (100.0 + BEYOND, 0))

    def test_no_time_keeps_limit_and_kills_workers(self) -> None:
        """Workers without time left do not move the limit, and are killed just before it."""
        for _ in range(20 + int(BEYOND - EXIT_SECONDS)):
            self.pass_by(1.0)
        self.assertEqual((self.remaining_seconds, self.killed), (EXIT_SECONDS, 0))
        self.pass_by(0.5)
        self.assertEqual((self.remaining_seconds, self.killed), (EXIT_SECONDS - 0.5, 1))


class LogTests(SynchronousTestCase):
    """A server that serves has the others open their logs again; one that drains is one of the others."""

    def setUp(self) -> None:
        """Count how often the order is passed on."""
        self.passed_on = 0

    def pass_on(self) -> None:
        """Count."""
        self.passed_on += 1

    def test_server_passes_a_rotation_on_unless_it_drains(self) -> None:
        """Two servers that drain would signal each other without end."""
        nothing = cast(Any, None)
        engine, drain = cast(Any, SimpleNamespace(access_log=None)), Drain(Clock(), cast(Any, Work()), 200, 3600, 10)
        orders = ServerOrders(engine, drain, nothing, nothing, None, None, logs_reopened=self.pass_on)
        orders.reopen_logs()
        self.assertEqual(self.passed_on, 1)
        drain.begin(False)
        orders.reopen_logs()
        self.assertEqual(self.passed_on, 1)

    def test_supervisor_passes_a_rotation_on_unless_it_drains(self) -> None:
        """Its workers get theirs in both cases."""
        signals: list[int] = []
        worker = SimpleNamespace(state=WorkerState.SERVING, send_signal=signals.append)
        pool: Any = SimpleNamespace(workers=lambda: [worker])
        fleet_drain: Any = SimpleNamespace(began=None)
        nothing = cast(Any, None)
        orders = FleetOrders(
            pool, fleet_drain, nothing, nothing, nothing, nothing, nothing, lambda: None, logs_reopened=self.pass_on
        )
        orders.reopen_logs()
        fleet_drain.began = 1.0
        orders.reopen_logs()
        self.assertEqual(self.passed_on, 1)
        self.assertEqual(signals, [signal.SIGUSR1] * 2)
