"""Where parked requests wait: the event loop's side of their tickets.

There can be ten thousand of them, and when a server stops all of them have to be told, which is the moment at which
ten thousand clients would come back in one instant.  So they are answered over a second; each answer is made by the
application, in a thread; and whoever parks when it is already too late is kept for a moment, or it would come
straight back, again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import uniform
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from graceful.downloads.headers import as_it_is
from graceful.downloads.parked import NOTHING_NEW, AtDrain, News, Parked, news
from graceful.web.exchange import PARKED, Disconnected, Exchange
from graceful.web.interfaces import IAnswerer

log = Logger(namespace="graceful")


SPREAD: Final = 1.0
LATE: Final = (1.0, 2.0)
HELD: Final = 1 << 18

CallbackThreads = Callable[..., object]


@implementer(IAnswerer)
class ParkedRequest:
    """One parked request.  Reactor thread, except :meth:`give`.

    :param exchange: whose view has returned; it may have begun an event stream, but not sent anything.
    :param ticket: the application's side of it.
    :param lot: where it waits.
    :ivar due: when its time is over, or when it is to be told of the drain, seconds of the clock.
    """

    def __init__(self, exchange: Exchange, ticket: Parked, lot: ParkingLot, stream: bool) -> None:
        self.exchange = exchange
        self.ticket = ticket
        self.due = 0.0
        self._lot = lot
        self._stream = stream
        self._over = False

    def begin(self) -> None:
        """Wait."""
        exchange = self.exchange
        exchange.handler = self
        exchange.phase = PARKED
        if self._stream:
            try:
                exchange.write(b"")  # a browser's EventSource is open when it has the head
                if exchange.bare() and self.ticket.end():
                    self._take(b"", True)  # HEAD has all of it
                    return
            except Disconnected:
                self.disconnected(exchange)
                return
        kept, complete = self.ticket.wait_at(self)
        if complete and not kept:  # somebody has closed it on its way here
            self._take(b"" if self._stream else NOTHING_NEW, True)
        for position, what in enumerate(kept, 1):
            self._take(what, complete and position == len(kept))
        if not self._over and exchange.connection.write_token.eof:
            exchange.connection.close()

    def give(self, what: News | bytes, last: bool) -> None:
        """There is news.  Any thread."""
        self._lot.call(self._take, what, last)

    def _take(self, what: News | bytes, last: bool) -> None:
        if self._over:
            return
        exchange = self.exchange
        try:
            if isinstance(what, News):
                if exchange.begun:
                    exchange.finish(what.body)
                else:
                    exchange.start(what.status, [*self._of_the_view(what), *what.headers])
                    exchange.finish(what.body)
            elif last:
                exchange.finish(what)
            elif exchange.connection.write_token.held > HELD:
                log.info("{exchange}: its client does not take its events, and is cut", exchange=exchange)
                exchange.connection.close()
                return
            else:
                exchange.write(what)
                return
        except Disconnected:
            exchange.abandon()
        except (ValueError, TypeError):
            log.failure("{exchange}: an answer to a parked request cannot be sent", exchange=exchange)
            self._leave()
            exchange.connection.site.answer(exchange, 500)
            return
        self._leave()
        exchange.release()

    def _of_the_view(self, answer: News) -> list[tuple[str, str]]:
        """What the view and its middlewares have said, such as a cookie, and the answer does not say itself."""
        said = {name.lower() for name, _ in answer.headers}
        if not answer.body:
            said.add("content-type")  # the view's was that of a page
        return [(name, value) for name, value in as_it_is(self.exchange.fields()) if name.lower() not in said]

    def _leave(self) -> None:
        self._over = True
        self._lot.leave(self)

    # -- its time is over, or the server's ----------------------------------------------------------------

    def time_out(self) -> None:
        """Answer by ourselves, unless somebody has just answered."""
        if self.ticket.end():
            self._take(b"" if self._stream else NOTHING_NEW, True)

    def tell_of_drain(self) -> None:
        """The server stops: have the application answer, or answer by ourselves."""
        if not self.ticket.end():
            return
        if self.ticket.at_drain is None:
            self._drained(None)
        else:
            self._lot.aside(self._ask, self.ticket.at_drain)

    def _ask(self, at_drain: AtDrain) -> None:
        """Call the application.  In a thread."""
        answer: News | None = None
        try:
            made = at_drain()
            answer = news(*made) if made is not None else None
        except Exception:
            log.failure("{exchange}: at_drain of a parked request failed", exchange=self.exchange)
        finally:
            self._lot.call(self._drained, answer)

    def _drained(self, answer: News | None) -> None:
        if self._stream:
            # RFC-less, but in the HTML standard: the time after which the browser comes back.
            retry = b"retry: %d\n\n" % int(uniform(*LATE) * 1000)
            self._take((answer.body if answer is not None else b"") + retry, True)
        else:
            self._take(answer if answer is not None else NOTHING_NEW, True)

    # -- IAnswerer -----------------------------------------------------------------------------------------

    def disconnected(self, exchange: Exchange) -> None:
        """The client is gone, or it was cut."""
        if self._over:
            return
        self._leave()
        if self.ticket.end():
            self.ticket.gone.callback(None)
        exchange.abandon()
        exchange.release()

    def parked(self, exchange: Exchange) -> bool:
        """Nothing is on its way to the client that would find out whether it is still there."""
        return not self._over


class ParkingLot:
    """Where all of them wait.  Reactor thread.

    :param clock: monotonic time.
    :param call: calls a function in the reactor thread, from any thread.
    :param aside: calls an application's function in a thread.
    """

    def __init__(self, clock: IReactorTime, call: Callable[..., object], aside: CallbackThreads) -> None:
        self._clock = clock
        self.call = call
        self.aside = aside
        # By the whole second in which their time is over.
        self._due: dict[int, set[ParkedRequest]] = {}
        self._looked = int(clock.seconds())
        self._draining = False

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._due.values())

    def park(self, exchange: Exchange, ticket: Parked, stream: bool) -> None:
        """Have a request wait."""
        waiting = ParkedRequest(exchange, ticket, self, stream)
        after = uniform(*LATE) if self._draining else max(0.0, ticket.timeout)
        self._enter(waiting, self._clock.seconds() + after)
        waiting.begin()

    def _enter(self, waiting: ParkedRequest, due: float) -> None:
        waiting.due = due
        self._due.setdefault(int(due), set()).add(waiting)

    def leave(self, waiting: ParkedRequest) -> None:
        """One of them waits no longer."""
        second = int(waiting.due)
        others = self._due.get(second)
        if others is not None:
            others.discard(waiting)
            if not others:
                del self._due[second]

    def drain(self) -> None:
        """The sockets are closed: tell all of them within a second, so that they find the next instance."""
        self._draining = True
        now = self._clock.seconds()
        waiting = [one for second in list(self._due) for one in self._due.pop(second)]
        for one in waiting:
            self._enter(one, now + uniform(0, SPREAD))

    def tick(self, now: float) -> None:
        """Look whose time is over.  Several times a second in a drain, else once.

        :param now: the clock's seconds.
        """
        last = int(now)
        seconds: Iterable[int] = range(self._looked, last + 1)
        if last - self._looked > len(self._due):
            seconds = [second for second in list(self._due) if second <= last]
        for second in seconds:
            for waiting in list(self._due.get(second, ())):
                if waiting.due <= now:
                    self._end(waiting)
        self._looked = last

    def _end(self, waiting: ParkedRequest) -> Any:
        if self._draining:
            waiting.tell_of_drain()
        else:
            waiting.time_out()
