"""What a request must say to open a WebSocket, and what the head that opens it says."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from graceful.websocket.opening_handshake import BadHandshake, Handshake
from tests.fast.doubles import GET, Case
from tests.support.frames import ACCEPT, KEY, request

VERSION = (b"Sec-WebSocket-Version", b"13")
OWN_KEY = (b"Sec-WebSocket-Key", KEY)


def tail(keep: bool | None, date: bool, server: bool) -> str:
    """Ends a head, and says what it was asked for."""
    return f"Tail: {keep} {date} {server}\r\n\r\n"


class RequestTests(SynchronousTestCase):
    """The fields of a request."""

    def test_the_subprotocols_of_all_fields_are_read_in_order(self) -> None:
        """Subprotocols may come in one field or in several."""
        fields = [(b"sec-websocket-protocol", b"chat, superchat"), (b"Sec-WebSocket-Protocol", b",mqtt ")]
        handshake = Handshake.read([VERSION, OWN_KEY, *fields])
        self.assertEqual(handshake.subprotocols, ("chat", "superchat", "mqtt"))

    def test_another_version_gets_426_and_the_right_one(self) -> None:
        """A client of another version, or of none, is told which one is spoken here."""
        for versions in ([], [b"8"], [b"13", b"13"], [b"13, 8"]):
            fields = [(b"Sec-WebSocket-Version", version) for version in versions]
            refused = self.assertRaises(BadHandshake, Handshake.read, [OWN_KEY, *fields])
            self.assertEqual(refused.status, 426)
            self.assertIn("Sec-WebSocket-Version: 13\r\n", refused.extra)

    def test_a_key_that_is_none_gets_400(self) -> None:
        """There must be one key, of 16 bytes in base64."""
        for keys in ([], [KEY, KEY], [b""], [b"c2hvcnQ="], [KEY[:-1]], [b"*" * 24]):
            fields = [(b"Sec-WebSocket-Key", key) for key in keys]
            self.assertEqual(self.assertRaises(BadHandshake, Handshake.read, [VERSION, *fields]).status, 400)


class HeadTests(SynchronousTestCase):
    """The head that opens a WebSocket."""

    def setUp(self) -> None:
        """Read a request."""
        self.handshake = Handshake.read([VERSION, OWN_KEY])

    def test_the_head_proves_that_the_key_was_read(self) -> None:
        """The answer to the example of RFC 6455 §1.3 is the one that it names."""
        handshake = Handshake.read([VERSION, (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")])
        lines = handshake.accept(None, (), None, tail).split(b"\r\n")
        self.assertEqual(lines[0], b"HTTP/1.1 101 Switching Protocols")
        self.assertIn(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", lines)
        self.assertIn(b"Upgrade: websocket", lines)
        self.assertIn(b"Connection: Upgrade", lines)

    def test_the_head_says_what_the_application_has_chosen(self) -> None:
        """The subprotocol and the application's own fields; the protocol's fields are not its to send."""
        fields = [("Set-Cookie", "a=b"), ("Upgrade", "h2c"), ("Content-Length", "5"), ("sec-websocket-accept", "x")]
        head = self.handshake.accept("chat", fields, None, tail).decode()
        self.assertIn("Sec-WebSocket-Protocol: chat\r\n", head)
        self.assertIn("Set-Cookie: a=b\r\n", head)
        self.assertNotIn("h2c", head)
        self.assertNotIn("Content-Length", head)
        self.assertNotIn("sec-websocket-accept", head)

    def test_a_line_break_in_a_field_is_refused(self) -> None:
        """No client can have the application write a field of its own."""
        for arguments in (("a\r\nX: y", ()), (None, [("X", "a\r\nY: z")]), (None, [("X\r\nY", "z")])):
            self.assertRaises(ValueError, self.handshake.accept, *arguments, None, tail)

    def test_the_servers_date_is_left_out_where_the_application_has_its_own(self) -> None:
        """The head has one Date, and no Connection of HTTP's."""
        self.assertIn(b"Tail: None True True", self.handshake.accept(None, (), None, tail))
        self.assertIn(b"Tail: None False True", self.handshake.accept(None, [("Date", "x")], None, tail))


class UpgradeTests(Case):
    """Which requests are taken for one that asks for a WebSocket."""

    def test_only_a_get_that_says_so_asks_for_a_websocket(self) -> None:
        """Another method, version, protocol, or a body: it is an HTTP request like any other."""
        self.assertTrue(self.ask(request())[1].upgrade)
        self.assertTrue(self.ask(request().replace(b"Upgrade: websocket", b"Upgrade: h2c, WebSocket"))[1].upgrade)
        for old, new in (
            (b"GET", b"POST"),
            (b"HTTP/1.1", b"HTTP/1.0"),
            (b"Upgrade: websocket", b"Upgrade: h2c"),
            (b"Connection: Upgrade", b"Connection: keep-alive"),
            (b"Upgrade: websocket", b"Upgrade: websocket\r\nContent-Length: 1"),
        ):
            data = request().replace(old, new) + (b"x" if b"Content-Length" in new else b"")
            self.assertFalse(self.ask(data)[1].upgrade, data)
        self.assertFalse(self.ask(GET)[1].upgrade)

    def test_what_comes_behind_the_request_is_not_read_as_http_before_the_answer(self) -> None:
        """It may be a frame.  If the answer is one of HTTP's, it was the next request."""
        client, exchange = self.ask(request() + GET)
        client.send(GET)
        self.assertEqual(self.engine.in_flight, [exchange])
        self.answer(exchange, body=b"no")
        self.assertEqual(len(self.engine.asked), 2)
        self.answer(self.engine.asked[1])
        self.answer(self.engine.asked[2])
        self.assertEqual(self.bodies(client), [b"no", b"/", b"/"])

    def test_a_refused_client_sends_its_next_request(self) -> None:
        """After an answer of HTTP's the connection goes on as if nothing had been asked."""
        client, exchange = self.ask(request())
        self.answer(exchange, body=b"no")
        client.send(GET)
        self.answer(self.engine.asked[1])
        self.assertEqual(self.bodies(client), [b"no", b"/"])

    def test_the_head_names_the_key(self) -> None:
        """The tests' own answer to a key is right, too."""
        self.assertIn(ACCEPT, Handshake.read([VERSION, OWN_KEY]).accept(None, (), None, tail))
