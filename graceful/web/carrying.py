"""What of a connection is not in the kernel, as it goes to another process: requests that no application has seen.

A request that is complete goes as it was parsed; nothing is parsed twice.  Of one that is under way, either the bytes
of its head go, which the other process parses from their beginning, or its head as it was parsed, with what has come
of its body and the place in it.  A body in a file goes by the file's descriptor.  An answer that the event loop sends
goes as the place to which it has come, if what sends it can say that (:class:`IMovable`).

Times are of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import IO, TYPE_CHECKING, Any

from attrs import define, field
from zope.interface import Interface

from graceful.web.body_stream import BodyStream
from graceful.web.exchange import QUEUED, SENDING, Exchange
from graceful.web.moved_exchange import MovedExchange
from graceful.web.request_parser import Place

if TYPE_CHECKING:
    from graceful.web.connection import Connection

Fields = Sequence[tuple[bytes, bytes]]

#: The kind of an answer that has not begun, and is made by the other process from its beginning.
AGAIN = "again"


@define
class CarriedRequest:
    """A request as it was parsed: the attributes of its exchange.

    :ivar id: its request id, which it keeps in the logs of both processes.
    :ivar body: what has come of its body, if that is in memory.
    :ivar file: the descriptor of the file that its body is in; -1 if it is in none.
    """

    id: str
    own_id: str | None
    method: str
    target: bytes
    version: str
    headers: Fields
    trailers: Fields | None
    peer: str
    scheme: str
    keep: bool
    error: int
    received: int
    started: float
    arrived: float
    body: bytes | None = None
    file: int = -1

    @classmethod
    def of(cls, exchange: Exchange) -> CarriedRequest:
        """Returns the request of an exchange."""
        request = cls(
            exchange.request_id,
            exchange.own_id,
            exchange.method,
            exchange.target,
            exchange.version,
            exchange.headers,
            exchange.trailers,
            exchange.peer,
            exchange.scheme,
            exchange.keep,
            exchange.error,
            exchange.received,
            exchange.started,
            exchange.arrived,
        )
        if isinstance(exchange.body, list):
            request.body = b"".join(exchange.body)
        elif exchange.body is not None and not isinstance(exchange.body, BodyStream):
            request.file = exchange.body.fileno()
        return request

    def exchange(self, connection: Connection) -> MovedExchange:
        """Returns a new exchange with this request, which is listed; its body in a file is left to the caller."""
        exchange = MovedExchange(connection)
        exchange.first_id = self.id
        for name in _SAME:
            setattr(exchange, name, getattr(self, name))
        if self.body is not None:
            exchange.body = [self.body]
        connection.register.add(exchange)
        return exchange


_SAME = (
    "own_id method target version headers trailers peer scheme keep error received started arrived".split()
)  # names that requests and exchanges have in common


@define
class CarriedAnswer:
    """An answer that has begun.

    :ivar kind: says what goes on with it; empty if it only has to be sent.
    :ivar state: how far that is, as JSON.
    :ivar files: descriptors that belong to it.
    :ivar rest: what the kernel has not taken yet.
    :ivar last: whether that is its end.
    """

    kind: str
    state: dict[str, Any]
    files: list[int] = field(factory=list)
    rest: bytes = b""
    last: bool = False
    status: int = 0
    length: int = -1
    sent: int = 0
    ended: float = 0.0
    chunked: bool = False
    download: bool = False
    phase: int = SENDING


class IMovable(Interface):
    """Answers exchanges so that another process can go on."""

    def carry(exchange: Exchange) -> CarriedAnswer | None:
        """What another process needs to go on; None if it cannot.  Reactor thread; changes nothing."""

    def hand_on(exchange: Exchange) -> bool:
        """Another process is about to go on.  False: it is too late, the answer is made here.  Reactor thread.

        Then either :meth:`IAnswerer.disconnected` is called, when it does go on, or `kept`.
        """

    def kept(exchange: Exchange) -> None:
        """No other process goes on after all.  Reactor thread."""


_OF_ANSWER = "status length sent ended chunked download phase".split()


@define
class Carried:
    """What of a connection is not in the kernel.

    :ivar requests: the complete ones, in order.
    :ivar answer: that of the first of them, if it has begun.
    :ivar begun: the request under way, if its head is complete.
    :ivar place: where that, or a head, stands; None if nothing is under way.
    :ivar head_since: when the first byte of an incomplete head came.
    :ivar unparsed: what was read, and could not be parsed yet.
    :ivar expects: the client waits for 100 Continue, and has not got it.
    :ivar eof: the client will send nothing more.
    :ivar ignoring: what still comes is no request.
    """

    requests: list[CarriedRequest]
    answer: CarriedAnswer | None
    begun: CarriedRequest | None
    place: Place | None
    head_since: float
    unparsed: bytes
    expects: bool
    eof: bool
    ignoring: bool

    @property
    def size(self) -> int:
        """Bytes that are in memory."""
        size = len(self.unparsed) + sum(len(request.body or b"") for request in self._all())
        if self.place is not None:
            size += len(self.place.head) + (len(self.place.chunks.line) if self.place.chunks is not None else 0)
        return size + (len(self.answer.rest) if self.answer is not None else 0)

    @property
    def files(self) -> list[int]:
        """Every descriptor that goes along, in order."""
        files = [request.file for request in self._all() if request.file >= 0]
        return [*files, *(self.answer.files if self.answer is not None else ())]

    def _all(self) -> list[CarriedRequest]:
        return [*self.requests, self.begun] if self.begun is not None else self.requests


def settled(connection: Connection) -> bool:
    """Whether it can be said what of a connection is not in the kernel, but for its answer.  Reactor thread."""
    token = connection.write_token
    return not (token.closed or token.closing or token.lingering) and connection.receiver.settled()


def answer_of(connection: Connection) -> CarriedAnswer | None:
    """Returns the answer that a connection carries, if another process can go on with it; else None."""
    token = connection.write_token
    exchange = token.current
    if exchange is None:
        return None
    if token.last and token.held and exchange.released:
        answer = CarriedAnswer("", {})
    elif IMovable.providedBy(exchange.handler) and not exchange.ended:
        found: CarriedAnswer | None = exchange.handler.carry(exchange)
        if found is None:
            return None
        answer = found
    else:
        return None
    with token.lock:
        answer.rest, answer.last = b"".join(token.rest), token.last
    for name in _OF_ANSWER:
        setattr(answer, name, getattr(exchange, name))
    return answer


def carry(connection: Connection, answer: CarriedAnswer | None) -> Carried | None:
    """Returns what of a connection is not in the kernel; None if all of it is.  Reactor thread.

    :param answer: that of its current exchange, if it has begun.
    """
    token, receiver, parser = connection.write_token, connection.receiver, connection.receiver.parser
    requests = [CarriedRequest.of(one) for one in ((token.current,) if token.current is not None else ())]
    requests += [CarriedRequest.of(one) for one in token.waiting]
    if answer is not None:
        requests[0].body, requests[0].file = None, -1  # the application has read it
    if answer is not None and answer.kind == AGAIN:
        answer, requests[0].arrived = None, monotonic()  # its time begins again
    place, under_way, begun = parser.place(), parser.exchange, None
    if under_way is not None and parser.head_done:
        begun = CarriedRequest.of(under_way)
        begun.trailers = None  # those so far are parsed again
        begun.file = receiver.file_so_far()
    if not requests and place is None and not parser.unparsed:
        return None
    return Carried(
        requests,
        answer,
        begun,
        place,
        under_way.started if under_way is not None else 0.0,
        parser.unparsed,
        receiver.waits_to_continue,
        token.eof,
        parser.ignoring,
    )


Resume = Callable[[Exchange, dict[str, Any], list[int]], object]


def go_on(connection: Connection, carried: Carried, resume: Mapping[str, Resume]) -> None:
    """Have a new connection go on where another process has left it.  Reactor thread.

    :param resume: goes on with an answer, by its kind; it owns the descriptors.
    """
    token, receiver, parser = connection.write_token, connection.receiver, connection.parser
    active, token.eof = connection.active, carried.eof
    requests = carried.requests
    if carried.answer is not None:
        _resume(connection, requests[0], carried.answer, resume)
        requests = requests[1:]
    for request in requests:
        exchange = request.exchange(connection)
        if request.file >= 0:
            exchange.body = _whole(request.file)
        exchange.phase = QUEUED
        if token.request_ready(exchange):
            connection.site.dispatch(exchange)
    if token.closed:  # by what answers: its client is gone
        connection.abandon()
        if carried.begun is not None and carried.begun.file >= 0:
            os.close(carried.begun.file)
        return
    if carried.begun is not None and carried.place is not None:
        receiver.go_on(carried.begun.exchange(connection), carried.place, carried.begun.file)
    elif carried.place is not None:
        parser.feed(carried.place.head)
        if parser.exchange is not None:
            parser.exchange.started = carried.head_since
    if carried.unparsed:
        parser.feed(carried.unparsed)
    if carried.expects:
        receiver.expects()
    if carried.ignoring:
        parser.ignoring = True
    if carried.eof:
        connection.read(False)
    elif parser.unparsed or receiver.full():
        receiver.pause()
    connection.active = active


def _resume(
    connection: Connection, request: CarriedRequest, answer: CarriedAnswer, resume: Mapping[str, Resume]
) -> None:
    exchange = request.exchange(connection)
    exchange.begun = True
    for name in _OF_ANSWER:
        setattr(exchange, name, getattr(answer, name))
    exchange._bare = exchange.bare()
    connection.take_up(exchange, answer.rest, answer.last)
    if answer.kind:
        resume[answer.kind](exchange, answer.state, answer.files)
    else:
        exchange.release()


def _whole(file: int) -> IO[bytes]:
    """Returns a body that is in a file, to be read from its beginning."""
    body = io.BufferedReader(io.FileIO(file, "rb"))
    body.seek(0)
    return body
