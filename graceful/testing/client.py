"""A strict client: a request either gets its whole answer, or counts as lost and is recorded.

HTTP libraries hide what a deploy breaks: they send a request again, they accept an answer that ends early, they open
another connection.  This client opens a connection for each request, and sends it once.  The request is lost if the
connection is refused while the server should listen, if it is reset, or if the answer ends early or does not come.
It is also lost if the answer is 502, 503 or 504, by which a server or a balancer tells that it has given up a
request.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Mapping

from attrs import frozen

#: The statuses by which a server or a balancer tells that it has given up a request.
GIVEN_UP = (502, 503, 504)


@frozen
class Answer:
    """A whole answer.

    :ivar headers: the values by their names in lower case; for a name that comes more than once, the last value.
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
    """A request was lost; the client's `lost` has it, too."""


class Refused(Exception):
    """No server listens, and none should: the server was told to stop.  No request was lost."""


class Pending:
    """A request that is on its way, while the test goes on.

    :param send: sends the request, and returns the answer; runs in a thread.
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
        """Whether the request has ended: it was answered, lost or refused."""
        return not self._thread.is_alive()

    def answer(self, timeout: float = 60.0) -> Answer:
        """Wait for the answer.

        :param timeout: seconds to wait at most.
        :raises LostRequest: the request was lost.
        :raises Refused: no server listens, and none should.
        :raises TimeoutError: the time is over, and the request is still on its way.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"no answer in {timeout:g} s")
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer


class StrictClient:
    """Sends requests to one server, and records the lost ones.

    :param port: the server's port on 127.0.0.1.
    :param listens: returns whether a server should be listening now.
    :param timeout: seconds within which the next byte must come.
    :ivar lost: the lost requests, in the order in which they were lost.
    """

    def __init__(self, port: int, listens: Callable[[], bool], timeout: float = 60.0) -> None:
        self._port = port
        self.lost: list[Lost] = []
        self._listens = listens
        self._timeout = timeout

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request.  Returns its answer.

        An answer of 502, 503 or 504 is returned, and the request counts as lost.

        :raises LostRequest: no whole answer came.
        :raises Refused: no server listens, and none should.
        """
        try:
            answer = self._send(method, path, body, headers or {})
        except ConnectionRefusedError:
            if not self._listens():
                raise Refused(f"no server listens on port {self._port}") from None
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
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)
        try:
            connection.request(method, path, body, {"Connection": "close", **headers})
            answer = connection.getresponse()
            data = answer.read()  # raises if the answer ends short of its length, or without its last chunk
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, data)
        finally:
            connection.close()
