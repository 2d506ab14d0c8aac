"""A server that exists in memory: the same things can be done to it, without a process and without a network.

It answers the question "does my application cope?" in milliseconds: a request that runs while the server is replaced,
a request that comes when no server listens any more, one that outlives the deadline.  It does not answer the question
whether bytes get lost; that takes :class:`graceful.testing.LiveServer`.  The application is called in the test's own
process, each request in a thread of its own.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults

from graceful.testing.client import Answer, Lost, LostRequest, Pending, Refused

_LOOK_AGAIN = 0.002


class MemoryServer:
    """A server for a WSGI callable.

    :param application: the callable.
    :param next_version: makes the callable that serves after a redeploy; by default it is the same one.
    :ivar lost: the requests that were lost: those whose application raised, or that were given up.
    """

    def __init__(
        self, application: Callable[..., Iterable[bytes]], next_version: Callable[[], Any] | None = None
    ) -> None:
        self.lost: list[Lost] = []
        self.rotation = "in"
        self._application = application
        self._next_version = next_version or (lambda: self._application)
        self._lock = threading.Lock()
        self._flying: dict[int, dict[str, Any]] = {}  # under the lock
        self._number = 0  # under the lock
        self._listening = True

    # -- requests -----------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Call the application.

        :raises Refused: it has stopped.
        :raises LostRequest: the application raised.
        """
        with self._lock:
            if not self._listening:
                raise Refused("nobody listens")
            application = self._application
            self._number += 1
            number = self._number
            self._flying[number] = {"id": number, "method": method, "path": path.partition("?")[0]}
        try:
            return _call(application, method, path, body or b"", headers)
        except Exception as error:
            self.lost.append(Lost(method, path, f"{type(error).__name__}: {error}"))
            raise LostRequest(f"{method} {path}: {type(error).__name__}: {error}") from error
        finally:
            with self._lock:
                del self._flying[number]

    def get(self, path: str, **headers: str) -> Answer:
        """Send a GET, and return its answer."""
        return self.request("GET", path, None, **headers)

    def begin(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Pending:
        """Send a request, and go on while it is on its way."""
        return Pending(lambda: self.request(method, path, body, **headers))

    def arrived(self, path: str, count: int = 1, within: float = 5.0) -> None:
        """Wait until `count` requests for a path are in flight."""
        end = time.monotonic() + within
        while sum(exchange["path"] == path for exchange in self.in_flight()) < count:
            assert time.monotonic() < end, f"no {count} requests for {path} are in flight"
            time.sleep(_LOOK_AGAIN)

    # -- what it is told ----------------------------------------------------------------------------------

    def leave(self) -> None:
        """Leave the rotation."""
        self.rotation = "away"

    def enter(self) -> None:
        """Enter it again."""
        self.rotation = "in"

    def sigterm(self) -> None:
        """Stop listening; what is in flight goes on."""
        with self._lock:
            self._listening = False
        self.rotation = "leaving"

    def closed(self) -> None:
        """It is as soon as it was told to stop."""
        assert not self._listening, "nobody has told it to stop"

    def gone(self, within: float = 5.0) -> int:
        """Wait until nothing is in flight; 0, or 70 if something still is and is given up."""
        end = time.monotonic() + within
        while self.in_flight():
            if time.monotonic() > end:
                self.lost += [Lost(one["method"], one["path"], "taken down") for one in self.in_flight()]
                return 70
            time.sleep(_LOOK_AGAIN)
        return 0

    def redeploy(self) -> None:
        """Have the next version serve; what is in flight is finished by the one before."""
        application = self._next_version()
        with self._lock:
            self._application = application

    def in_flight(self) -> list[dict[str, Any]]:
        """What is in flight: `id`, `method` and `path` of each, oldest first."""
        with self._lock:
            return [dict(exchange) for exchange in self._flying.values()]


def _call(
    application: Callable[..., Iterable[bytes]], method: str, path: str, body: bytes, headers: dict[str, str]
) -> Answer:
    """One call, by PEP 3333."""
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
