"""Connections on Twisted's transports, as far as it does not show on the wire."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from graceful.web.connection import open_connections
from graceful.web.site import Site
from graceful.web.transport_connection import EndpointFactory
from tests.fast.doubles import Handler


@implementer(ITCPTransport)
class Transport:
    """A TCP transport that notes what is asked of it."""

    disconnecting = False

    def __init__(self) -> None:
        self.no_delay = False
        self.aborted = 0

    def getPeer(self) -> IPv4Address:
        """Return the client's address."""
        return IPv4Address("TCP", "192.0.2.1", 4321)

    def getHost(self) -> IPv4Address:
        """Return ours."""
        return IPv4Address("TCP", "192.0.2.2", 80)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Send small pieces at once, or not."""
        self.no_delay = enabled

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Take a producer."""

    def unregisterProducer(self) -> None:
        """Let it go."""

    def loseConnection(self) -> None:
        """Close, when all is sent; which takes a while."""

    def abortConnection(self) -> None:
        """Close at once."""
        self.aborted += 1


class ForeignConnectionTests(SynchronousTestCase):
    """With a transport of our own."""

    def setUp(self) -> None:
        """Connect a client."""
        self.site = Site(Handler())
        self.taken = 0
        factory = EndpointFactory()
        factory.serve(self.site, cast(Any, None), self.count)
        self.transport = Transport()
        protocol = factory.buildProtocol(None)
        assert protocol is not None
        self.protocol = protocol
        self.protocol.makeConnection(cast(Any, self.transport))

    def count(self) -> None:
        """Be told of a connection, when it is in the register."""
        self.taken += len(self.site.register.connections)

    def test_pieces_do_not_wait(self) -> None:
        """Small pieces of an answer do not wait for the client to acknowledge the ones before."""
        self.assertTrue(self.transport.no_delay)

    def test_a_listener_is_told_when_the_connection_counts(self) -> None:
        """The listener that counts connections is told when this one counts."""
        self.assertEqual(self.taken, 1)

    def test_in_the_register_until_gone(self) -> None:
        """A connection that is closed stays in the register until its transport really is."""
        (connection,) = open_connections(self.site)
        gone = connection.when_gone()
        connection.close()
        self.assertNoResult(gone)
        self.assertIn(connection, self.site.register.connections)
        self.protocol.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(gone)
        self.assertEqual(self.site.register.connections, set())

    def test_asked_a_second_time(self) -> None:
        """A connection that takes its time to close is reset when it is asked again; one that is gone is not."""
        (connection,) = open_connections(self.site)
        connection.close()
        self.assertEqual(self.transport.aborted, 0)
        connection.close()
        self.assertEqual(self.transport.aborted, 1)
        self.protocol.connectionLost(Failure(ConnectionDone()))
        connection.close()
        self.assertEqual(self.transport.aborted, 1)
