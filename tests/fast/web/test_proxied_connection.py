"""Connections that begin with a header of the PROXY protocol."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace
from typing import Any

from graceful.config.settings import Settings
from graceful.sockets.address import parse
from graceful.sockets.binding import BoundSocket
from graceful.tls.certificates import CertificateStore
from graceful.web.acceptor import acceptor
from graceful.web.carrying import settled
from graceful.web.moving import MovedConnection
from graceful.wsgi.environ import of_connection
from tests.fast.doubles import GET, Case, virtual_time

LINE = b"PROXY TCP4 192.0.2.9 198.51.100.9 4321 443\r\n"
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
TLS = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
    + struct.pack(">H", 20)
    + socket.inet_aton("192.0.2.9")
    + socket.inet_aton("198.51.100.9")
    + b"\x10\xe1\x01\xbb"
    + b"\x20\0\5\1\0\0\0\0"
)


class ProxiedCase(Case):
    """A listener of balancers in 10.0.0.0/8."""

    def connect(self, peer: Any = ("10.0.0.1", 999)) -> socket.socket:
        """Returns a client's socket, whose other end was accepted."""
        client, there = socket.socketpair()
        self.addCleanup(client.close)
        client.setblocking(False)
        there.setblocking(False)
        listening: Any = SimpleNamespace(getsockname=lambda: ("0.0.0.0", 8080))
        bound = BoundSocket("tcp:0.0.0.0:8080", listening, address=parse("tcp:8080:proxy=10.0.0.0/8"))
        acceptor(self.engine.site, self.engine.hub, bound, CertificateStore())(there, peer)
        return client

    def send(self, client: socket.socket, data: bytes) -> None:
        """Send, and let the engine work."""
        client.sendall(data)
        self.engine.turn()

    def connection(self) -> Any:
        """Returns the only connection."""
        (connection,) = self.engine.site.register.connections
        return connection


class ProxiedTests(ProxiedCase):
    """What comes before the first request."""

    def test_the_client_of_the_header_is_the_peer(self) -> None:
        """It is what the application gets, and the listener's own address is kept."""
        client = self.connect()
        self.send(client, LINE + GET)
        (exchange,) = self.engine.asked
        self.assertEqual(exchange.peer, "192.0.2.9")
        connection = self.connection()
        self.assertEqual((connection.port, connection.server), (4321, ("198.51.100.9", 443)))
        self.assertEqual(connection.listener, ("0.0.0.0", 8080))
        environ = of_connection({}, connection)
        self.assertEqual((environ["REMOTE_ADDR"], environ["SERVER_PORT"]), ("192.0.2.9", "443"))

    def test_a_client_of_the_proxys_tls_speaks_https(self) -> None:
        """As mod_ssl tells it; it is known when the connection has moved, too."""
        client = self.connect()
        self.send(client, TLS + GET)
        environ = of_connection({}, self.connection())
        self.assertEqual((environ["HTTPS"], environ["wsgi.url_scheme"]), ("on", "https"))
        self.assertEqual(environ["SSL_CLIENT_VERIFY"], "NONE")
        moved = MovedConnection.read(MovedConnection.of(self.connection()).describe())
        self.assertEqual((moved.scheme, moved.facts), ("https", {"SSL_CLIENT_VERIFY": "NONE"}))
        self.assertEqual((moved.server, moved.listener), (("198.51.100.9", 443), ("0.0.0.0", 8080)))

    def test_a_torn_header_is_put_together(self) -> None:
        """Byte by byte, with the request right behind it."""
        client = self.connect()
        for byte in TLS + GET:
            self.send(client, bytes([byte]))
        self.assertEqual([exchange.peer for exchange in self.engine.asked], ["192.0.2.9"])

    def test_a_health_check_of_the_proxys_is_its_own(self) -> None:
        """Its address is the connection's; one that says nothing leaves nothing."""
        client = self.connect()
        self.send(client, LOCAL + GET)
        self.assertEqual([exchange.peer for exchange in self.engine.asked], ["10.0.0.1"])
        silent = self.connect()
        silent.close()
        self.engine.turn()
        self.assertEqual(self.engine.open, 1)

    def test_another_peer_is_refused(self) -> None:
        """Whatever it says; also on a Unix socket."""
        for peer in (("192.0.2.66", 1), ""):
            client = self.connect(peer)
            self.assertEqual((client.recv(10), self.engine.open), (b"", 0))

    def test_a_request_without_a_header_is_refused(self) -> None:
        """Its sender cannot be known."""
        client = self.connect()
        self.send(client, GET)
        self.assertEqual((self.engine.asked, self.engine.open), ([], 0))

    def test_a_header_that_does_not_come_ends_the_connection(self) -> None:
        """As a request's head that does not come."""
        clock = virtual_time(self)
        client = self.connect()
        self.send(client, LINE[:20])
        clock.advance(Settings().header_timeout + 1)
        self.engine.sweep(clock.seconds())
        self.assertEqual(self.engine.open, 0)

    def test_only_a_connection_with_its_header_moves(self) -> None:
        """No other process would wait for the rest of the header."""
        client = self.connect()
        self.send(client, LINE[:20])
        self.assertFalse(self.connection().movable and settled(self.connection()))
        self.send(client, LINE[20:])
        self.assertTrue(self.connection().movable and settled(self.connection()))
