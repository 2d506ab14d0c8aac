"""`AppServer` as somebody's service: what it does when, seen from the outside, with an endpoint of our own."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import endpoints
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from graceful.config.settings import Settings
from graceful.server.app_server import AppServer
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
