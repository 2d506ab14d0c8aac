"""Bridges to libraries: each waits no longer than its request has time, and says so when that is over."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import graceful
from graceful.application.current import current
from graceful.application.deadlines import DeadlineExceeded

LEFT = 0.3


class FakeExchange:
    """An exchange with so much time left."""

    released = False
    method, shown_target = "GET", "/"

    def __init__(self, left: float | None) -> None:
        self.left = left

    def remaining(self) -> float | None:
        """What the test says."""
        return self.left


class ClientTests(SynchronousTestCase):
    """HTTP clients, and a server that takes connections and says nothing."""

    def setUp(self) -> None:
        """Start the server."""
        self.silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.silent.close)
        self.url = f"http://127.0.0.1:{self.silent.getsockname()[1]}/"
        self.exchange = FakeExchange(LEFT)
        token = current.set(self.exchange)  # type: ignore[arg-type]
        self.addCleanup(current.reset, token)

    def clients(self) -> Iterable[tuple[str, Callable[[float | None], object], type[Exception]]]:
        """Each client: how to ask with a time-out, and what it raises when that is over."""
        import httpx
        import requests
        import urllib3

        from graceful.contrib import httpx as our_httpx
        from graceful.contrib import requests as our_requests
        from graceful.contrib import urllib3 as our_urllib3

        with our_requests.Session() as session, our_httpx.Client() as client, our_urllib3.PoolManager() as pool:
            yield "requests", lambda timeout: session.get(self.url, timeout=timeout), requests.Timeout
            yield "httpx", lambda timeout: client.get(self.url, timeout=timeout), httpx.TimeoutException
            yield (
                "urllib3",
                lambda timeout: pool.request("GET", self.url, timeout=timeout, retries=False),
                urllib3.exceptions.TimeoutError,
            )

    def test_no_longer_than_is_left(self) -> None:
        """Without a time-out, or with a longer one, it waits until the time is over; that is DeadlineExceeded."""
        for name, ask, _ in self.clients():
            for timeout in (None, 1000):
                self.exchange.left = LEFT
                over = threading.Timer(LEFT / 2, setattr, [self.exchange, "left", 0])
                over.start()
                self.assertRaises(DeadlineExceeded, ask, timeout)
                over.join()
                self.assertEqual(self.exchange.left, 0, name)

    def test_its_own(self) -> None:
        """A shorter time-out stays as it is, and what the library raises, too."""
        for _, ask, error in self.clients():
            self.exchange.left = 1000
            self.assertRaises(error, ask, 0.05)

    def test_over(self) -> None:
        """With no time left it does not begin."""
        self.exchange.left = 0
        self.silent.close()
        for _, ask, _ in self.clients():
            self.assertRaises(DeadlineExceeded, ask, None)

    def test_no_limit(self) -> None:
        """Without a limit, the time-out is one's own."""
        self.exchange.left = None
        for _, ask, error in self.clients():
            self.assertRaises(error, ask, 0.05)

    def test_answered(self) -> None:
        """An answer that comes in time comes through."""
        body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

        def serve() -> None:
            for _ in range(3):
                one, _ = self.silent.accept()
                with one:
                    one.recv(65536)
                    one.sendall(body)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        self.exchange.left = 1000
        for name, ask, _ in self.clients():
            answer: Any = ask(5)
            self.assertIn(b"ok", (getattr(answer, "content", b""), getattr(answer, "data", b"")), name)
        thread.join(5)


class ImportTests(SynchronousTestCase):
    """What is imported when."""

    def test_names(self) -> None:
        """Every name of the package is there, and functions are functions, whatever was imported before."""
        for name in graceful.__all__:
            self.assertIsNotNone(getattr(graceful, name))
        self.assertTrue(callable(graceful.remaining) and callable(graceful.check) and callable(graceful.draining))
