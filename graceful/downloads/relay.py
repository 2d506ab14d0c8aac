"""A URL on its way to a client: through the event loop, at the client's speed, and over an upstream's restart.

A slow client pauses the upstream, so that only a few pieces are held here.  When a client leaves, the upstream's
request ends as soon as that is certain: a client that says only that it will send nothing more may still read, and
gets its answer.  Sending to one that has left shows it, and an upstream that sends nothing has a limit.

When an upstream dies in the middle, it is asked for the rest (:mod:`graceful.downloads.rest_of_file`): the client
notices only a pause.  If there is no rest to be had, the body ends visibly short.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
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
from twisted.web.iweb import IResponse
from zope.interface import implementer

from graceful.downloads.headers import ApplicationHead, client_fields
from graceful.downloads.reactor_answer import run_or_fail
from graceful.downloads.response_body import BodyReceiver, DiscardedBody
from graceful.downloads.rest_of_file import RestOfFile, field_of
from graceful.downloads.upstream import Upstream
from graceful.web.carrying import CarriedAnswer, IMovable
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import DOWNLOADING, Exchange
from graceful.web.interfaces import IAnswerer

log = Logger(namespace="graceful")


#: What goes on in another process with an answer of this kind.
URL: Final = "url"
#: Bytes that wait for a client, above which the upstream is paused; with the pieces that are under way then, no more
#: than 256 KiB are held.
PAUSE_ABOVE: Final = 1 << 16


class RelayState(Enum):
    """How far a relay is."""

    #: The upstream was asked, and has not answered yet.
    ASKING = auto()
    #: A body is coming.
    FLOWING = auto()
    #: The upstream broke off; it will be asked for the rest.
    PAUSING = auto()
    OVER = auto()


@implementer(IAnswerer, IMovable)
class Relay:
    """One URL on its way to one client; a `graceful.downloads.reactor_answer.ReactorAnswer`.  Reactor thread.

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
        self.exchange = exchange
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
        self._rest: RestOfFile | None = None  # None if the upstream cannot be asked for it

    def begin(self) -> None:
        """Ask the upstream."""
        exchange = self.exchange
        exchange.handler = self
        exchange.phase = DOWNLOADING
        self._connection.drained = self._drained
        self._ask(self._asked, self._first_response)

    def resume(self, etag: str, following: int, last: int, total: int) -> None:
        """Go on with an answer that another process has begun: ask the upstream for the rest.

        :param etag: the validator of what was sent.
        :param following: the offset of the next byte.
        :param last: the offset of the last byte.
        :param total: the size of the file.
        """
        self.exchange.handler = self
        self._connection.drained = self._drained
        self._connection.keep_unsent_low(True)
        self._rest = rest = RestOfFile(etag, following, last, total)
        if rest.complete:
            self._finish()
        else:
            self._ask_for(rest)

    def drop(self) -> None:
        """Let go of the upstream."""
        if self._state is not RelayState.OVER:
            self._over(through=False)

    # -- asking -------------------------------------------------------------------------------------------

    def _ask(self, fields: Mapping[str, str], then: Callable[[IResponse], object]) -> None:
        self._state = RelayState.ASKING
        self._last_heard = self._clock.seconds()
        method = "HEAD" if self.exchange.method == "HEAD" else "GET"
        self._timed_out = False
        asking = self._asking = maybeDeferred(self._upstream.ask, method, self._url, list(fields.items()))
        asking.addCallbacks(self._use, self._no_response, callbackArgs=(then,))
        asking.addErrback(self._failed)

    def _use(self, response: IResponse, then: Callable[[IResponse], object]) -> None:
        """Have a response looked at.  If that fails, its connection is closed: its body would wait there for ever."""
        try:
            then(response)
        except Exception:
            with suppress(Exception):  # its body has been taken
                response.deliverBody(DiscardedBody())
            raise

    def _first_response(self, response: IResponse) -> None:
        """Start the answer, with the fields of the upstream and of the application."""
        self._asking = None
        exchange = self.exchange
        if self._state is RelayState.OVER:
            response.deliverBody(DiscardedBody())
            return
        if response.code == 206 and "range" not in self._asked:
            self._give_up(response, f"it answers {self._url} with a part that was not requested")
            return
        head = exchange.method == "HEAD"
        fields = client_fields(response.code, response.headers, self._head)
        length = field_of(response, "content-length") if head else str(response.length)
        if length.isdigit() and response.code not in (204, 304):
            fields.append(("Content-Length", length))
        self._rest = RestOfFile.of(response) if exchange.method != "HEAD" else None
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

    def _no_response(self, failure: Failure) -> None:
        self._asking = None
        if self._state is not RelayState.ASKING:
            return  # this relay has cancelled it
        late = self._timed_out or failure.check(TimeoutError, TCPTimedOutError) is not None
        self._broken("it does not answer in time" if self._timed_out else _why(failure), late)

    def _failed(self, failure: Failure) -> None:
        log.failure("{exchange}: a download failed", failure, exchange=self.exchange)
        self._end_badly(500)

    def _give_up(self, response: IResponse, why: str) -> None:
        response.deliverBody(DiscardedBody())
        log.error("{exchange}: the upstream cannot be used: {why}", exchange=self.exchange, why=why)
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
        if self._rest is not None:
            self._rest.came(len(data))
        try:
            self.exchange.write(data)
        except Disconnected:
            self.disconnected(self.exchange)
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
        if not self.exchange.begun:
            log.error("{exchange}: {url}: {why}", exchange=self.exchange, url=self._url, why=why)
            self._end_badly(504 if late else 502)
            return
        rest = self._rest
        delay = rest.next_delay() if rest is not None else None
        if rest is None or delay is None:
            self._cut(f"the upstream broke off, and cannot be asked for the rest: {why}")
            return
        log.warn(
            "{exchange}: the upstream broke off ({why}), and is asked for the rest from byte {place}",
            exchange=self.exchange,
            why=why,
            place=rest.following,
        )
        self._state = RelayState.PAUSING
        self._timer = self._clock.callLater(delay, run_or_fail, self, self._ask_for, rest)

    def _ask_for(self, rest: RestOfFile) -> None:
        self._timer = None
        self._ask(rest.request(self._asked), lambda response: self._next_response(response, rest))

    def _next_response(self, response: IResponse, rest: RestOfFile) -> None:
        """Go on if the upstream sends the rest of the same file; else try again, or cut the answer."""
        self._asking = None
        if self._state is RelayState.OVER:
            response.deliverBody(DiscardedBody())
            return
        if response.code == 206 and rest.is_in(response):
            self._deliver(response)
            return
        response.deliverBody(DiscardedBody())
        if response.code >= 500:
            self._broken(f"it answers {response.code}", late=False)
        else:
            self._cut("the upstream has another file by now")

    def _cut(self, why: str) -> None:
        log.error(
            "{exchange}: cut after {sent} bytes: {why}", exchange=self.exchange, sent=self.exchange.sent, why=why
        )
        self._end_badly(502)

    # -- the end ------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """End the answer.  Before that, let go of the connection: its next exchange may begin with the last byte."""
        self._over(through=False)
        self._connection.keep_unsent_low(False)
        self.exchange.finish_and_release()

    def _end_badly(self, status: int) -> None:
        """Answer with this status, or cut an answer that has begun."""
        if self._state is RelayState.OVER:
            return
        self._over(through=False)
        self._connection.site.answer(self.exchange, status)

    def _over(self, through: bool = True) -> None:
        """Let go of everything: the relay is over."""
        self._state = RelayState.OVER
        self._connection.drained = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._asking is not None:
            self._asking.cancel()
        if self._body is not None:
            self._body.drop()
            self._body = None
        self._on_over(self)
        if through:
            self.exchange.release()

    def tick(self, now: float) -> None:
        """Check whether the upstream is silent.  Once a second.

        :param now: the clock's seconds.
        """
        if now - self._last_heard <= self._silence or self._paused:
            pass
        elif self._state is RelayState.ASKING and self._asking is not None:
            self._timed_out = True
            self._asking.cancel()
        elif self._state is RelayState.FLOWING and self._body is not None:
            body, self._body = self._body, None
            body.drop()
            self._broken(f"it has said nothing for {self._silence:g} s", late=True)

    # -- IMovable ------------------------------------------------------------------------------------------

    def carry(self, exchange: Exchange) -> CarriedAnswer | None:
        """The place in the file; None if no strong validator guarantees that the rest is of the same file."""
        if self._rest is None or self._state is RelayState.OVER:
            return None
        return CarriedAnswer(URL, {"url": self._url, "asked": dict(self._asked), **self._rest.told()})

    def hand_on(self, exchange: Exchange) -> bool:
        """What still comes waits behind the rest, and is dropped with it if the answer moves."""
        return True

    def kept(self, exchange: Exchange) -> None:
        """The connection is written to again."""

    # -- IAnswerer -----------------------------------------------------------------------------------------

    def disconnected(self, exchange: Exchange) -> None:
        """End: the client has left, or its connection was cut."""
        if self._state is not RelayState.OVER:
            exchange.abandon()
            self._over()

    def parked(self, exchange: Exchange) -> bool:
        """Return False: the upstream has a limit to send something, and sending shows whether the client is there."""
        return False

    def works_for(self, exchange: Exchange) -> bool:
        """Whether the relay is still under way."""
        return self._state is not RelayState.OVER


def _why(failure: Failure) -> str:
    """Return what has ended a response, without the layers that Twisted wraps around it."""
    reasons = getattr(failure.value, "reasons", None)
    return _why(reasons[0]) if reasons else f"{type(failure.value).__name__}: {failure.getErrorMessage()}"
