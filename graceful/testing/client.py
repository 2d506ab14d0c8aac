"""A client that forgives nothing: a request is answered as a whole, or it is lost, and that is written down.

HTTP libraries hide what a deploy does: they try again, they take an answer that ends early for a whole one, they open
another connection.  Here every request has a connection of its own and is sent once.  It is lost if that is refused
while the server should listen, if it is reset, if the answer ends early or does not come; and if the answer is 502,
503 or 504, by which a server or a balancer says that it has given a request up.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Mapping

from attrs import frozen

GIVEN_UP = (502, 503, 504)


@frozen
class Answer:
    """A whole answer.

    :ivar headers: names in lower case; of a name that comes more than once, the last value.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


@frozen
class Lost:
    """A request that was lost."""

    method: str
    path: str
    why: str


class LostRequest(Exception):
    """A request was lost; it is also in the list of those that were."""


class Refused(Exception):
    """No server listens; that is right after a stop, and no request was lost."""


class Pending:
    """A request that is on its way.

    :param send: sends it, and returns the answer.
    """

    def __init__(self, send: Callable[[], Answer]) -> None:
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(send,), name="request", daemon=True)
        self._thread.start()

    def _run(self, send: Callable[[], Answer]) -> None:
        try:
            self._answer = send()
        except Exception as error:
            self._error = error

    @property
    def done(self) -> bool:
        """Whether it has ended, one way or the other."""
        return not self._thread.is_alive()

    def answer(self, timeout: float = 60.0) -> Answer:
        """Wait for the answer.

        :param timeout: seconds.
        :raises LostRequest: there will be none.
        :raises Refused: no server listens, and none should.
        :raises TimeoutError: there is none yet.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"no answer in {timeout:g} s")
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer


class StrictClient:
    """Sends requests to one server.

    :param listens: whether a server should be listening just now.
    :param timeout: seconds in which the next byte must come.
    :ivar port: on 127.0.0.1.
    :ivar lost: what was lost, in the order in which it was.
    """

    def __init__(self, listens: Callable[[], bool], timeout: float = 60.0) -> None:
        self.port = 0
        self.lost: list[Lost] = []
        self._listens = listens
        self._timeout = timeout

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request, and return its answer.

        :raises LostRequest: there is none.
        :raises Refused: no server listens, and none should.
        """
        try:
            answer = self._send(method, path, body, headers or {})
        except ConnectionRefusedError:
            if not self._listens():
                raise Refused(f"nobody listens on port {self.port}") from None
            raise self._lose(method, path, "refused") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._lose(method, path, f"{type(error).__name__}: {error}") from None
        if answer.status in GIVEN_UP:
            self._lose(method, path, f"given up with {answer.status}")
        return answer

    def _lose(self, method: str, path: str, why: str) -> LostRequest:
        self.lost.append(Lost(method, path, why))
        return LostRequest(f"{method} {path}: {why}")

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self._timeout)
        try:
            connection.request(method, path, body, {"Connection": "close", **headers})
            answer = connection.getresponse()
            data = answer.read()  # raises if it ends short of its length, or without its last chunk
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, data)
        finally:
            connection.close()
