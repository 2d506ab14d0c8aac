"""`AppServer` as a service among others, with a fake endpoint."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import endpoints
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from graceful.config.settings import Settings
from graceful.server import instance
from graceful.server.app_server import AppServer
from graceful.sockets.binding import BindError


class Endpoint:
    """An endpoint and its port in one."""

    def __init__(self) -> None:
        self.factory: Any = None
        self.answer: Deferred[Any] = succeed(self)
        self.listening = False

    def listen(self, factory: object) -> Deferred[Any]:
        """Listen, or return the prepared answer."""
        self.factory = factory
        self.listening = True
        return self.answer

    def getHost(self) -> IPv4Address:
        """Returns the address."""
        return IPv4Address("TCP", "127.0.0.1", 8443)

    def stopListening(self) -> None:
        """Stop."""
        self.listening = False


class EmbeddingTests(SynchronousTestCase):
    """Before the reactor runs."""

    def setUp(self) -> None:
        """Make every endpoint string lead to the fake endpoint."""
        self.endpoint = Endpoint()
        self.patch(endpoints, "serverFromString", lambda reactor, text: self.endpoint)
        settings = Settings(listen=("ssl:8443", "tcp:0:interface=127.0.0.1"))
        self.server = AppServer(Resource(), settings, reactor=cast(Any, object()))
        self.addCleanup(self.server.stopService)

    def test_plugin_endpoint_listens_while_privileged(self) -> None:
        """Endpoints of plugins listen before privileges are shed: port and key may be for root only."""
        self.server.privilegedStartService()
        self.assertTrue(self.endpoint.listening)
        tcp, ssl = self.server.names()
        self.assertTrue(tcp.startswith("tcp:127.0.0.1:") and not tcp.endswith(":0"), tcp)
        self.assertEqual(ssl, "ssl:127.0.0.1:8443")

    def test_refuses_connection_before_site_exists(self) -> None:
        """A client that connects before the site exists gets no connection."""
        self.server.privilegedStartService()
        self.assertIsNone(self.endpoint.factory.buildProtocol(None))

    def test_start_says_what_the_operator_should_know_about_the_interpreter(self) -> None:
        """Each caveat is a line in the log, whatever becomes of the start."""
        self.patch(instance, "caveats", lambda: ["it is too new", "it has no lock"])
        self.endpoint.answer = fail(OSError(98, "Address in use"))
        with capturedLogs() as events, self.assertRaises(BindError):
            self.server.startService()
        lines = [formatEvent(event) for event in events]
        self.assertEqual(lines[:2], ["it is too new", "it has no lock"])

    def test_start_fails_when_endpoint_cannot_listen(self) -> None:
        """An endpoint that cannot listen ends the start at once."""
        self.endpoint.answer = fail(OSError(98, "Address in use"))
        with self.assertRaisesRegex(BindError, r"cannot listen on ssl:8443: .*Address in use"):
            self.server.privilegedStartService()

    def test_closes_sockets_when_stopped_before_start(self) -> None:
        """A service that is stopped before it was started closes its sockets."""
        self.server.privilegedStartService()
        self.successResultOf(self.server.stopService())
        self.assertFalse(self.endpoint.listening)
