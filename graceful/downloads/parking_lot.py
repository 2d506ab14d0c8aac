"""Where parked requests wait: the event loop's side of their tickets.

There can be ten thousand of them, and when a server stops all of them are answered; if that happened at once, ten
thousand clients would come back in one instant.  So they are answered over a second; the application makes each
answer, in a thread; and a request that is parked when the drain has begun is kept for a moment, or its client would
come straight back, again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import uniform
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from graceful.downloads.event_stream import STREAM, EventStream
from graceful.downloads.headers import without_identity
from graceful.downloads.parked import NO_NEWS, AtDrain, Parked, ParkedAnswer, parked_answer
from graceful.downloads.reactor_answer import run_or_fail
from graceful.web.carrying import AGAIN, CarriedAnswer, IMovable
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import PARKED, Exchange
from graceful.web.interfaces import IAnswerer

log = Logger(namespace="graceful")


#: Seconds over which the parked requests are answered when a server stops: their clients must not come back at once.
DRAIN_SPREAD: Final = 1.0
#: Seconds that a request which may move has for it.
MOVES_IN: Final = 2.0
#: The methods for which a view may be called twice (RFC 9110 §9.2.1).
_SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS"))
#: Seconds, at least and at most, that a request parked in a drain is kept, and after which an event stream's client
#: comes back: at random, for the same reason.
COME_BACK_AFTER: Final = (1.0, 2.0)
#: Bytes of events that may wait for a client; one that reads more slowly is cut, to bound the memory.
MAX_UNSENT: Final = 1 << 18


@implementer(IAnswerer, IMovable)
class ParkedRequest:
    """One parked request; a `graceful.downloads.reactor_answer.ReactorAnswer`.

    Made in any thread; all else but :meth:`give` happens in the reactor's.

    :param exchange: its view has returned; it may have started an event stream, but nothing was sent.
    :param ticket: the application's side of the request.
    :param parking_lot: where it waits.
    :param stream: whether it is an event stream.
    :ivar due: when it is answered by itself, or told of the drain, seconds of the clock.
    """

    def __init__(self, exchange: Exchange, ticket: Parked, parking_lot: ParkingLot, stream: bool) -> None:
        self.exchange = exchange
        self.ticket = ticket
        self.due = 0.0
        self._parking_lot = parking_lot
        self._stream = stream
        self._over = self._moving = False
        self._given = self._taken = 0  # news that have come, under the ticket's lock, and that are on their way
        self._events = EventStream() if stream and ticket.move else None

    def begin(self) -> None:
        """Wait.  Reactor thread."""
        self._parking_lot.enter(self)
        exchange = self.exchange
        exchange.handler = self
        exchange.phase = PARKED
        if self._stream:
            try:
                exchange.write(b"")  # a browser's EventSource opens when it gets the head
                if exchange.bare() and self.ticket.end():
                    self._take(b"", True)  # HEAD is answered with that
                    return
            except Disconnected:
                self.disconnected(exchange)
                return
        kept, complete = self.ticket.wait_at(self)
        if complete and not kept:  # the ticket was closed on its way here
            self._take(b"" if self._stream else NO_NEWS, True)
        for position, what in enumerate(kept, 1):
            self._take(what, complete and position == len(kept))
        if not self._over and exchange.connection.write_token.eof:
            exchange.connection.close()

    def drop(self) -> None:
        """Stop waiting, and tell the application that the client has left."""
        self._leave()
        if self.ticket.end():
            self.ticket.gone.callback(None)

    def give(self, what: ParkedAnswer | bytes, last: bool) -> None:
        """Send an answer, or a piece of an event stream.  Any thread.

        :param last: nothing comes after it.
        """
        self._given += 1
        self._parking_lot.call(run_or_fail, self, self._take_given, what, last)

    def _take_given(self, what: ParkedAnswer | bytes, last: bool) -> None:
        self._taken += 1
        self._take(what, last)

    def _take(self, what: ParkedAnswer | bytes, last: bool) -> None:
        if self._over:
            return
        exchange = self.exchange
        try:
            if isinstance(what, ParkedAnswer):
                if exchange.begun:
                    exchange.finish(what.body)
                else:
                    exchange.start(what.status, [*self._view_fields(what), *what.headers])
                    exchange.finish(what.body)
            elif last:
                exchange.finish(what)
            elif exchange.connection.write_token.held > MAX_UNSENT:
                log.info("{exchange}: its client does not take its events, and is cut", exchange=exchange)
                exchange.connection.close()
                return
            else:
                exchange.write(what)
                if self._events is not None:
                    self._events.follow(what)
                return
        except Disconnected:
            self.disconnected(exchange)
            return
        except (ValueError, TypeError):
            log.failure("{exchange}: an answer to a parked request cannot be sent", exchange=exchange)
            self._leave()
            exchange.connection.site.answer(exchange, 500)
            return
        self._leave()
        exchange.release()

    def _view_fields(self, answer: ParkedAnswer) -> list[tuple[str, str]]:
        """Return the fields of the view and its middlewares, such as a cookie, that the answer does not set."""
        said = {name.lower() for name, _ in answer.headers}
        if not answer.body:
            said.add("content-type")  # the view's describes its own page
        return [(name, value) for name, value in without_identity(self.exchange.fields()) if name.lower() not in said]

    def _leave(self) -> None:
        self._over = True
        self._parking_lot.leave(self)

    # -- its time is over, or the server's ----------------------------------------------------------------

    def time_out(self) -> None:
        """Answer with 204, or end the event stream, unless the application has just answered."""
        if self.ticket.end():
            self._take(b"" if self._stream else NO_NEWS, True)

    def tell_of_drain(self) -> None:
        """Have the application answer since the server stops; without `at_drain`, answer with 204."""
        if self.ticket.end():
            self._tell_of_drain()

    def _tell_of_drain(self) -> None:
        if self.ticket.at_drain is None:
            self._drained(None)
        else:
            self._parking_lot.call_in_thread(self._ask, self.ticket.at_drain)

    def _ask(self, at_drain: AtDrain) -> None:
        """Call the application.  In a thread."""
        answer: ParkedAnswer | None = None
        try:
            made = at_drain()
            answer = parked_answer(*made) if made is not None else None
        except Exception:
            log.failure("{exchange}: at_drain of a parked request failed", exchange=self.exchange)
        finally:
            self._parking_lot.call(run_or_fail, self, self._drained, answer)

    def _drained(self, answer: ParkedAnswer | None) -> None:
        if self._stream:
            # From the HTML standard, in no RFC: the time after which the browser comes back.
            retry = b"retry: %d\n\n" % int(uniform(*COME_BACK_AFTER) * 1000)
            self._take((answer.body if answer is not None else b"") + retry, True)
        else:
            self._take(answer if answer is not None else NO_NEWS, True)

    # -- IMovable ------------------------------------------------------------------------------------------

    @property
    def may_move(self) -> bool:
        """Whether the view may be called again, in another process."""
        exchange = self.exchange
        return self.ticket.move and exchange.method in _SAFE and not (exchange.received or self._over)

    def carry(self, exchange: Exchange) -> CarriedAnswer | None:
        """What the client has got: nothing, or events up to an id."""
        if not self.may_move:
            return None
        if not exchange.begun:
            return CarriedAnswer(AGAIN, {})
        if self._events is None or not self._events.between_events:
            return None
        last = self._events.id
        return CarriedAnswer(STREAM, {"id": last.decode("latin-1") if last is not None else None})

    def hand_on(self, exchange: Exchange) -> bool:
        """Refuse further news: the application is asked again where the request goes on."""
        self._moving = self._moving or self.ticket.end()
        return self._moving and self._given == self._taken

    def kept(self, exchange: Exchange) -> None:
        """Have the client come back, since this ticket takes no more news."""
        if self._moving:
            self._parking_lot.call(run_or_fail, self, self._come_back)  # behind the news that have come before

    def _come_back(self) -> None:
        self._moving = False
        if not self._over:
            self._tell_of_drain()

    # -- IAnswerer -----------------------------------------------------------------------------------------

    def disconnected(self, exchange: Exchange) -> None:
        """Stop waiting: the client has left, or its connection was cut, or it waits in another process."""
        if self._over:
            return
        if self._moving:
            self.ticket.gone.callback(None)
        self.drop()
        exchange.abandon()
        exchange.release()

    def parked(self, exchange: Exchange) -> bool:
        """Whether it waits: then nothing is on its way to the client that would show whether it is still there."""
        return not self._over

    def works_for(self, exchange: Exchange) -> bool:
        """Whether it still waits."""
        return not self._over


class ParkingLot:
    """Where all parked requests wait.  Reactor thread.

    :param clock: monotonic time.
    :param call: calls a function in the reactor thread, from any thread.
    :param call_in_thread: calls an application's function in a thread.
    """

    def __init__(
        self, clock: IReactorTime, call: Callable[..., object], call_in_thread: Callable[..., object]
    ) -> None:
        self._clock = clock
        self.call = call
        self.call_in_thread = call_in_thread
        # By the whole second of `due`.
        self._due: dict[int, set[ParkedRequest]] = {}
        self._last_tick = int(clock.seconds())
        self._draining = False

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._due.values())

    def enter(self, waiting: ParkedRequest) -> None:
        """Have a request wait until its time is over."""
        after = uniform(*COME_BACK_AFTER) if self._draining else max(0.0, waiting.ticket.timeout)
        self._wait_until(waiting, self._clock.seconds() + after)

    def _wait_until(self, waiting: ParkedRequest, due: float) -> None:
        waiting.due = due
        self._due.setdefault(int(due), set()).add(waiting)

    def leave(self, waiting: ParkedRequest) -> None:
        """Take out a request that waits no longer."""
        second = int(waiting.due)
        others = self._due.get(second)
        if others is not None:
            others.discard(waiting)
            if not others:
                del self._due[second]

    def drain(self) -> None:
        """Tell all requests of the drain, within `DRAIN_SPREAD`.

        The sockets are closed, so clients that come back find the next instance.
        """
        self._draining = True
        now = self._clock.seconds()
        waiting = [one for second in list(self._due) for one in self._due.pop(second)]
        for one in waiting:
            moves = one.may_move and one.exchange.connection.site.mover is not None
            self._wait_until(one, now + (MOVES_IN if moves else 0.0) + uniform(0, DRAIN_SPREAD))

    def tick(self, now: float) -> None:
        """Answer the requests whose time is over.  Several times a second in a drain, else once.

        :param now: the clock's seconds.
        """
        last = int(now)
        seconds: Iterable[int] = range(self._last_tick, last + 1)
        if last - self._last_tick > len(self._due):
            seconds = [second for second in list(self._due) if second <= last]
        for second in seconds:
            for waiting in list(self._due.get(second, ())):
                if waiting.due <= now:
                    self._end(waiting)
        self._last_tick = last

    def _end(self, waiting: ParkedRequest) -> Any:
        if self._draining:
            run_or_fail(waiting, waiting.tell_of_drain)
        else:
            run_or_fail(waiting, waiting.time_out)
