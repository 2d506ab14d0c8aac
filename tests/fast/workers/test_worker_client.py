"""Asking a worker: one question at a time, an answer for each, and none for the wrong one, whatever becomes of it."""

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
    """What a worker says."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return f"HTTP/1.1 {status} Word\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class WorkerClientTests(SynchronousTestCase):
    """A worker whose answers the test makes."""

    def setUp(self) -> None:
        """Connect."""
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
        """The request lines that were sent since this was last looked at."""
        data = self.transport.value()
        self.transport.clear()
        return [line for line in data.split(b"\r\n") if line.endswith(b"HTTP/1.1")]

    def fails(self, asked: Deferred[Any], kind: type[ClientError]) -> ClientError:
        """The error that something was answered with."""
        error = self.failureResultOf(asked, kind).value
        assert isinstance(error, kind)
        return error

    def test_one_after_the_other(self) -> None:
        """The next question is sent when the answer to the one before is here, in whatever pieces that comes."""
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

    def test_what_is_not_json(self) -> None:
        """Text is told as it is; JSON that is none is an error, and the next question is asked all the same."""
        text, broken, next = (self.asking.ask("GET", target) for target in ("/metrics", "/status", "/status"))
        self.asking.dataReceived(answer(b"x 1\n", kind="text/plain"))
        self.asking.dataReceived(answer(b"{"))
        self.assertEqual(self.successResultOf(text), b"x 1\n")
        self.assertIn("not JSON", str(self.fails(broken, ClientError)))
        self.asking.dataReceived(answer([]))
        self.assertEqual(self.successResultOf(next), [])

    def test_refusal_has_status_and_text(self) -> None:
        """What a worker will not do, or does not know, is an error with its status and its words."""
        refused, unknown = self.asking.ask("POST", "/enter"), self.asking.ask("GET", "/tally")
        self.asking.dataReceived(answer({"error": "the server is stopping"}, 409))
        self.asking.dataReceived(answer(b"Not Found", 404, "text/plain"))
        for asked, status, text in ((refused, 409, "the server is stopping"), (unknown, 404, "worker 4712: 404")):
            error = self.fails(asked, ControlRefused)
            assert isinstance(error, ControlRefused)
            self.assertEqual((error.status, str(error)), (status, text))

    def test_stuck_worker_times_out(self) -> None:
        """One that is stuck is given up after a while: with it, what was to be asked next; the rest goes on later."""
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
        """One that ends in mid-answer has not answered; nor can it be asked any more."""
        asked, waiting = self.asking.ask("GET", "/status"), self.asking.ask("GET", "/status")
        self.asking.dataReceived(answer({"pid": 4712})[:-3])
        self.asking.connectionLost(Failure(ConnectionDone()))
        for one in (asked, waiting, self.asking.ask("GET", "/status")):
            self.assertIn("worker 4712", str(self.fails(one, Vanished)))
        self.assertFalse(self.asking.alive)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_answers_all_who_wait(self) -> None:
        """To hang up answers all who wait; twice is once."""
        asked = self.asking.ask("GET", "/status")
        self.asking.close()
        self.asking.close()
        self.fails(asked, Vanished)
        self.assertTrue(self.transport.disconnecting)

    def test_invalid_answer_closes_the_connection(self) -> None:
        """What is no answer, was not asked for, or is too large, ends the connection."""
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

    def test_asking_in_an_answer(self) -> None:
        """Whoever is answered may ask at once, or hang up."""
        again: list[Deferred[Any]] = []
        first = self.asking.ask("GET", "/one")
        first.addCallback(lambda said: again.append(self.asking.ask("GET", "/two")))
        self.asking.dataReceived(answer({}))
        again[0].addCallback(lambda said: self.asking.close())
        self.asking.dataReceived(answer({}))
        self.assertEqual(self.sent(), [b"GET /one HTTP/1.1", b"GET /two HTTP/1.1"])
        self.assertFalse(self.asking.alive)
