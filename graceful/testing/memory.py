"""A stand-in for the server that lives in memory, without a process and without a network, for WSGI applications.

It tests in milliseconds whether an application copes with a deploy: with a request that runs while the server is
replaced, a request that comes when no server listens any more, a request that outlives the deadline.  It cannot test
whether bytes get lost; :class:`graceful.testing.LiveServer` does that.  The application runs in the test's own
process, each request in the thread that sends it.  :mod:`graceful.testing.memory_asgi` has the form for ASGI.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults

from graceful.application.loading import is_asgi
from graceful.testing.client import Answer, Lost, LostRequest, Pending, Refused

#: Seconds between two looks at what is in flight.
_LOOK_AGAIN = 0.002


class ServerInMemory:
    """What the servers in memory have in common: requests, what is in flight, and the rotation.

    :ivar lost: the lost requests: those whose application raised, and those that were taken down.
    :ivar rotation: `in`, `away` after :meth:`leave`, or `leaving` after :meth:`sigterm`.
    """

    def __init__(self) -> None:
        self.lost: list[Lost] = []
        self.rotation = "in"
        self._lock = threading.Lock()
        self._flying: dict[int, dict[str, Any]] = {}  # under the lock
        self._number = 0  # under the lock
        self._listening = True

    # -- requests -----------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Call the application.  Returns its answer.

        :param headers: in Python's spelling: ``content_type="text/plain"``.
        :raises Refused: the server was told to stop.
        :raises LostRequest: the application raised.
        """
        raise NotImplementedError

    def get(self, path: str, **headers: str) -> Answer:
        """Send a GET.  Returns its answer."""
        return self.request("GET", path, None, **headers)

    def begin(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Pending:
        """Send a request in a thread.  Returns at once."""
        return Pending(lambda: self.request(method, path, body, **headers))

    def arrived(self, path: str, count: int = 1, within: float = 5.0) -> None:
        """Wait until `count` requests for a path are in flight.

        :param within: seconds to wait at most.
        :raises AssertionError: they are not in flight by then.
        """
        end = time.monotonic() + within
        while sum(exchange["path"] == path for exchange in self.in_flight()) < count:
            assert time.monotonic() < end, f"no {count} requests for {path} are in flight"
            time.sleep(_LOOK_AGAIN)

    def _begins(self, method: str, path: str) -> int:
        """Note that a request is in flight.  Returns its number.  Under the lock.

        :raises Refused: the server was told to stop.
        """
        if not self._listening:
            raise Refused("no server listens")
        self._number += 1
        self._flying[self._number] = {"id": self._number, "method": method, "path": path.partition("?")[0]}
        return self._number

    def _ends(self, number: int) -> None:
        """Note that a request is over."""
        with self._lock:
            self._flying.pop(number, None)

    # -- orders -------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Leave the rotation."""
        self.rotation = "away"

    def enter(self) -> None:
        """Enter the rotation again."""
        self.rotation = "in"

    def sigterm(self) -> None:
        """Stop listening; the requests in flight go on."""
        with self._lock:
            self._listening = False
        self.rotation = "leaving"

    def closed(self) -> None:
        """Check that the server was told to stop: from then on its sockets are closed.

        :raises AssertionError: it was not told to stop.
        """
        assert not self._listening, "the server was not told to stop"

    def gone(self, within: float = 5.0) -> int:
        """Wait until nothing is in flight.

        :param within: seconds to wait at most, as the server's deadline.
        :returns: the exit status: 0, or 70 if requests were still in flight and count as taken down.
        """
        end = time.monotonic() + within
        while left := self.in_flight():
            if time.monotonic() > end:
                self.lost += [Lost(one["method"], one["path"], "taken down") for one in left]
                return 70
            time.sleep(_LOOK_AGAIN)
        return 0

    def in_flight(self) -> list[dict[str, Any]]:
        """Returns the `id`, `method` and `path` of each request in flight, oldest first."""
        with self._lock:
            return [dict(exchange) for exchange in self._flying.values()]


class MemoryServer(ServerInMemory):
    """A server in memory for a WSGI callable, with the methods of :class:`graceful.testing.LiveServer`.

    :param application: the callable.
    :param next_version: returns the callable that serves after a redeploy; by default it is the same one.
    :ivar lost: the lost requests: those whose application raised, and those that were taken down.
    :ivar rotation: `in`, `away` after :meth:`leave`, or `leaving` after :meth:`sigterm`.
    :raises TypeError: it is an ASGI application, which :class:`AsgiMemoryServer` serves.
    """

    def __init__(
        self, application: Callable[..., Iterable[bytes]], next_version: Callable[[], Any] | None = None
    ) -> None:
        if is_asgi(application):
            raise TypeError(f"{application!r} is an ASGI application: graceful.testing.AsgiMemoryServer serves it")
        super().__init__()
        self._application = application
        self._next_version = next_version or (lambda: self._application)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Call the application.  Returns its answer.

        :param headers: in Python's spelling: ``content_type="text/plain"``.
        :raises Refused: the server was told to stop.
        :raises LostRequest: the application raised.
        """
        with self._lock:
            number = self._begins(method, path)
            application = self._application
        try:
            return _call(application, method, path, body or b"", headers)
        except Exception as error:
            self.lost.append(Lost(method, path, f"{type(error).__name__}: {error}"))
            raise LostRequest(f"{method} {path}: {type(error).__name__}: {error}") from error
        finally:
            self._ends(number)

    def redeploy(self) -> None:
        """Serve with the next version; the requests in flight are finished by the former one."""
        application = self._next_version()
        with self._lock:
            self._application = application


def _call(
    application: Callable[..., Iterable[bytes]], method: str, path: str, body: bytes, headers: dict[str, str]
) -> Answer:
    """Call an application as PEP 3333 says.  Returns its answer."""
    target, _, query = path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": target,
        "QUERY_STRING": query,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "wsgi.multithread": True,
    }
    for name, value in headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    setup_testing_defaults(environ)
    pieces: list[bytes] = []
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, fields: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        started.append((status, fields))
        return pieces.append

    result = application(environ, start_response)
    try:
        pieces += list(result)
    finally:
        close = getattr(result, "close", None)
        if close is not None:
            close()
    status, fields = started[-1]
    return Answer(int(status[:3]), {name.lower(): value for name, value in fields}, b"".join(pieces))
