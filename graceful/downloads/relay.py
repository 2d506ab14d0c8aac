"""A URL on its way to a client: through the event loop, at the client's speed, and over an upstream's restart.

A slow client pauses the upstream, so that only a few pieces are held here.  When a client leaves, the upstream's
request ends at once.  When an upstream dies in the middle, it is asked for the rest, if a strong validator guarantees
that the rest is of the same file (RFC 9110 §8.8.1, §13.1.5, §14): the client notices only a pause.  Without a
validator, or if the file has changed, the body ends visibly short.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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

from graceful.downloads.headers import ApplicationHead, client_fields
from graceful.downloads.upstream import Upstream
from graceful.web.exchange import DOWNLOADING, Disconnected, Exchange
from graceful.web.interfaces import IAnswerer

log = Logger(namespace="graceful")


#: Bytes that wait for a client, above which the upstream is paused; with the pieces that are under way then, no more
#: than 256 KiB are held.
PAUSE_ABOVE: Final = 1 << 16
#: Seconds before each time that an upstream is asked for the rest: together long enough for a restart.
RETRY_DELAYS: Final = (0.1, 0.4, 1.0, 2.0, 4.0)
#: Bytes after which a retry has succeeded, and the next break begins with the first delay.
PROGRESS: Final = 1 << 20
#: Seconds without a byte from the upstream, after which nothing shows any more whether the client is still there.
IDLE_AFTER: Final = 1.0

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})\Z")


class RelayState(Enum):
    """How far a relay is."""

    #: The upstream was asked, and has not answered yet.
    ASKING = auto()
    #: A body is coming.
    FLOWING = auto()
    #: The upstream broke off; it will be asked for the rest.
    PAUSING = auto()
    OVER = auto()


class BodyReceiver(Protocol):
    """Passes one response's body to its relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay: Relay | None = relay

    def dataReceived(self, data: bytes) -> None:
        """Pass a piece on."""
        if self._relay is not None:
            self._relay.data(data)

    def connectionLost(self, reason: Any = None) -> None:
        """Tell the relay that the body or the connection has ended."""
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.body_ended(reason)

    def drop(self) -> None:
        """Close the connection: the rest is not wanted."""
        self._relay = None
        if self.transport is not None:
            self.transport.loseConnection()


class DiscardedBody(Protocol):
    """Closes the connection instead of receiving a body."""

    def connectionMade(self) -> None:
        """Close the connection before the body comes."""
        assert self.transport is not None
        self.transport.loseConnection()


@implementer(IAnswerer)
class Relay:
    """One URL on its way to one client.  Reactor thread.

    :param exchange: its answer has not begun.
    :param url: at the upstream.
    :param head: what the application has set in the answer.
    :param asked: the request fields that are passed on, by lower-case name, with conditions and range.
    :param upstream: sends requests to upstream servers.
    :param clock: monotonic time.
    :param silence: how long the upstream may say nothing, seconds.
    :param over: called with this relay at its end.
    """

    def __init__(
        self,
        exchange: Exchange,
        url: str,
        head: ApplicationHead,
        asked: Mapping[str, str],
        upstream: Upstream,
        clock: IReactorTime,
        silence: float,
        over: Callable[[Relay], object],
    ) -> None:
        self._exchange = exchange
        self._connection = exchange.connection
        self._url = url
        self._head = head
        self._asked = asked
        self._upstream = upstream
        self._clock = clock
        self._silence = silence
        self._on_over = over
        self._state = RelayState.ASKING
        self._last_heard = clock.seconds()
        self._asking: Deferred[IResponse] | None = None
        self._body: BodyReceiver | None = None
        self._paused = self._timed_out = False
        self._timer: IDelayedCall | None = None
        # To ask for the rest: the validator, the offsets of the next byte and the last, and the size of the file.
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
        self._state = RelayState.ASKING
        self._last_heard = self._clock.seconds()
        method = "HEAD" if self._exchange.method == "HEAD" else "GET"
        self._timed_out = False
        asking = self._asking = maybeDeferred(self._upstream.ask, method, self._url, list(fields.items()))
        asking.addCallbacks(then, self._no_response)
        asking.addErrback(self._failed)

    def _first_response(self, response: IResponse) -> None:
        """Start the answer, with the fields of the upstream and of the application."""
        self._asking = None
        exchange = self._exchange
        if self._state is RelayState.OVER:
            response.deliverBody(DiscardedBody())
            return
        if response.code == 206 and "range" not in self._asked:
            self._give_up(response, f"it answers {self._url} with a part that was not requested")
            return
        head = exchange.method == "HEAD"
        fields = client_fields(response.code, response.headers, self._head)
        length = _field(response, "content-length") if head else str(response.length)
        if length.isdigit() and response.code not in (204, 304):
            fields.append(("Content-Length", length))
        self._remember(response)
        try:
            exchange.start(self._head.status_line(response.code), fields)
        except ValueError as error:
            self._give_up(response, f"it sends what must not be passed on: {error}")
            return
        try:
            if exchange.bare() or response.length == 0:
                response.deliverBody(DiscardedBody() if not head and response.length else Protocol())
                self._finish()
                return
            self._connection.keep_unsent_low(True)
            exchange.write(b"")
        except Disconnected:
            response.deliverBody(DiscardedBody())
            self.disconnected(exchange)
            return
        self._deliver(response)

    def _remember(self, response: IResponse) -> None:
        """Remember what is needed to ask for the rest."""
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
        if self._state is not RelayState.ASKING:
            return  # this relay has cancelled it
        late = self._timed_out or failure.check(TimeoutError, TCPTimedOutError) is not None
        self._broken("it does not answer in time" if self._timed_out else _why(failure), late)

    def _failed(self, failure: Failure) -> None:
        log.failure("{exchange}: a download failed", failure, exchange=self._exchange)
        self._end_badly(500)

    def _give_up(self, response: IResponse, why: str) -> None:
        response.deliverBody(DiscardedBody())
        log.error("{exchange}: the upstream cannot be used: {why}", exchange=self._exchange, why=why)
        self._end_badly(502)

    # -- the body -----------------------------------------------------------------------------------------

    def _deliver(self, response: IResponse) -> None:
        self._state = RelayState.FLOWING
        self._last_heard = self._clock.seconds()
        self._paused = False
        self._body = BodyReceiver(self)
        response.deliverBody(self._body)

    def data(self, data: bytes) -> None:
        """Send a piece to the client; pause the upstream if too much is waiting."""
        self._last_heard = self._clock.seconds()
        self._next += len(data)
        try:
            self._exchange.write(data)
        except Disconnected:
            self.disconnected(self._exchange)
            return
        if self._connection.write_token.held > PAUSE_ABOVE:
            self._pause(True)

    def _drained(self) -> None:
        """Resume the upstream: the client has taken everything."""
        if self._paused:
            self._pause(False)

    def _pause(self, paused: bool) -> None:
        self._paused = paused
        self._last_heard = self._clock.seconds()
        if self._body is not None and self._body.transport is not None:
            transport: Any = self._body.transport
            if paused:
                transport.pauseProducing()
            else:
                transport.resumeProducing()

    def body_ended(self, reason: Failure) -> None:
        """Finish if the body is whole; else the upstream has broken off."""
        self._body = None
        if self._state is not RelayState.FLOWING:
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
        if not self._etag or self._tries == len(RETRY_DELAYS):
            self._cut(f"the upstream broke off, and cannot be asked for the rest: {why}")
            return
        log.warn(
            "{exchange}: the upstream broke off ({why}), and is asked for the rest from byte {place}",
            exchange=self._exchange,
            why=why,
            place=self._next,
        )
        self._state = RelayState.PAUSING
        self._timer = self._clock.callLater(RETRY_DELAYS[self._tries], self._ask_for_the_rest)
        self._tries += 1
        self._resumed_at = self._next

    def _ask_for_the_rest(self) -> None:
        self._timer = None
        fields = {name: value for name, value in self._asked.items() if not name.startswith("if-")}
        fields["range"] = f"bytes={self._next}-{self._last}"
        fields["if-range"] = self._etag
        self._ask(fields, self._next_response)

    def _next_response(self, response: IResponse) -> None:
        """Go on if the upstream sends the rest of the same file; else try again, or cut the answer."""
        self._asking = None
        if self._state is RelayState.OVER:
            response.deliverBody(DiscardedBody())
            return
        if response.code == 206 and self._is_the_rest(response):
            self._deliver(response)
            return
        response.deliverBody(DiscardedBody())
        if response.code >= 500:
            self._broken(f"it answers {response.code}", late=False)
        else:
            self._cut("the upstream has another file by now")

    def _is_the_rest(self, response: IResponse) -> bool:
        """Whether a response has all that is missing, of the same file."""
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
        """End the answer.  Before that, let go of the connection: its next exchange may begin with the last byte."""
        self._over(through=False)
        self._connection.keep_unsent_low(False)
        self._exchange.finish_and_release()

    def _end_badly(self, status: int) -> None:
        """Answer with this status, or cut an answer that has begun."""
        if self._state is RelayState.OVER:
            return
        self._over(through=False)
        self._connection.site.answer(self._exchange, status)

    def _over(self, through: bool = True) -> None:
        """Let go of everything: the relay is over."""
        self._state = RelayState.OVER
        self._connection.drained = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asking is not None:
            self._asking.cancel()
        if self._body is not None:
            self._body.drop()
            self._body = None
        self._on_over(self)
        if through:
            self._exchange.release()

    def tick(self, now: float) -> None:
        """Check whether the upstream is silent, or the client has left.  Once a second.

        :param now: the clock's seconds.
        """
        if self._connection.write_token.eof and self.parked(self._exchange):
            self._connection.close()
        elif now - self._last_heard <= self._silence or self._paused:
            pass
        elif self._state is RelayState.ASKING and self._asking is not None:
            self._timed_out = True
            self._asking.cancel()
        elif self._state is RelayState.FLOWING and self._body is not None:
            body, self._body = self._body, None
            body.drop()
            self._broken(f"it has said nothing for {self._silence:g} s", late=True)

    # -- IAnswerer -----------------------------------------------------------------------------------------

    def disconnected(self, exchange: Exchange) -> None:
        """End: the client has left, or its connection was cut."""
        if self._state is not RelayState.OVER:
            exchange.abandon()
            self._over()

    def parked(self, exchange: Exchange) -> bool:
        """Whether nothing is on its way to the client, and nothing comes from the upstream."""
        if self._connection.write_token.held or self._state is RelayState.OVER:
            return False
        return self._state is not RelayState.FLOWING or self._clock.seconds() - self._last_heard > IDLE_AFTER


def _field(response: IResponse, name: str) -> str:
    values = response.headers.getRawHeaders(name.encode("ascii"), [])
    return values[0].decode("latin-1").strip() if values else ""


def _why(failure: Failure) -> str:
    """Return what has ended a response, without the layers that Twisted wraps around it."""
    reasons = getattr(failure.value, "reasons", None)
    return _why(reasons[0]) if reasons else f"{type(failure.value).__name__}: {failure.getErrorMessage()}"
