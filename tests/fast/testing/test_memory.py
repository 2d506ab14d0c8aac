"""The server in memory, for tests of sites."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.testing import LostRequest, MemoryServer, Refused


class MemoryServerTests(SynchronousTestCase):
    """A server in memory answers, is redeployed, and stops."""

    def setUp(self) -> None:
        """Have an application that waits when it is told to, and says which version it is."""
        self.go = threading.Event()
        self.addCleanup(self.go.set)
        self.closed = 0

    def version(self, name: bytes) -> Callable[..., Iterable[bytes]]:
        """An application."""

        def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/slow":
                assert self.go.wait(5)
            if environ["PATH_INFO"] == "/bad":
                raise ValueError("oops")
            start_response("201 Created", [("X-Version", name.decode())])
            body = environ["wsgi.input"].read()
            text = f"{environ['REQUEST_METHOD']} {environ['QUERY_STRING']} {environ.get('HTTP_X_A')}"
            return Closing(self, [name, b" ", text.encode(), body])

        return application

    def test_answers_as_the_application_does(self) -> None:
        """Status, fields and body are the application's, and its answer is closed."""
        server = MemoryServer(self.version(b"1"))
        answer = server.request("POST", "/x?a=b", b" body", x_a="yes")
        self.assertEqual((answer.status, answer.headers["x-version"]), (201, "1"))
        self.assertEqual(answer.body, b"1 POST a=b yes body")
        self.assertEqual((self.closed, server.lost), (1, []))

    def test_a_redeploy_leaves_requests_to_the_old_version(self) -> None:
        """The old version finishes what is in flight; the new one answers what comes."""
        server = MemoryServer(self.version(b"1"), lambda: self.version(b"2"))
        slow = server.begin("GET", "/slow")
        server.arrived("/slow")
        server.redeploy()
        self.assertTrue(server.get("/").body.startswith(b"2"))
        self.assertEqual([exchange["path"] for exchange in server.in_flight()], ["/slow"])
        self.assertFalse(slow.done)
        self.go.set()
        self.assertTrue(slow.answer().body.startswith(b"1"))
        self.assertEqual((server.in_flight(), server.lost), ([], []))

    def test_a_stopped_server_refuses_and_finishes(self) -> None:
        """A stopped server refuses new requests, and finishes what is in flight."""
        server = MemoryServer(self.version(b"1"))
        slow = server.begin("GET", "/slow")
        server.arrived("/slow")
        server.leave()
        self.assertEqual(server.rotation, "away")
        server.sigterm()
        server.closed()
        self.assertRaises(Refused, server.get, "/")
        self.go.set()
        self.assertEqual((server.gone(), slow.answer().status, server.lost), (0, 201, []))

    def test_a_request_beyond_the_deadline_is_lost(self) -> None:
        """A request that outlives the deadline is lost, and `lost` says why."""
        server = MemoryServer(self.version(b"1"))
        server.begin("GET", "/slow")
        server.arrived("/slow")
        server.sigterm()
        self.assertEqual(server.gone(0.01), 70)
        self.assertEqual([(lost.path, lost.why) for lost in server.lost], [("/slow", "taken down")])

    def test_a_request_whose_application_raises_is_lost(self) -> None:
        """A request whose application raises is lost."""
        server = MemoryServer(self.version(b"1"))
        self.assertRaises(LostRequest, server.get, "/bad")
        self.assertEqual([lost.why for lost in server.lost], ["ValueError: oops"])


class Closing(list[bytes]):
    """An answer that has to be closed."""

    def __init__(self, case: MemoryServerTests, pieces: list[bytes]) -> None:
        super().__init__(pieces)
        self._case = case

    def close(self) -> None:
        """Count that the server has closed it."""
        self._case.closed += 1
