"""Asking upstream servers that are careless, slow or hostile."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web._newclient import ResponseFailed
from twisted.web.client import ResponseDone
from twisted.web.iweb import IResponse

from graceful.downloads import upstream as module
from graceful.downloads.upstream import KEPT_SECONDS, MAX_HEAD, HeadTooLong, Upstream

LIMIT = 5.0


class Endpoint:
    """An endpoint that connects when the test says so; stands for `HostnameEndpoint`.

    :ivar made: those that were asked to connect, in order.
    """

    made: list[Endpoint]

    def __init__(self, reactor: Any, host: Any, port: int, timeout: float) -> None:
        self.host, self.port = host, port
        self.cancelled = False
        self.connecting: Deferred[Any] = Deferred(self._cancel)

    def _cancel(self, ignored: object) -> None:
        self.cancelled = True

    def connect(self, factory: Any) -> Deferred[Any]:
        self.factory = factory
        self.made.append(self)
        return self.connecting

    def connected(self) -> Transport:
        """Connect."""
        protocol = self.factory.buildProtocol(None)
        transport = Transport(protocol)
        protocol.makeConnection(transport)
        self.connecting.callback(protocol)
        return transport


class Transport(StringTransport):
    """The connection to the upstream server.

    :ivar aborted: whether it was closed at once.
    """

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        self.aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def answer(self, data: bytes) -> None:
        """The server sends."""
        self.protocol.dataReceived(data)

    def lost(self) -> None:
        """The server closes."""
        self.protocol.connectionLost(Failure(ConnectionDone()))


class BodyReceiver(Protocol):
    """Takes a body."""

    def __init__(self) -> None:
        self.data = b""
        self.reason: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Any = None) -> None:
        self.reason = reason


class Case(SynchronousTestCase):
    """Upstream servers, and a clock."""

    def setUp(self) -> None:
        """Have no network."""
        self.clock = Clock()
        Endpoint.made = []
        self.patch(module, "HostnameEndpoint", Endpoint)
        self.upstream = Upstream(self.clock, self.clock, LIMIT)

    def ask(self, *fields: tuple[str, str], method: str = "GET", url: str = "http://h:81/x?y") -> Deferred[IResponse]:
        """Ask."""
        return self.upstream.ask(method, url, fields)

    def asked(self, method: str = "GET") -> tuple[Deferred[IResponse], Transport]:
        """Ask, on a new connection."""
        asking = self.ask(method=method)
        return asking, Endpoint.made[-1].connected()

    def answered(self, data: bytes, method: str = "GET") -> tuple[Any, Transport]:
        """Return the response to these bytes of a server."""
        asking, transport = self.asked(method)
        transport.answer(data)
        return self.successResultOf(asking), transport

    def reason(self, asking: Deferred[IResponse]) -> BaseException:
        """Why there is no answer."""
        failure = self.failureResultOf(asking)
        assert isinstance(failure.value, ResponseFailed), failure
        reason: BaseException = failure.value.reasons[0].value
        return reason


class AskTests(Case):
    """Upstreams that answer well."""

    def test_sends_the_request_as_given(self) -> None:
        """The request is sent as it is told, with the host, and nothing of ours but that."""
        self.ask(("range", "bytes=0-9"), ("accept-encoding", "identity"))
        self.assertEqual((Endpoint.made[0].host, Endpoint.made[0].port), (b"h", 81))
        lines = Endpoint.made[0].connected().value().split(b"\r\n")
        self.assertEqual(lines[0], b"GET /x?y HTTP/1.1")
        self.assertEqual(
            {line.lower() for line in lines[1:] if line},
            {b"host: h:81", b"range: bytes=0-9", b"accept-encoding: identity"},
        )

    def test_keeps_connection_of_a_whole_answer(self) -> None:
        """A connection whose answer is whole is used again, also for HEAD, and closed when it is idle too long."""
        transport: Any = None
        for number in range(3):
            asking = self.ask(method="HEAD" if number == 1 else "GET")
            if transport is None:
                transport = Endpoint.made[0].connected()
            transport.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + (b"" if number == 1 else b"abc"))
            response: Any = self.successResultOf(asking)
            body = BodyReceiver()
            response.deliverBody(body)
            self.assertEqual(body.data, b"" if number == 1 else b"abc")
            self.assertTrue(body.reason.check(ResponseDone))
        self.assertEqual(len(Endpoint.made), 1)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(KEPT_SECONDS)
        self.assertTrue(transport.disconnecting)

    def test_stop_closes_idle_connections(self) -> None:
        """`stop` closes idle connections and leaves no timer."""
        _, transport = self.answered(b"HTTP/1.1 204 No Content\r\n\r\n")
        self.upstream.stop()
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_bad_url_raises(self) -> None:
        """An invalid URL raises an error, and no server is asked."""
        self.assertRaises(ValueError, self.ask, url="http://h/\xe4")
        self.assertRaises(ValueError, self.ask, url="http://h/a b")
        self.assertEqual(Endpoint.made, [])


class ConnectTests(Case):
    """Connecting."""

    def test_connecting_times_out(self) -> None:
        """Connecting fails after the time-out."""
        asking = self.ask()
        self.clock.advance(LIMIT - 0.1)
        self.assertNoResult(asking)
        self.clock.advance(0.1)
        self.assertIn("does not connect within 5 s", str(self.failureResultOf(asking, TimeoutError).value))
        self.assertTrue(Endpoint.made[0].cancelled)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_timer_is_left_after_connecting(self) -> None:
        """After connecting no timer is left."""
        asking, _ = self.asked()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(LIMIT * 10)
        self.assertNoResult(asking)

    def test_refusal_is_passed_on(self) -> None:
        """A server that refuses is told as it is."""
        asking = self.ask()
        Endpoint.made[0].connecting.errback(Failure(ConnectionRefusedError()))
        self.failureResultOf(asking, ConnectionRefusedError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelling_ends_the_attempt(self) -> None:
        """Cancelling ends the attempt, and its timer."""
        asking = self.ask()
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.assertTrue(Endpoint.made[0].cancelled)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class HeadTests(Case):
    """The head of an answer."""

    def test_endless_head_is_given_up(self) -> None:
        """A head without an end is given up after a while: many fields, one field, many interim answers."""
        for begin, more in (
            (b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 1000 + b"\r\n"),
            (b"HTTP/1.1 200 OK\r\nX-A: a\r\n", b" " + b"a" * 1000 + b"\r\n"),
            (b"", b"HTTP/1.1 100 Continue\r\nX-A: " + b"a" * 1000 + b"\r\n\r\n"),
        ):
            asking, transport = self.asked()
            transport.answer(begin)
            sent = 0
            while not (transport.disconnecting or transport.aborted):
                transport.answer(more)
                sent += len(more)
                self.assertLess(sent, MAX_HEAD + 2000)
            self.assertGreater(sent, MAX_HEAD - 2000)
            reason = self.reason(asking)
            self.assertIsInstance(reason, HeadTooLong)
            self.assertIn("longer than 131072 bytes", str(reason))
            self.assertTrue(transport.disconnecting)
            transport.answer(more)  # what was on its way already
            transport.lost()

    def test_endless_line_is_given_up(self) -> None:
        """A line without an end is, too."""
        asking, transport = self.asked()
        for _ in range(200):
            if not transport.aborted and not transport.disconnecting:
                transport.answer(b"a" * 1000)
        transport.aborted or transport.lost()
        self.failureResultOf(asking, ResponseFailed)

    def test_counts_each_head_alone(self) -> None:
        """Bodies do not count, and each head is counted alone."""
        asking, transport = self.asked()
        for _ in range(20):
            transport.answer(b"HTTP/1.1 200 OK\r\nX-A: %b\r\nContent-Length: 300000\r\n\r\n" % (b"a" * 10_000))
            response: Any = self.successResultOf(asking)
            response.deliverBody(BodyReceiver())
            for _ in range(10):
                transport.answer(b"x" * 30_000)
            asking = self.ask()
        self.assertEqual(len(Endpoint.made), 1)

    def test_nonsense_is_an_error_without_traceback(self) -> None:
        """A response that is no HTTP is an error, not a traceback."""
        for data in (
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"HTTP/1.1 abc OK\r\n\r\n",
            b"HTTP/x 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        ):
            asking, transport = self.asked()
            transport.answer(data)
            self.reason(asking)
            self.assertTrue(transport.disconnecting or transport.aborted)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_drops_the_connections_own_fields(self) -> None:
        """Fields that the upstream says are its connection's are not the answer's (RFC 9110 §7.6.1)."""
        for method in ("GET", "HEAD"):
            self.setUp()
            response, _ = self.answered(
                b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop ,x-other\r\nX-Hop: 1\r\nX-Other: 2\r\nX-Mine: 3\r\n"
                b"Content-Length: 0\r\n\r\n",
                method,
            )
            names = {name.lower() for name, _ in response.headers.getAllRawHeaders()}
            self.assertEqual(names - {b"content-length"}, {b"x-mine"})


class LeaveTests(Case):
    """Responses that are not wanted any more."""

    def test_cancelling_closes_the_connection(self) -> None:
        """Cancelling while the head is waited for closes the connection at once."""
        asking, transport = self.asked()
        asking.cancel()
        self.failureResultOf(asking)
        self.assertTrue(transport.aborted)

    def test_unwanted_body_closes_the_connection(self) -> None:
        """Dropping the rest of a body closes the connection at once: TLS would wait for all of it."""
        response, transport = self.answered(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        body = BodyReceiver()
        response.deliverBody(body)
        body.transport.loseConnection()  # type: ignore[union-attr]
        self.assertTrue(transport.aborted)
        self.assertEqual(body.data, b"abc")

    def test_ended_body_has_no_connection(self) -> None:
        """A body that has come to its end has no connection any more that it could close."""
        response, transport = self.answered(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
        body = BodyReceiver()
        response.deliverBody(body)
        body.transport.loseConnection()  # type: ignore[union-attr]
        self.assertFalse(transport.aborted or transport.disconnecting)

    def test_body_can_be_paused(self) -> None:
        """A body can be paused."""
        response, transport = self.answered(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        self.assertEqual(transport.producerState, "paused")  # nothing comes before the body is delivered
        body = BodyReceiver()
        response.deliverBody(body)
        transport_of_body: Any = body.transport
        self.assertEqual(transport.producerState, "producing")
        transport_of_body.pauseProducing()
        self.assertEqual(transport.producerState, "paused")
        transport_of_body.resumeProducing()
        self.assertEqual(transport.producerState, "producing")

    def test_broken_body_fails(self) -> None:
        """A body that breaks off says so."""
        response, transport = self.answered(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        body = BodyReceiver()
        response.deliverBody(body)
        transport.lost()
        self.assertTrue(body.reason.check(ResponseFailed))
