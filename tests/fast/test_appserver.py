"""`AppServer` as somebody's service: what it does when, seen from the outside, with an endpoint of our own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.internet import endpoints
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from graceful.drain import Drain
from graceful.exit import LEAVING, LastLimit, latest_exit
from graceful.service import AppServer
from graceful.settings import Settings
from graceful.sockets.binding import BindError


class Endpoint:
    """An endpoint and its port in one."""

    def __init__(self) -> None:
        self.factory: Any = None
        self.answer: Deferred[Any] = succeed(self)
        self.listening = False

    def listen(self, factory: object) -> Deferred[Any]:
        """Listen, or what else is to be answered."""
        self.factory = factory
        self.listening = True
        return self.answer

    def getHost(self) -> IPv4Address:
        """Return where."""
        return IPv4Address("TCP", "127.0.0.1", 8443)

    def stopListening(self) -> None:
        """Stop."""
        self.listening = False


class EmbeddingTests(SynchronousTestCase):
    """Before the reactor runs."""

    def setUp(self) -> None:
        """Let every endpoint string lead to ours."""
        self.endpoint = Endpoint()
        self.patch(endpoints, "serverFromString", lambda reactor, text: self.endpoint)
        settings = Settings(listen=("ssl:8443", "tcp:0:interface=127.0.0.1"))
        self.server = AppServer(Resource(), settings, reactor=cast(Any, object()))
        self.addCleanup(self.server.stopService)

    def test_listens_while_privileged(self) -> None:
        """Endpoints of plugins listen before privileges are shed: port and key may be for root only."""
        self.server.privilegedStartService()
        self.assertTrue(self.endpoint.listening)
        tcp, ssl = self.server.names()
        self.assertTrue(tcp.startswith("tcp:127.0.0.1:") and not tcp.endswith(":0"), tcp)
        self.assertEqual(ssl, "ssl:127.0.0.1:8443")

    def test_nobody_is_served_too_early(self) -> None:
        """A client that comes before there is a site gets no connection."""
        self.server.privilegedStartService()
        self.assertIsNone(self.endpoint.factory.buildProtocol(None))

    def test_cannot_listen(self) -> None:
        """An endpoint that cannot listen ends the start, there and then."""
        self.endpoint.answer = fail(OSError(98, "Address in use"))
        with self.assertRaisesRegex(BindError, r"cannot listen on ssl:8443: .*Address in use"):
            self.server.privilegedStartService()

    def test_stopped_before_it_was_started(self) -> None:
        """A service that is stopped before it was started gives its sockets back."""
        self.server.privilegedStartService()
        self.successResultOf(self.server.stopService())
        self.assertFalse(self.endpoint.listening)


class Work:
    """What is drained: nothing comes to an end by itself."""

    def __getattr__(self, name: str) -> Any:
        return lambda *ignored: Deferred()


class LastLimitTests(SynchronousTestCase):
    """The last limit of a process that is ours, whenever the time that is left changes."""

    def setUp(self) -> None:
        """Have a server that drains; time is the test's."""
        self.clock = Clock()
        self.clock.advance(1000)
        self.armed: list[float] = []
        system: Any = SimpleNamespace(
            monotonic=self.clock.seconds,
            setitimer=lambda which, seconds: self.armed.append(seconds),
            signal=lambda number, action: None,
            start_thread=lambda function, arguments: None,
        )
        settings = Settings(deadline=200, lame_duck=10, download_deadline=3600)
        process: Any = SimpleNamespace(limit=LastLimit(system=system))
        self.server = AppServer(Resource(), settings, process=process)
        self.in_flight: list[Any] = []
        register = SimpleNamespace(in_flight=lambda: self.in_flight)
        self.server._engine = cast(Any, SimpleNamespace(site=SimpleNamespace(register=register)))
        self.server._drain = Drain(self.clock, cast(Any, Work()), 200, 3600, 10)

    def test_stop(self) -> None:
        """An order to stop arms it, with the deadline that came with the order."""
        self.assertEqual(self.server.latest_exit(), latest_exit(10, 200))
        self.server.stop_within(False, 50)
        self.assertEqual(self.server.latest_exit(), latest_exit(10, 50))
        self.clock.advance(5)
        self.assertEqual(self.server.latest_exit(), latest_exit(10, 50) - 5)
        self.assertEqual(len(self.armed), 1)

    def test_extend(self) -> None:
        """Another deadline moves it, to and fro; before a drain there is nothing to move."""
        self.server.extend(5)
        self.assertEqual(self.armed, [])
        self.server.stop_within(False, None)
        self.clock.advance(4)
        self.server.extend(100)
        self.assertEqual(self.server.latest_exit(), latest_exit(6, 305))
        self.server.extend(-200)
        self.assertEqual(self.server.latest_exit(), latest_exit(6, 105))
        self.assertEqual(len(self.armed), 3)

    def test_a_late_download(self) -> None:
        """An answer that turns out to be a download in the middle of a drain is not cut by the old limit."""
        self.server.stop_within(False, None)
        self.server.renew_limit()
        self.assertEqual(len(self.armed), 1)
        self.in_flight.append(SimpleNamespace(download=True))
        self.server.renew_limit()
        self.assertEqual(self.server.latest_exit(), latest_exit(10, 3600))
        self.in_flight.clear()
        self.clock.advance(LEAVING)
        self.server.renew_limit()
        self.assertEqual(len(self.armed), 2)
