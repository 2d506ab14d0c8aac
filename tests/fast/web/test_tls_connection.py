"""Connections that speak TLS: what is sent and read through OpenSSL's buffers, and how they end."""

from __future__ import annotations

import random
import socket
import ssl
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from graceful.config.settings import Settings
from graceful.sockets.address import parse
from graceful.sockets.binding import BoundSocket
from graceful.tls.certificates import Certificates, CertificateStore
from graceful.web.acceptor import acceptor
from graceful.web.disconnected import Disconnected
from graceful.web.tls_connection import HANDSHAKE, SLICE
from graceful.web.write_token import NOBODY, REACTOR
from graceful.wsgi.environ import of_connection
from tests.fast.doubles import CLOSE, GET, MIB, Case, get, parse_answers, virtual_time
from tests.support.tls import Certificate

STORE = CertificateStore()
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class Client:
    """A client's socket and its session, which reads only what it is told to.

    :ivar socket: the client's end.
    :ivar got: what has come, decrypted.
    :ivar goodbye: whether the server has said TLS's goodbye.
    :ivar eof: whether its sending side is shut down.
    """

    def __init__(self, case: TLSCase, sock: socket.socket, version: ssl.TLSVersion) -> None:
        self._case = case
        self.socket = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = case.certificate.context(version)
        self.session = context.wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")
        self.got = b""
        self.goodbye = self.eof = False
        self._change: Callable[[bytes], bytes] = lambda data: data

    def mutate(self, generator: random.Random, share: float) -> None:
        """Cut or change some of what is sent from now on, at random."""

        def mutated(data: bytes) -> bytes:
            if not data or generator.random() > share:
                return data
            changed = bytearray(data)
            if generator.random() < 0.3:
                del changed[generator.randrange(len(changed)) :]
            for _ in range(generator.randrange(3)):
                if changed:
                    changed[generator.randrange(min(len(changed), 600))] = generator.choice((0, 255, 22, 23, 21, 20))
            return bytes(changed)

        self._change = mutated

    def flush(self) -> None:
        """Send what the session has to say, and let the engine work."""
        self.socket.sendall(self._change(self.outgoing.read()))
        self._case.engine.turn()

    def pull(self, size: int = MIB) -> bool:
        """Take some bytes from the kernel.  Returns whether there were any."""
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            return False
        self.eof = self.eof or not data
        self.incoming.write(data)
        return bool(data)

    def shake(self) -> Client:
        """Complete the handshake."""
        while True:
            try:
                self.session.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                if not self.pull():
                    raise ConnectionAbortedError("the server waits for more") from None
                continue
            self.flush()
            return self

    def send(self, data: bytes) -> Client:
        """Send bytes, encrypted."""
        self.session.write(data)
        self.flush()
        return self

    def take(self) -> bytes:
        """Read until nothing more comes.  Returns all that has ever come."""
        while True:
            pulled = self.pull()
            try:
                while piece := self.session.read(MIB):
                    self.got += piece
                self.goodbye = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return self.got
            self._case.engine.turn()
            if not pulled:
                return self.got


class TLSCase(Case):
    """A listener of TLS."""

    def setUp(self) -> None:
        super().setUp()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.certificate = Certificate(self.directory)

    def raw(self, more: str = "") -> socket.socket:
        """Returns a client's socket, whose other end was accepted."""
        client, there = socket.socketpair()
        self.addCleanup(client.close)
        client.setblocking(False)
        there.setblocking(False)
        listening: Any = SimpleNamespace(getsockname=lambda: ("0.0.0.0", 8443))
        address = parse(f"tls:8443:certificate={self.certificate.path}{more}")
        bound = BoundSocket("tcp:0.0.0.0:8443", listening, address=address)
        acceptor(self.engine.site, self.engine.hub, bound, CertificateStore())(there, ("192.0.2.1", 5000))
        return client

    def connect(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Client:
        """Returns a client."""
        return Client(self, self.raw(), version)

    def connection(self) -> Any:
        """Returns the only connection."""
        (connection,) = self.engine.site.register.connections
        return connection


class FullAtTheEnd:
    """A socket whose kernel is full when TLS's goodbye comes.

    :ivar refused: how often it was.
    """

    def __init__(self, sock: socket.socket, connection: Any) -> None:
        self._sock, self._connection = sock, connection
        self.refused = 0

    def send(self, data: Any) -> int:
        """Send, but not the goodbye at once."""
        if not self.refused and len(data) < 50 and self._connection.write_token.current is not None:
            self.refused += 1
            raise BlockingIOError
        return self._sock.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class ServingTests(TLSCase):
    """Requests and answers."""

    def test_requests_are_answered_one_after_another(self) -> None:
        """In both versions; the application learns of the session."""
        for version in VERSIONS:
            client = self.connect(version).shake()
            self.engine.asked.clear()
            for number in range(3):
                client.send(get(number))
                self.answer(self.engine.asked[number])
                self.assertEqual(parse_answers(client.take())[-1].body, b"/%d" % number)
            environ = of_connection({}, self.engine.asked[0].connection)
            self.assertEqual((environ["HTTPS"], environ["wsgi.url_scheme"]), ("on", "https"))
            self.assertEqual(environ["SSL_PROTOCOL"], version.name.replace("_", "."))
            self.assertEqual(environ["SSL_CLIENT_VERIFY"], "NONE")
            self.assertEqual(client.session.selected_alpn_protocol(), None)

    def test_a_torn_handshake_and_request_are_put_together(self) -> None:
        """Byte by byte, a request right behind the handshake's end."""
        client = self.connect()
        while True:
            try:
                client.session.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in client.outgoing.read():
                    client.socket.sendall(bytes([byte]))
                    self.engine.turn()
                client.pull()
        client.session.write(GET)
        for byte in client.outgoing.read():
            client.socket.sendall(bytes([byte]))
            self.engine.turn()
        self.assertEqual(len(self.engine.asked), 1)

    def test_a_slow_reader_gets_every_byte(self) -> None:
        """What the kernel does not take waits: little of it encrypted, the rest as it is."""
        body = random.Random(1).randbytes(MIB)
        client = self.connect().shake()
        client.send(GET)
        (exchange,) = self.engine.asked
        exchange.start("200 OK", [("Content-Length", str(len(body)))])
        exchange.finish(body)
        exchange.release()
        connection = self.connection()
        self.assertEqual(connection.write_token.holder, REACTOR)
        self.assertTrue(connection.stalls())
        self.assertLess(len(connection._sealed), 2 * SLICE)
        (answer,) = parse_answers(client.take())
        self.assertEqual(answer.body, body)
        self.assertEqual((connection.write_token.holder, connection.stalls()), (NOBODY, False))

    def test_the_end_of_an_answer_that_only_the_kernel_refuses_is_waited_for(self) -> None:
        """All is encrypted, and some of it is not taken: the client is timed, and the answer is not over."""
        clock = virtual_time(self)
        client = self.connect().shake()
        connection = self.connection()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.send(GET)
        (exchange,) = self.engine.asked
        exchange.start("200 OK", [])
        exchange.finish(b"x" * 16000)
        exchange.release()
        self.assertEqual((connection.write_token.held, connection.stalls()), (0, True))
        self.assertEqual(self.engine.in_flight, [exchange])
        clock.advance(Settings().send_timeout + 1)
        self.engine.sweep(clock.seconds())
        self.engine.turn()
        self.assertEqual(self.engine.open, 0)

    def test_what_only_the_kernel_refuses_is_sent_when_there_is_room(self) -> None:
        """No answer is over before it: its last bytes reach the client."""
        client = self.connect().shake()
        connection = self.connection()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.send(GET)
        (exchange,) = self.engine.asked
        exchange.start("200 OK", [("Content-Length", "16000")])
        exchange.finish(b"x" * 16000)
        exchange.release()
        self.assertTrue(connection.stalls())
        (answer,) = parse_answers(client.take())
        self.assertEqual((answer.body, connection.stalls()), (b"x" * 16000, False))

    def test_a_file_is_sent_through_the_session(self) -> None:
        """In pieces, read and encrypted, to the last byte."""
        content = random.Random(2).randbytes(MIB)
        path = self.directory / "file"
        path.write_bytes(content)
        client = self.connect().shake()
        client.send(GET)
        (exchange,) = self.engine.asked
        exchange.start("200 OK", [("Content-Length", str(len(content)))])
        connection = self.connection()
        with path.open("rb") as file:
            offset = 0

            def pull() -> bool:
                nonlocal offset
                offset += connection.push_file(file.fileno(), offset, MIB)
                if offset < len(content):
                    return True
                connection.write_token.append(exchange, [], True)
                return False

            connection.begin_pull(exchange, exchange.begin(), pull)
            self.engine.turn()
            (answer,) = parse_answers(client.take())
        self.assertEqual(answer.body, content)

    def test_a_client_that_takes_a_little_is_not_cut(self) -> None:
        """Although it does not take a whole slice in the time that it has for taking something."""
        clock = virtual_time(self)
        client = self.connect().shake()
        connection = self.connection()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.send(GET)
        (exchange,) = self.engine.asked
        exchange.start("200 OK", [("Content-Length", str(SLICE))])
        exchange.finish(b"x" * SLICE)
        exchange.release()
        sealed = len(connection._sealed)
        for _ in range(3):
            clock.advance(Settings().send_timeout - 1)
            while len(connection._sealed) == sealed:
                self.assertTrue(client.pull(2000))
                self.engine.turn()
            sealed = len(connection._sealed)
            self.assertTrue(sealed)
            self.engine.sweep(clock.seconds())
            self.assertEqual(self.engine.open, 1)

    def test_it_does_not_move(self) -> None:
        """Its keys are in the process."""
        self.connect().shake()
        self.assertFalse(self.connection().movable)


class EndTests(TLSCase):
    """How connections end."""

    def test_a_last_answer_ends_with_a_goodbye(self) -> None:
        """Then the client's own end is waited for."""
        client = self.connect().shake().send(CLOSE)
        self.answer(self.engine.asked[0])
        client.take()
        self.assertEqual((client.goodbye, client.eof), (True, True))
        self.assertEqual(self.engine.open, 1)
        client.socket.close()
        self.engine.turn()
        self.assertEqual(self.engine.open, 0)

    def test_a_goodbye_for_which_there_is_no_room_is_said_later(self) -> None:
        """The last bytes of an answer may fill the kernel, whichever thread sends them."""
        for long in (False, True):
            client = self.connect().shake()
            connection = self.connection()
            full = connection.sock = FullAtTheEnd(connection.sock, connection)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client.send(CLOSE)
            exchange = self.engine.asked.pop()
            body = b"x" * (SLICE if long else 10)
            exchange.start("200 OK", [("Content-Length", str(len(body)))])
            exchange.finish(body)
            exchange.release()
            self.assertEqual(parse_answers(client.take())[-1].body, body)
            self.assertEqual((client.goodbye, client.eof, full.refused), (True, True, 1))
            client.socket.close()
            self.engine.turn()
            self.assertEqual(self.engine.open, 0)

    def test_a_connection_that_cannot_begin_is_not_registered(self) -> None:
        """A drain would wait for it for ever."""
        self.patch(Certificates, "begin", lambda *ignored: 1 / 0)
        self.assertRaises(ZeroDivisionError, self.raw)
        self.assertEqual(len(self.engine.site.register.connections), 0)

    def test_a_slow_handshake_has_no_more_time_than_a_request(self) -> None:
        """However often a byte of it comes."""
        clock = virtual_time(self)
        client = self.raw()
        for byte in b"\x16\x03\x01\x00\xff":
            client.sendall(bytes([byte]))
            self.engine.turn()
            clock.advance(Settings().header_timeout / 4)
            self.engine.sweep(clock.seconds())
        self.assertEqual(client.recv(10), b"")

    def test_a_first_request_has_its_time_from_the_end_of_the_handshake(self) -> None:
        """Serving or in a drain: however long the handshake has taken, the request is on its way only after it."""
        clock = virtual_time(self)
        for draining, time in ((False, Settings().header_timeout), (True, Settings().idle_grace)):
            with self.subTest(draining=draining):
                client = self.connect()
                site = self.engine.site
                site.draining, site.draining_since = draining, clock.seconds()
                clock.advance(time - 1)
                client.shake()
                clock.advance(time - 1)
                self.engine.sweep(clock.seconds())
                self.assertEqual(client.take(), b"")
                self.assertFalse(client.eof)
                clock.advance(2)
                self.engine.sweep(clock.seconds())
                client.take()
                self.assertTrue(client.eof)

    def test_a_reset_has_no_goodbye(self) -> None:
        """What is cut must not look whole."""
        client = self.connect().shake().send(GET)
        (exchange,) = self.engine.asked
        exchange.start("200 OK", [])
        exchange.write(b"begun")
        exchange.connection.abort()
        self.engine.turn()
        try:
            client.take()
        except ConnectionResetError:
            pass
        self.assertFalse(client.goodbye)

    def test_half_a_close_still_gets_its_answer(self) -> None:
        """By TLS's goodbye, or by TCP's alone; an idle connection is closed, with a goodbye."""
        for said in (True, False):
            client = self.connect().shake()
            client.session.write(GET)
            if said:
                try:
                    client.session.unwrap()
                except ssl.SSLWantReadError:
                    pass
            client.flush()
            client.socket.shutdown(socket.SHUT_WR)
            self.engine.turn()
            self.answer(self.engine.asked.pop())
            client.socket.setblocking(True)
            data = b""
            while piece := client.socket.recv(MIB):
                data += piece
            self.assertTrue(data)
            self.assertEqual(self.engine.open, 0)

    def test_plain_http_is_told_so(self) -> None:
        """In plain HTTP, and the end follows."""
        client = self.raw()
        client.sendall(GET)
        self.engine.turn()
        (answer,) = parse_answers(client.recv(1000))
        self.assertEqual((answer.status, client.recv(10)), (400, b""))
        client.close()
        self.engine.turn()
        self.assertEqual((self.engine.open, self.engine.asked), (0, []))

    def test_garbage_gets_an_alert_and_the_end(self) -> None:
        """Whatever it is, and wherever in the handshake; nothing is left when the client closes or is silent."""
        clock = virtual_time(self)
        hello = self.connect()
        try:
            hello.session.do_handshake()
        except ssl.SSLWantReadError:
            pass
        good, generator = hello.outgoing.read(), random.Random(3)
        hello.socket.close()
        self.engine.turn()
        for _ in range(300):
            data = bytearray(good[: generator.randrange(1, len(good) + 1)])
            for _ in range(generator.randrange(4)):
                data[generator.randrange(len(data))] = generator.randrange(256)
            client = self.raw()
            client.sendall(data + generator.randbytes(generator.randrange(2) * 2000))
            self.engine.turn()
            if generator.random() < 0.5:
                client.close()
                self.engine.turn()
        clock.advance(Settings().header_timeout + 1)
        for _ in range(3):
            self.engine.sweep(clock.seconds())
            self.engine.turn()
            clock.advance(31)
        self.assertEqual((self.engine.open, self.engine.asked), (0, []))

    def test_no_cut_or_mutated_record_leaves_anything(self) -> None:
        """In any flight of a handshake, and behind it: the connection is served or ends, and no one else's does."""
        clock = virtual_time(self)
        generator = random.Random(4)
        good = self.connect().shake()
        for turn in range(200):
            client = self.connect(VERSIONS[turn % 2])
            client.mutate(generator, 0.6)
            try:
                client.shake().send(get(turn))
                client.send(get(turn))
            except (OSError, ValueError):
                pass  # the client has noticed
            while self.engine.asked:
                try:
                    self.answer(self.engine.asked.pop(0))
                except Disconnected:
                    pass  # another record has ended the connection
            client.socket.shutdown(socket.SHUT_WR)
            self.engine.turn()
            if generator.random() < 0.5:
                client.socket.close()
                self.engine.turn()
        good.send(GET)
        self.answer(self.engine.asked.pop())
        self.assertEqual(parse_answers(good.take())[-1].status, 200)
        good.socket.close()
        self.engine.turn()
        for _ in range(4):
            clock.advance(31)
            self.engine.sweep(clock.seconds())
            self.engine.turn()
        self.assertEqual((self.engine.open, self.engine.asked, self.flushLoggedErrors()), (0, [], []))

    def test_a_name_that_is_none_costs_nothing(self) -> None:
        """No traceback on standard error, where any client could write as many as it likes; nor the handshake."""
        unraisable: list[Any] = []
        self.patch(sys, "unraisablehook", unraisable.append)
        other = Certificate(self.directory, "other.pem", ["xxxx.example"])
        for name in (b"xxxx", b"\xff\xfe\xfd\xfc", b"...."):
            client = Client(self, self.raw(f":certificate={other.path}"), ssl.TLSVersion.TLSv1_2)
            context = self.certificate.context()
            context.check_hostname = False
            client.session = context.wrap_bio(client.incoming, client.outgoing, server_hostname="xxxx.example")
            try:
                client.session.do_handshake()
            except ssl.SSLWantReadError:
                pass
            hello = client.outgoing.read().replace(b"xxxx", name)
            for at in range(0, len(hello), 100):
                client.socket.sendall(hello[at : at + 100])
                self.engine.turn()
            self.assertEqual(client.socket.recv(100)[:1], b"\x16", name)  # its answer: no alert
        self.assertEqual(unraisable, [])

    def test_an_endless_handshake_is_bounded(self) -> None:
        """In bytes, which nothing waits for; also where a name is looked for."""
        for several in (False, True):
            self.endless(self.raw(f":certificate={self.certificate.path}" if several else ""))

    def endless(self, client: socket.socket) -> None:
        """Send a handshake that does not end."""
        record = b"\x16\x03\x01" + struct.pack(">H", 16000) + b"\x01\x00\xff\xff" + b"\0" * 15996
        try:
            for _ in range(2 * HANDSHAKE // len(record)):
                client.sendall(record)
                self.engine.turn()
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.assertTrue(self.connection().write_token.lingering)
        client.close()
        self.engine.turn()

    def test_a_mutated_record_ends_the_connection(self) -> None:
        """A session whose records do not fit is over."""
        client = self.connect().shake()
        client.session.write(GET)
        data = bytearray(client.outgoing.read())
        data[-1] ^= 1
        client.socket.sendall(data)
        self.engine.turn()
        self.assertEqual((self.engine.open, self.engine.asked), (0, []))

    def test_a_proxys_header_may_come_first(self) -> None:
        """In front of the handshake."""
        client = Client(self, self.raw(":proxy=192.0.2.0/24"), ssl.TLSVersion.TLSv1_3)
        client.socket.sendall(b"PROXY TCP4 203.0.113.7 198.51.100.9 4321 443\r\n")
        client.shake().send(GET)
        self.assertEqual([one.peer for one in self.engine.asked], ["203.0.113.7"])
        self.assertEqual(self.engine.asked[0].scheme, "https")
