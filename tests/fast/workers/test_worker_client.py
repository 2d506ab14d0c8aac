"""Questions to a worker: one is sent at a time, and each gets its own answer or an error."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from graceful.control.client import ClientError, ControlRefused, Silent, Vanished
from graceful.workers import worker_client as module
from graceful.workers.worker_client import WorkerClient

JSON = "application/json; charset=utf-8"


def answer(value: Any, status: int = 200, kind: str = JSON) -> bytes:
    """Returns the bytes of a worker's answer."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return f"HTTP/1.1 {status} Word\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class WorkerClientTests(SynchronousTestCase):
    """A worker whose answers the test makes."""

    def setUp(self) -> None:
        """Connect to the worker."""
        self.clock = Clock()
        self.transport = StringTransport()
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        self.ours = ours

        def adopt(descriptor: int, family: int, factory: Any) -> None:
            self.assertEqual((descriptor, family), (ours.fileno(), socket.AF_UNIX))
            self.assertFalse(ours.getblocking())
            factory.buildProtocol(None).makeConnection(self.transport)

        self.asking = WorkerClient(SimpleNamespace(adoptStreamConnection=adopt), self.clock, ours, "worker 4712")

    def sent(self) -> list[bytes]:
        """Returns the request lines that were sent since the last call."""
        data = self.transport.value()
        self.transport.clear()
        return [line for line in data.split(b"\r\n") if line.endswith(b"HTTP/1.1")]

    def fails(self, asked: Deferred[Any], kind: type[ClientError]) -> ClientError:
        """Returns the error with which a question has failed."""
        error = self.failureResultOf(asked, kind).value
        assert isinstance(error, kind)
        return error

    def test_questions_are_sent_one_after_the_other(self) -> None:
        """The next question is sent when the answer to the one before is complete, however it is cut."""
        first, second = self.asking.ask("GET", "/status"), self.asking.ask("POST", "/stop", {"quiet": True})
        self.assertEqual(self.ours.fileno(), -1)
        self.assertEqual(self.sent(), [b"GET /status HTTP/1.1"])
        data = answer({"pid": 4712})
        for slot in range(len(data)):
            self.assertNoResult(first)
            self.asking.dataReceived(data[slot : slot + 1])
        self.assertEqual(self.successResultOf(first), {"pid": 4712})
        self.assertTrue(self.transport.value().endswith(b'\r\n\r\n{"quiet": true}'))
        self.assertEqual(self.sent(), [b"POST /stop HTTP/1.1"])
        self.asking.dataReceived(answer({}))
        self.assertEqual(self.successResultOf(second), {})
        self.clock.advance(10)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_text_is_returned_and_bad_json_is_an_error(self) -> None:
        """Text is returned as it is; bad JSON is an error, and the next question is sent all the same."""
        text, broken, next = (self.asking.ask("GET", target) for target in ("/metrics", "/status", "/status"))
        self.asking.dataReceived(answer(b"x 1\n", kind="text/plain"))
        self.asking.dataReceived(answer(b"{"))
        self.assertEqual(self.successResultOf(text), b"x 1\n")
        self.assertIn("not JSON", str(self.fails(broken, ClientError)))
        self.asking.dataReceived(answer([]))
        self.assertEqual(self.successResultOf(next), [])

    def test_refusal_has_status_and_text(self) -> None:
        """A refusal is an error with the worker's status and text."""
        refused, unknown = self.asking.ask("POST", "/enter"), self.asking.ask("GET", "/tally")
        self.asking.dataReceived(answer({"error": "the server is stopping"}, 409))
        self.asking.dataReceived(answer(b"Not Found", 404, "text/plain"))
        for asked, status, text in ((refused, 409, "the server is stopping"), (unknown, 404, "worker 4712: 404")):
            error = self.fails(asked, ControlRefused)
            assert isinstance(error, ControlRefused)
            self.assertEqual((error.status, str(error)), (status, text))

    def test_stuck_worker_times_out(self) -> None:
        """A question to a stuck worker is given up after a while, with those behind it; later ones are sent."""
        stuck = self.asking.ask("GET", "/status", timeout=2)
        order = self.asking.ask("POST", "/hurry", timeout=3)
        self.clock.advance(2)
        self.assertIn("worker 4712 has not answered for 2 s", str(self.fails(stuck, Silent)))
        self.assertNoResult(order)
        self.clock.advance(1)
        self.fails(order, Silent)
        later = self.asking.ask("GET", "/exchanges")
        self.assertEqual(self.sent(), [b"GET /status HTTP/1.1"])
        self.asking.dataReceived(answer({"too": "late"}))
        self.assertEqual(self.sent(), [b"GET /exchanges HTTP/1.1"])
        self.assertNoResult(later)
        self.asking.dataReceived(answer([]))
        self.assertEqual(self.successResultOf(later), [])

    def test_worker_that_ends_in_mid_answer_has_vanished(self) -> None:
        """A worker that ends in the middle of an answer has not answered, and cannot be asked any more."""
        asked, waiting = self.asking.ask("GET", "/status"), self.asking.ask("GET", "/status")
        self.asking.dataReceived(answer({"pid": 4712})[:-3])
        self.asking.connectionLost(Failure(ConnectionDone()))
        for one in (asked, waiting, self.asking.ask("GET", "/status")):
            self.assertIn("worker 4712", str(self.fails(one, Vanished)))
        self.assertFalse(self.asking.alive)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_answers_all_who_wait(self) -> None:
        """`close` fails all questions that wait; a second call does nothing."""
        asked = self.asking.ask("GET", "/status")
        self.asking.close()
        self.asking.close()
        self.fails(asked, Vanished)
        self.assertTrue(self.transport.disconnecting)

    def test_invalid_answer_closes_the_connection(self) -> None:
        """Nonsense, an answer without a question, or one that is too large closes the connection."""
        self.patch(module, "LARGEST", 1000)
        for said in (
            b"220 mail.example ESMTP\r\n",
            answer(b"x" * 1001),
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1001 + b"\r\n",
        ):
            asked = self.asking.ask("GET", "/status")
            self.asking.dataReceived(said)
            self.assertIn("is not an answer", str(self.fails(asked, ClientError)))
            self.assertTrue(self.transport.disconnecting)
            self.setUp()
        self.asking.dataReceived(answer({}))
        self.assertTrue(self.transport.disconnecting)
        self.fails(self.asking.ask("GET", "/status"), Vanished)

    def test_a_callback_may_ask_again_or_close(self) -> None:
        """The callback of an answer may ask the next question at once, or close the connection."""
        again: list[Deferred[Any]] = []
        first = self.asking.ask("GET", "/one")
        first.addCallback(lambda said: again.append(self.asking.ask("GET", "/two")))
        self.asking.dataReceived(answer({}))
        again[0].addCallback(lambda said: self.asking.close())
        self.asking.dataReceived(answer({}))
        self.assertEqual(self.sent(), [b"GET /one HTTP/1.1", b"GET /two HTTP/1.1"])
        self.assertFalse(self.asking.alive)
