"""A client for the control API of one worker, over the supervisor's only connection to it.

The client of the `graceful` command blocks until it has its answer.  A supervisor must not block: it has several
workers, and one of them may be stuck, or import its application, or be killed in mid-answer.  So each question is a
Deferred with a time-out.  Questions are sent one at a time.  A question that times out before it was sent is never
sent, since an order must not be obeyed when it is long forgotten.  If it times out after it was sent, its answer is
still read, so that it is not taken for the answer to the next question.

Do not ask for what is answered late by design (`/wait`, `/events`): all other questions would wait behind it.
"""

from __future__ import annotations

import json
import socket
from collections import deque
from typing import Any, Final

import httptools
from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from graceful.control.client import ANSWERS_IN, ClientError, ControlRefused, Silent, Vanished

#: Seconds that a worker has to obey: fewer than the client waits that gave the supervisor the order.
OBEYED_IN: Final = ANSWERS_IN - 1.0

#: The largest answer that is read, bytes.
LARGEST: Final = 64 << 20


@define(eq=False)
class _Question:
    """One question to the worker.

    :ivar request: the bytes to send.
    :ivar answer: fires with the decoded answer; it has fired already if the question has timed out.
    """

    request: bytes
    answer: Deferred[Any]


class WorkerClient(Protocol):
    """A client of one worker.  Reactor thread.

    :param reactor: watches the socket.
    :param clock: times the answers.
    :param sock: a connected Unix stream socket; it is taken over, and closed by :meth:`close`.
    :param name: who is asked, for people.
    :ivar alive: the connection is there, and questions can be sent.
    """

    def __init__(self, reactor: Any, clock: IReactorTime, sock: socket.socket, name: str = "the worker") -> None:
        self._clock = clock
        self._name = name
        self._waiting: deque[_Question] = deque()
        self._sent: _Question | None = None  # until its answer is here
        self._answers: list[tuple[int, bytes, bytes]] = []  # status, kind, body
        self._kind = b""
        self._pieces: list[bytes] = []
        self._size = 0  # received of the answer that is under way
        self._parser = httptools.HttpResponseParser(self)
        self.alive = True
        sock.setblocking(False)
        reactor.adoptStreamConnection(sock.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: self))
        sock.close()  # the reactor has a descriptor of its own

    def ask(
        self, method: str, target: str, values: dict[str, Any] | None = None, timeout: float = ANSWERS_IN
    ) -> Deferred[Any]:
        """Ask one thing.

        :param target: in ASCII, with what it needs to be quoted quoted.
        :param values: sent as JSON.
        :param timeout: seconds to wait for the answer, from now on.
        :returns: fires with what JSON says, or with the bytes of any other answer; or fails with `ControlRefused`,
            `Silent` or `Vanished`, or another `ClientError` if what is said cannot be understood.
        """
        answer: Deferred[Any] = Deferred(self._give_up)
        if not self.alive:
            answer.errback(self._vanished())
            return answer
        body = json.dumps(values).encode() if values is not None else b""
        head = [f"{method} {target} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        if body:
            head.append("Content-Type: application/json")
        self._waiting.append(_Question("\r\n".join([*head, "", ""]).encode("ascii") + body, answer))

        def silent(result: Any, seconds: float) -> Any:
            if isinstance(result, Failure):
                result.trap(CancelledError)
                raise Silent(f"{self._name} has not answered for {seconds:g} s: its event loop is stuck")
            return result

        answer.addTimeout(timeout, self._clock, silent)
        self._send()
        return answer

    def close(self) -> None:
        """Hang up; who still waits for an answer is told so."""
        self._fail(self._vanished())

    def _send(self) -> None:
        if self._sent is None and self._waiting and self.alive:
            self._sent = self._waiting.popleft()
            assert self.transport is not None
            self.transport.write(self._sent.request)

    def _give_up(self, answer: Deferred[Any]) -> None:
        """Nobody waits for this one any more; a Deferred that is cancelled fires by itself."""
        for question in self._waiting:
            if question.answer is answer:
                self._waiting.remove(question)
                return

    def _vanished(self) -> Vanished:
        return Vanished(f"{self._name} has ended without an answer")

    def _fail(self, error: ClientError) -> None:
        """Nothing more can be asked."""
        if self.alive:
            self.alive = False
            if self.transport is not None:
                self.transport.loseConnection()
        unanswered = [*([self._sent] if self._sent is not None else []), *self._waiting]
        self._sent = None
        self._waiting.clear()
        for question in unanswered:
            if not question.answer.called:
                question.answer.errback(error)

    # -- IProtocol ----------------------------------------------------------------------------------------

    def connectionLost(self, reason: object = None) -> None:
        """The worker has ended, or we have hung up."""
        self._fail(self._vanished())

    def dataReceived(self, data: bytes) -> None:
        """Read on."""
        if not self.alive:
            return
        self._size += len(data)
        broken = self._size > LARGEST
        try:
            self._parser.feed_data(b"" if broken else data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            broken = True
        answers, self._answers = self._answers, []
        for answer in answers:
            self._answered(*answer)
        if broken:
            self._fail(ClientError(f"{self._name}: what it says is not an answer"))

    def _answered(self, status: int, kind: bytes, body: bytes) -> None:
        question, self._sent = self._sent, None
        if question is None:
            self._fail(ClientError(f"{self._name}: what it says has not been asked"))
            return
        self._send()
        if question.answer.called:
            return  # it comes too late
        try:
            said = json.loads(body) if kind.startswith(b"application/json") else body
        except (ValueError, RecursionError):
            question.answer.errback(ClientError(f"{self._name}: what it says is not JSON"))
            return
        if status >= 400:
            text = said.get("error") if isinstance(said, dict) else None
            question.answer.errback(ControlRefused(status, str(text or f"{self._name}: {status}")))
        else:
            question.answer.callback(said)

    # -- of the parser ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """An answer begins."""
        self._kind, self._pieces = b"", []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field."""
        if name.lower() == b"content-type":
            self._kind = value.lower()

    def on_body(self, piece: bytes) -> None:
        """A piece of its body."""
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """It is whole."""
        self._answers.append((self._parser.get_status_code(), self._kind, b"".join(self._pieces)))
        self._pieces, self._size = [], 0
