"""twisted.web's connections: what is in flight on them, and how a drain ends them."""

from __future__ import annotations

from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel, Request

from graceful.reactor.tracking import AGREES_IN, ConnectionWatch, Tracker
from graceful.reactor.twisted_web import FRESH, HTTP1, IDLE_GRACE, kind_of
from graceful.web.exchange import APPLICATION, RECEIVING, SENDING
from tests.fast.reactor.doubles import Transport


class Answering(Request):
    """A request that is answered by the test."""

    def process(self) -> None:
        """Wait for the test."""


class KindTests(SynchronousTestCase):
    """Which protocol a connection speaks."""

    def test_looks_inside_wrappers(self) -> None:
        """A protocol is found inside those that are wrapped around it."""
        inner, outer = Protocol(), Protocol()
        outer.wrappedProtocol = inner  # type: ignore[attr-defined]
        self.assertEqual(kind_of(Transport(outer)), (ConnectionWatch, inner))
        channel = HTTPChannel()
        outer.wrappedProtocol = channel  # type: ignore[attr-defined]
        self.assertEqual(kind_of(Transport(outer)), (HTTP1, channel))

    def test_a_channel_taken_by_a_websocket_is_not_http(self) -> None:
        """A channel that a WebSocket has taken over no longer speaks HTTP."""
        channel = HTTPChannel()
        channel.connectionLost = lambda reason: None  # type: ignore[method-assign]
        self.assertEqual(kind_of(Transport(channel)), (ConnectionWatch, channel))


class HTTP1Tests(SynchronousTestCase):
    """A connection of HTTP/1.1 in a drain."""

    def setUp(self) -> None:
        self.tracker = Tracker(kind_of)
        self.channel = HTTPChannel()
        self.channel.requestFactory = Answering
        self.channel.timeOut = None
        self.transport = Transport(self.channel)
        self.channel.makeConnection(self.transport)
        self.tracker.add(self.transport)

    @property
    def watch(self) -> ConnectionWatch:
        watch = self.tracker.watch(self.transport)
        assert watch is not None
        return watch

    def send(self, data: bytes = b"GET /some HTTP/1.1\r\nHost: a\r\n\r\n") -> None:
        self.channel.dataReceived(data)

    def finish(self, body: bytes = b"") -> None:
        request = self.channel.requests[0]
        request.write(body)
        request.finish()

    def said_close(self) -> list[bool]:
        """For each answer so far, whether it says that it is the last."""
        return [b"connection: close" in head.lower() for head in self.transport.value().split(b"HTTP/1.1 ")[1:]]

    def test_an_exchange_counts_from_its_first_byte_to_its_last(self) -> None:
        """An exchange counts from its first byte to its last, and has one number all the time."""
        self.assertEqual(self.tracker.in_flight(), [])
        seen: list[tuple[int, int, str, bytes]] = []

        def look() -> None:
            seen.extend((item.id, item.phase, item.method, item.target) for item in self.tracker.in_flight())

        self.send(b"PO")
        look()
        self.send(b"ST /some HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
        look()
        self.send(b"x")
        look()
        self.channel.requests[0].write(b"begun")
        look()
        self.transport._tempDataLen = 5
        self.channel.requests[0].finish()
        look()
        self.assertEqual(
            seen,
            [
                (1, RECEIVING, "-", b"-"),
                (1, RECEIVING, "POST", b"/some"),
                (1, APPLICATION, "POST", b"/some"),
                (1, SENDING, "POST", b"/some"),
                (1, SENDING, "POST", b"/some"),
            ],
        )
        self.transport._tempDataLen = 0
        self.assertEqual((self.tracker.in_flight(), self.tracker.finished), ([], 1))

    def test_the_answer_under_way_is_the_last(self) -> None:
        """An answer says that it is the last if its head has not gone out; the connection is closed after it."""
        self.send()
        self.watch.begin_drain()
        self.finish()
        self.assertEqual(self.said_close(), [True])
        self.assertTrue(self.transport.disconnecting)

    def test_closes_without_a_word_once_the_head_is_out(self) -> None:
        """If the head of an answer has gone out, the connection is closed without a word."""
        self.send()
        self.channel.requests[0].write(b"begun")
        self.watch.begin_drain()
        self.channel.requests[0].finish()
        self.assertEqual(self.said_close(), [False])
        self.assertTrue(self.transport.disconnecting)

    def test_pipelined_requests_are_all_answered(self) -> None:
        """Requests that have arrived already are all answered: the last answer says close."""
        for _ in range(3):
            self.send()
        self.watch.begin_drain()
        for _ in range(3):
            self.assertFalse(self.transport.disconnecting)
            self.finish()
        self.assertEqual(self.said_close(), [False, False, True])
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual((self.tracker.in_flight(), self.tracker.finished), ([], 3))

    def test_an_idle_connection_may_send_one_last_request(self) -> None:
        """A request on an idle connection is answered, as the last one, and counted however short it is."""
        self.watch.begin_drain()
        self.send()
        self.finish()
        self.assertEqual(self.said_close(), [True])
        self.assertEqual((self.tracker.in_flight(), self.tracker.finished), ([], 1))

    def test_a_body_is_no_request(self) -> None:
        """Bytes behind a head may be its body: then no request waits behind this one."""
        self.watch.begin_drain()
        self.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        self.finish()
        self.assertEqual(self.said_close(), [True])

    def sweep(self, *moments: float, quiet: bool = False) -> None:
        for moment in moments:
            self.watch.sweep(moment, quiet)

    def test_an_idle_connection_is_kept_for_a_moment(self) -> None:
        """An idle connection is closed after `IDLE_GRACE` seconds."""
        self.watch.begin_drain()
        self.sweep(100, 100 + IDLE_GRACE - 0.1)
        self.assertFalse(self.transport.disconnecting)
        self.sweep(100 + IDLE_GRACE)
        self.assertTrue(self.transport.disconnecting)

    def test_idle_time_starts_again_after_a_request(self) -> None:
        """A request starts the idle time of a connection again."""
        self.watch.begin_drain()
        self.sweep(100)
        self.send(b"GE")
        self.sweep(200)
        self.assertFalse(self.transport.disconnecting)

    def test_unread_bytes_keep_an_idle_connection_open(self) -> None:
        """A connection is not closed while the kernel holds unread bytes: they may be a request."""
        self.watch.begin_drain()
        self.transport.readable = b"GET"
        self.sweep(100, 200)
        self.assertFalse(self.transport.disconnecting)

    def test_a_quiet_drain_gives_a_fresh_connection_a_second(self) -> None:
        """If no client sends requests any more, a connection that was just accepted has `FRESH` seconds."""
        self.watch.begin_drain()
        self.sweep(100, 100 + FRESH / 2, quiet=True)
        self.assertFalse(self.transport.disconnecting)
        self.sweep(100 + FRESH, quiet=True)
        self.assertTrue(self.transport.disconnecting)

    def test_a_quiet_drain_closes_a_used_connection_at_once(self) -> None:
        """If no client sends requests any more, a connection that has had one is closed at once."""
        self.send()
        self.finish()
        self.watch.begin_drain()
        self.sweep(100, quiet=True)
        self.assertTrue(self.transport.disconnecting)

    def test_takedown_before_the_answer_sends_503(self) -> None:
        """A client without an answer yet gets a 503; the application is told that its client has left."""
        self.send()
        gone = self.channel.requests[0].notifyFinish()
        taken = self.watch.take_down()
        self.assertEqual([item.method for item in taken], ["GET"])
        self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 503 Service Unavailable\r\n"))
        self.assertTrue(self.transport.value().endswith(b"\r\n\r\n503 Service Unavailable\n"))
        self.assertTrue(self.transport.disconnecting)
        self.failureResultOf(gone)

    def test_takedown_cuts_an_answer_that_has_begun(self) -> None:
        """An answer that has begun is cut, so that its client cannot take it for whole."""
        self.send()
        self.channel.requests[0].write(b"begun")
        self.assertEqual(len(self.watch.take_down()), 1)
        self.assertTrue(self.transport.aborted)

    def test_takedown_of_an_idle_connection_interrupts_nothing(self) -> None:
        """An idle connection is closed, and nothing is interrupted by that."""
        self.assertEqual(self.watch.take_down(), [])
        self.assertTrue(self.transport.disconnecting)
        self.assertFalse(self.transport.aborted)

    def test_closes_tls_without_the_goodbye_of_the_peer(self) -> None:
        """TLS that waits for the goodbye of its peer is closed without it, once everything is sent."""
        self.transport.protocol.disconnecting = True
        self.transport.connected = True
        self.transport.startWriting = lambda: None  # type: ignore[attr-defined]
        self.transport.stopReading = lambda: None  # type: ignore[attr-defined]
        self.transport._writeDisconnected = False  # type: ignore[attr-defined]
        self.transport._tempDataLen = 5
        self.sweep(100, 100 + AGREES_IN)
        self.transport._tempDataLen = 0
        self.sweep(200, 200 + AGREES_IN / 2)
        self.assertFalse(self.transport.disconnecting)
        self.sweep(200 + AGREES_IN)
        self.assertTrue(self.transport.disconnecting)
