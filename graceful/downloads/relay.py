"""A URL on its way to a client: through the event loop, at the client's speed, and over an upstream's restart.

A slow client pauses the upstream, so that no more than a few pieces are ever held here.  A client that leaves ends
the upstream's request at once.  An upstream that dies in the middle is asked for the rest, if it has promised by a
strong validator that the rest will be the rest of the same file (RFC 9110 §8.8.1, §13.1.5, §14): the client notices
nothing but a pause.  Without that promise, or if the file has changed, the body ends visibly short.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import TCPTimedOutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse
from zope.interface import implementer

from graceful.downloads.headers import Answer, passed_on
from graceful.downloads.upstream import Upstream
from graceful.web.exchange import DOWNLOADING, Disconnected, Exchange
from graceful.web.interfaces import IAnswerer

log = Logger(namespace="graceful")


HIGH: Final = 1 << 16
PAUSES: Final = (0.1, 0.4, 1.0, 2.0, 4.0)
PROGRESS: Final = 1 << 20
SILENT: Final = 1.0

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})\Z")


class State(Enum):
    """How far it is."""

    ASKING = auto()
    FLOWING = auto()
    PAUSING = auto()
    OVER = auto()


class Body(Protocol):
    """Takes one response's body to its relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay: Relay | None = relay

    def dataReceived(self, data: bytes) -> None:
        """A piece has come."""
        if self._relay is not None:
            self._relay.data(data)

    def connectionLost(self, reason: Any = None) -> None:
        """The body has come to its end, or the connection to its own."""
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.body_ended(reason)

    def drop(self) -> None:
        """Nobody wants the rest."""
        self._relay = None
        if self.transport is not None:
            self.transport.loseConnection()


class Unwanted(Protocol):
    """Takes a body that nobody wants: it closes the connection."""

    def connectionMade(self) -> None:
        """The body is about to come."""
        assert self.transport is not None
        self.transport.loseConnection()


@implementer(IAnswerer)
class Relay:
    """One URL on its way to one client.  Reactor thread.

    :param exchange: whose answer has not begun.
    :param url: what is asked of the upstream.
    :param answer: what the application wants to be in the answer.
    :param asked: the request's fields that are passed on, by lower-case name; conditions and range among them.
    :param upstream: whom to ask.
    :param clock: monotonic time.
    :param silence: how long the upstream may say nothing, seconds.
    :param over: called when it is over.
    """

    def __init__(
        self,
        exchange: Exchange,
        url: str,
        answer: Answer,
        asked: Mapping[str, str],
        upstream: Upstream,
        clock: IReactorTime,
        silence: float,
        over: Any,
    ) -> None:
        self._exchange = exchange
        self._connection = exchange.connection
        self._url = url
        self._answer = answer
        self._asked = asked
        self._upstream = upstream
        self._clock = clock
        self._silence = silence
        self._when_over = over
        self._state = State.ASKING
        self._heard = clock.seconds()
        self._asking: Deferred[IResponse] | None = None
        self._body: Body | None = None
        self._paused = self._late = False
        self._timer: IDelayedCall | None = None
        # What a broken body can be resumed by: its validator, the places of its next byte and of its last, and the
        # file's length.
        self._etag = ""
        self._next = self._last = self._total = 0
        self._tries = 0
        self._resumed_at = 0

    def begin(self) -> None:
        """Ask the upstream."""
        exchange = self._exchange
        exchange.handler = self
        exchange.phase = DOWNLOADING
        self._connection.drained = self._drained
        self._ask(self._asked, self._first_response)
        if self._connection.write_token.eof and self.parked(exchange):
            self._connection.close()

    # -- asking -------------------------------------------------------------------------------------------

    def _ask(self, fields: Mapping[str, str], then: Any) -> None:
        self._state = State.ASKING
        self._heard = self._clock.seconds()
        method = "HEAD" if self._exchange.method == "HEAD" else "GET"
        self._late = False
        asking = self._asking = maybeDeferred(self._upstream.ask, method, self._url, list(fields.items()))
        asking.addCallbacks(then, self._no_response)
        asking.addErrback(self._failed)

    def _first_response(self, response: IResponse) -> None:
        """The upstream answers: so do we, with what it says and what the application wants."""
        self._asking = None
        exchange = self._exchange
        if self._state is State.OVER:
            response.deliverBody(Unwanted())
            return
        if response.code == 206 and "range" not in self._asked:
            self._give_up(response, f"it answers {self._url} with a part that nobody has asked for")
            return
        head = exchange.method == "HEAD"
        fields = passed_on(response.code, response.headers, self._answer)
        length = _field(response, "content-length") if head else str(response.length)
        if length.isdigit() and response.code not in (204, 304):
            fields.append(("Content-Length", length))
        self._remember(response)
        try:
            exchange.start(self._answer.status_line(response.code), fields)
        except ValueError as error:
            self._give_up(response, f"it sends what must not be passed on: {error}")
            return
        try:
            if exchange.bare() or response.length == 0:
                response.deliverBody(Unwanted() if not head and response.length else Protocol())
                self._finish()
                return
            self._connection.keep_unsent_low(True)
            exchange.write(b"")
        except Disconnected:
            response.deliverBody(Unwanted())
            self.disconnected(exchange)
            return
        self._deliver(response)

    def _remember(self, response: IResponse) -> None:
        """What is needed to ask for the rest, if there should be need."""
        etag = _field(response, "etag")
        if response.length is UNKNOWN_LENGTH or not etag.startswith('"') or self._exchange.method == "HEAD":
            return
        if response.code == 200 and "bytes" in _field(response, "accept-ranges").lower():
            self._etag, self._next, self._last, self._total = etag, 0, response.length - 1, response.length
        elif response.code == 206:
            places = _CONTENT_RANGE.match(_field(response, "content-range"))
            if places is not None and int(places[2]) - int(places[1]) + 1 == response.length:
                self._etag = etag
                self._next, self._last, self._total = (int(place) for place in places.groups())

    def _no_response(self, failure: Failure) -> None:
        self._asking = None
        if self._state is not State.ASKING:
            return  # it was we who have ended it
        late = self._late or failure.check(TimeoutError, TCPTimedOutError) is not None
        self._broken("it does not answer in time" if self._late else _why(failure), late)

    def _failed(self, failure: Failure) -> None:
        log.failure("{exchange}: a download failed", failure, exchange=self._exchange)
        self._end_badly(500)

    def _give_up(self, response: IResponse, why: str) -> None:
        response.deliverBody(Unwanted())
        log.error("{exchange}: the upstream cannot be used: {why}", exchange=self._exchange, why=why)
        self._end_badly(502)

    # -- the body -----------------------------------------------------------------------------------------

    def _deliver(self, response: IResponse) -> None:
        self._state = State.FLOWING
        self._heard = self._clock.seconds()
        self._paused = False
        self._body = Body(self)
        response.deliverBody(self._body)

    def data(self, data: bytes) -> None:
        """A piece has come."""
        self._heard = self._clock.seconds()
        self._next += len(data)
        try:
            self._exchange.write(data)
        except Disconnected:
            self.disconnected(self._exchange)
            return
        if self._connection.write_token.held > HIGH:
            self._pause(True)

    def _drained(self) -> None:
        """The client has taken everything."""
        if self._paused:
            self._pause(False)

    def _pause(self, paused: bool) -> None:
        self._paused = paused
        self._heard = self._clock.seconds()
        if self._body is not None and self._body.transport is not None:
            transport: Any = self._body.transport
            if paused:
                transport.pauseProducing()
            else:
                transport.resumeProducing()

    def body_ended(self, reason: Failure) -> None:
        """The body is whole; or the upstream has broken off."""
        self._body = None
        if self._state is not State.FLOWING:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self._finish()
        else:
            self._broken(_why(reason), late=False)

    # -- an upstream that breaks off ----------------------------------------------------------------------

    def _broken(self, why: str, late: bool) -> None:
        if not self._exchange.begun:
            log.error("{exchange}: {url}: {why}", exchange=self._exchange, url=self._url, why=why)
            self._end_badly(504 if late else 502)
            return
        if self._next - self._resumed_at > PROGRESS:
            self._tries = 0
        if not self._etag or self._tries == len(PAUSES):
            self._cut(f"the upstream broke off, and cannot be asked for the rest: {why}")
            return
        log.warn(
            "{exchange}: the upstream broke off ({why}), and is asked for the rest from byte {place}",
            exchange=self._exchange,
            why=why,
            place=self._next,
        )
        self._state = State.PAUSING
        self._timer = self._clock.callLater(PAUSES[self._tries], self._ask_for_the_rest)
        self._tries += 1
        self._resumed_at = self._next

    def _ask_for_the_rest(self) -> None:
        self._timer = None
        fields = {name: value for name, value in self._asked.items() if not name.startswith("if-")}
        fields["range"] = f"bytes={self._next}-{self._last}"
        fields["if-range"] = self._etag
        self._ask(fields, self._next_response)

    def _next_response(self, response: IResponse) -> None:
        """The upstream is back: with the rest of the same file, or not."""
        self._asking = None
        if self._state is State.OVER:
            response.deliverBody(Unwanted())
            return
        if response.code == 206 and self._is_the_rest(response):
            self._deliver(response)
            return
        response.deliverBody(Unwanted())
        if response.code >= 500:
            self._broken(f"it answers {response.code}", late=False)
        else:
            self._cut("the upstream has another file by now")

    def _is_the_rest(self, response: IResponse) -> bool:
        """Whether it is of the same file, and all that is missing."""
        places = _CONTENT_RANGE.match(_field(response, "content-range"))
        return (
            places is not None
            and tuple(int(place) for place in places.groups()) == (self._next, self._last, self._total)
            and response.length in (UNKNOWN_LENGTH, self._last - self._next + 1)
            and _field(response, "etag") == self._etag
        )

    def _cut(self, why: str) -> None:
        log.error(
            "{exchange}: cut after {sent} bytes: {why}", exchange=self._exchange, sent=self._exchange.sent, why=why
        )
        self._end_badly(502)

    # -- the end ------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """All of it is there.  Let go of the connection first: with the last byte its next exchange may begin."""
        self._over(through=False)
        self._connection.keep_unsent_low(False)
        self._exchange.finish_and_release()

    def _end_badly(self, status: int) -> None:
        """Answer with this status; or cut what has begun."""
        if self._state is State.OVER:
            return
        self._over(through=False)
        self._connection.site.answer(self._exchange, status)

    def _over(self, through: bool = True) -> None:
        """It is over, for whatever reason: let go of everything."""
        self._state = State.OVER
        self._connection.drained = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asking is not None:
            self._asking.cancel()
        if self._body is not None:
            self._body.drop()
            self._body = None
        self._when_over(self)
        if through:
            self._exchange.release()

    def tick(self, now: float) -> None:
        """Look whether the upstream is silent, or the client is gone.  Once a second.

        :param now: the clock's seconds.
        """
        if self._connection.write_token.eof and self.parked(self._exchange):
            self._connection.close()
        elif now - self._heard <= self._silence or self._paused:
            pass
        elif self._state is State.ASKING and self._asking is not None:
            self._late = True
            self._asking.cancel()
        elif self._state is State.FLOWING and self._body is not None:
            body, self._body = self._body, None
            body.drop()
            self._broken(f"it has said nothing for {self._silence:g} s", late=True)

    # -- IAnswerer -----------------------------------------------------------------------------------------

    def disconnected(self, exchange: Exchange) -> None:
        """The client is gone, or it was cut."""
        if self._state is not State.OVER:
            exchange.abandon()
            self._over()

    def parked(self, exchange: Exchange) -> bool:
        """Whether nothing is on its way to the client, and nothing comes that would be."""
        if self._connection.write_token.held or self._state is State.OVER:
            return False
        return self._state is not State.FLOWING or self._clock.seconds() - self._heard > SILENT


def _field(response: IResponse, name: str) -> str:
    values = response.headers.getRawHeaders(name.encode("ascii"), [])
    return values[0].decode("latin-1").strip() if values else ""


def _why(failure: Failure) -> str:
    """What has ended a response, without the layers that Twisted wraps around it."""
    reasons = getattr(failure.value, "reasons", None)
    return _why(reasons[0]) if reasons else f"{type(failure.value).__name__}: {failure.getErrorMessage()}"
