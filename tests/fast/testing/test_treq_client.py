"""The treq client for the server of one test, over connections in memory."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any, cast
from unittest.mock import patch

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectingCancelledError, ConnectionDone
from twisted.internet.interfaces import IHostResolution, IReactorPluggableNameResolver
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseNeverReceived
from zope.interface import implementer

from graceful.testing.server import LiveServer
from graceful.testing.treq_client import TreqClient
from graceful.testing.trial import DeferredServer

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Wire(StringTransport):
    """A connection in memory, which ends when the client aborts or closes it.

    :ivar protocol: the client's side.
    """

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        protocol.makeConnection(self)

    def lose(self) -> None:
        """Break the connection off."""
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def abortConnection(self) -> None:
        """End it at the client's wish."""
        if not self.disconnecting:
            self.disconnecting = True
            self.lose()

    def loseConnection(self) -> None:
        """End it at the client's wish."""
        self.abortConnection()


@implementer(IHostResolution)
class Addresses:
    """Resolves addresses to themselves, which the reactor in memory does not before Twisted 24.10."""

    name = "127.0.0.1"

    def cancel(self) -> None:
        """It is done at once."""

    def resolveHostName(self, receiver: Any, name: str, portNumber: int = 0, *ignored: Any, **more: Any) -> Addresses:
        """Resolve an address."""
        receiver.resolutionBegan(self)
        receiver.addressResolved(IPv4Address("TCP", name, portNumber))
        receiver.resolutionComplete()
        return self


@implementer(IReactorPluggableNameResolver)
class Reactor(MemoryReactorClock):
    """A reactor in memory that resolves addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.nameResolver = Addresses()


class NoTreq(MetaPathFinder):
    """Finds what is installed, except treq."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Say about treq what the import system says about a package that is not installed."""
        if name == "treq":
            raise ModuleNotFoundError("No module named 'treq'", name="treq")


class TreqClientTests(SynchronousTestCase):
    """Paths, kept connections, and the end of all of them."""

    def setUp(self) -> None:
        """Have a client."""
        self.reactor = Reactor()
        self.client = TreqClient(self.reactor, lambda: "http://127.0.0.1:8080")

    def accept(self) -> Wire:
        """Accept the client's oldest connection that is not accepted yet."""
        host, port, factory, *_ = self.reactor.tcpClients.pop(0)
        self.assertEqual((host, port), ("127.0.0.1", 8080))
        return Wire(factory.buildProtocol(None))

    def test_path_is_resolved_against_the_server(self) -> None:
        """A path, in text or bytes, goes to the server, with its query and the parameters."""
        self.client.get("/a?b=1", params={"c": "2"})
        self.assertTrue(self.accept().value().startswith(b"GET /a?b=1&c=2 HTTP/1.1\r\n"))
        self.client.post(b"/d", data=b"body")
        self.assertTrue(self.accept().value().startswith(b"POST /d HTTP/1.1\r\n"))

    def test_connection_is_used_again(self) -> None:
        """The next request takes the connection that was kept."""
        first = self.client.get("/")
        wire = self.accept()
        wire.protocol.dataReceived(ANSWER)
        self.assertEqual(self.successResultOf(first).code, 200)
        wire.clear()
        self.client.get("/next")
        self.assertTrue(wire.value().startswith(b"GET /next "))
        self.assertEqual(self.reactor.tcpClients, [])

    def test_nothing_is_sent_twice(self) -> None:
        """A GET fails when the kept connection that brings it breaks; no other connection is opened for it."""
        self.client.get("/")
        wire = self.accept()
        wire.protocol.dataReceived(ANSWER)
        second = self.client.get("/")
        wire.lose()
        self.failureResultOf(second, ResponseNeverReceived)
        self.assertEqual(self.reactor.tcpClients, [])

    def test_close_ends_all_connections(self) -> None:
        """Ends those that are kept, in use, and being opened, and their timers; a request then fails at once."""
        answered, waiting, connecting = [self.client.get(path) for path in ("/a", "/b", "/c")]
        kept, used = self.accept(), self.accept()
        kept.protocol.dataReceived(ANSWER)
        self.successResultOf(answered)
        self.successResultOf(self.client.close())
        self.assertTrue(kept.disconnecting)
        self.assertTrue(used.disconnecting)
        self.failureResultOf(waiting, ResponseNeverReceived)
        self.failureResultOf(connecting, ConnectingCancelledError)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.failureResultOf(self.client.get("/"), RuntimeError)

    def test_close_without_connections(self) -> None:
        """A client that was never used is closed at once."""
        self.successResultOf(self.client.close())

    def test_missing_treq_is_said(self) -> None:
        """Where treq is not installed, one line says what to install."""
        server = DeferredServer(cast(LiveServer, None))
        modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] != "treq"}
        del modules["graceful.testing.treq_client"]
        with (
            patch.dict(sys.modules, modules, clear=True),
            patch.object(sys, "meta_path", [NoTreq(), *sys.meta_path]),
            self.assertRaises(ImportError) as raised,
        ):
            _ = server.treq
        self.assertEqual(
            str(raised.exception), "server.treq needs the package treq: pip install 'graceful-app[testing]'"
        )
