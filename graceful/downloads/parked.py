"""Requests that wait for news, from the application's side: tickets.

A long-poll that waits in a thread costs a thread, and holds up a deploy for nothing.  A parked request does neither:
the view returns a ticket, which another part of the application answers when there is news.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred

from graceful.downloads.token import HandoverToken
from graceful.web.response_headers import bodiless, reason


class ParkedAnswer(NamedTuple):
    """An answer to a parked request.

    :ivar status: with its reason, such as `"200 OK"`.
    """

    status: str
    headers: list[tuple[str, str]]
    body: bytes


#: What `at_drain` returns: status, headers, body.
AnswerParts = tuple[int | str, Iterable[tuple[str, str]], bytes]
AtDrain = Callable[[], AnswerParts | None]

#: What a client gets when the time is over.
NO_NEWS: Final = ParkedAnswer("204 No Content", [], b"")
#: Seconds that a request waits unless the application sets another time: proxies often give up after 300.
TIMEOUT: Final = 270.0


def parked_answer(status: int | str, headers: Iterable[tuple[str, str]], body: bytes) -> ParkedAnswer:
    """Return an application's answer as a ParkedAnswer.

    :raises TypeError: the body is not bytes.
    """
    if type(body) is not bytes:
        raise TypeError(f"the body must be bytes, not {type(body).__name__}")
    return ParkedAnswer(f"{status} {reason(status)}" if isinstance(status, int) else status, list(headers), body)


class Waiting(Protocol):
    """The event loop's side of a ticket: the request that waits for its answer."""

    def give(self, what: ParkedAnswer | bytes, last: bool) -> None:
        """Take an answer, or a piece of an event stream.  Any thread; does not block.

        :param last: nothing comes after it.
        """


class Parked(HandoverToken):
    """A request that waits, with no thread, until the application answers it.

    Make it in the view, give it to the code that will have the news, and hand it over like a
    :class:`~graceful.Download`.  Then, once and from any thread, :meth:`answer`; or, for server-sent events, whose
    answer the view has begun with `Content-Type: text/event-stream`, :meth:`send` as often as wanted and
    :meth:`finish`.

    On any other server it works too, by blocking its thread.

    :param timeout: seconds until it is answered by itself, with 204; an event stream ends.
    :param at_drain: called in a thread when the server stops; returns the answer, `(status, headers, body)`, or None
        for 204.  It is called soon: its client should come back, and will find the next instance.
    :param move: at a takeover the successor calls the view again, instead of having the client come back.  Only for
        safe methods, without a body (GET, HEAD, OPTIONS).  The view of an event stream finds the id of the last event
        in `Last-Event-ID`, as if the client had come back, and its events follow on the same connection.
    :ivar gone: fires in the reactor thread when the client has left before it was answered, or the request has moved.
    """

    def __init__(self, timeout: float = TIMEOUT, at_drain: AtDrain | None = None, *, move: bool = False) -> None:
        super().__init__()
        self.timeout = timeout
        self.at_drain = at_drain
        self.move = move
        self.gone: Deferred[None] = Deferred()
        # Under the condition's lock; any thread:
        self._changed = threading.Condition(threading.Lock())
        self._over = False
        self._waiting: Waiting | None = None
        self._unsent: deque[ParkedAnswer | bytes] = deque()

    # -- any thread ---------------------------------------------------------------------------------------

    def answer(self, status: int | str, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> bool:
        """Answer, and end it.

        Other fields that the view and its middlewares have set are kept: cookies, for example.

        :param status: such as 200 or `"200 OK"`.
        :returns: False if it is too late: the request was answered before, or its client has left.
        :raises TypeError: the body is not bytes.
        """
        return self._give(parked_answer(status, headers, body), last=True)

    def send(self, data: bytes) -> bool:
        """Send a piece of an event stream.

        :returns: False if it is too late.
        """
        if type(data) is not bytes:
            raise TypeError(f"pieces of a body must be bytes, not {type(data).__name__}")
        return self._give(data, last=False)

    def finish(self) -> bool:
        """End an event stream.

        :returns: False if it is too late.
        """
        return self._give(b"", last=True)

    def _give(self, what: ParkedAnswer | bytes, last: bool) -> bool:
        with self._changed:
            if self._over:
                return False
            self._over = last
            if self._waiting is not None:
                # This does not block; it is under the lock so that pieces of several threads stay in order.
                self._waiting.give(what, last)
            else:  # the view has not returned yet, or the server has no event loop
                self._unsent.append(what)
                self._changed.notify_all()
        return True

    def end(self) -> bool:
        """Refuse later answers: the time is over, or the client has left.

        :returns: False if it was answered already.
        """
        with self._changed:
            over, self._over = self._over, True
            self._changed.notify_all()
            return not over

    # -- where it is handed over --------------------------------------------------------------------------

    def wait_at(self, waiting: Waiting) -> tuple[list[ParkedAnswer | bytes], bool]:
        """Give news to the waiting request from now on.  Reactor thread.

        :returns: what has come before, and whether that was all.
        """
        with self._changed:
            self._waiting = waiting
            kept = list(self._unsent)
            self._unsent.clear()
            return kept, self._over

    # -- other servers ------------------------------------------------------------------------------------

    def wait(self) -> ParkedAnswer:
        """Block until there is an answer, or the time is over: for servers without an event loop.

        :returns: of an event stream only the head; its body is still to be iterated over.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._unsent or self._over, self.timeout)
            if not self._unsent:
                self._over = True
                return NO_NEWS
            first = self._unsent[0]
            if isinstance(first, ParkedAnswer):
                return self._unsent.popleft()  # type: ignore[return-value]
            return ParkedAnswer("200 OK", [("Content-Type", "text/event-stream")], b"")

    def close(self) -> None:
        """End the ticket unless it was handed over: the answer was sent, or given up (PEP 3333)."""
        if not self.claimed:
            self.end()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        """Answer as a WSGI application."""
        if self._id:
            start_response("200 OK", self.headers)
            return self
        answer = self.wait()
        if self._unsent:  # an event stream, and this is its head
            start_response(answer.status, answer.headers)
            return self
        length = [] if bodiless(int(answer.status[:3])) else [("Content-Length", str(len(answer.body)))]
        start_response(answer.status, [*answer.headers, *length])
        return [answer.body]

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the body, which the thread waits for: on servers without an event loop."""
        if self.claimed:
            return  # a framework of ASGI iterates though the event loop waits
        until = monotonic() + self.timeout
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unsent or self._over, max(0.0, until - monotonic()))
                if not self._unsent or not (self._over or monotonic() < until):
                    self._over = True
                    return
                piece: Any = self._unsent.popleft()
            yield piece.body if isinstance(piece, ParkedAnswer) else piece
