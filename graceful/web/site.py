"""What is served, with its limits: where a connection comes in and where an exchange is handed on.

A site's root may be any `twisted.web.resource.IResource` tree.  Something in it that can answer an exchange itself
(an :class:`~graceful.web.interfaces.IHandler`, such as a `WSGIResource`) gets it as it is, in the fast way; every
other resource gets a real `twisted.web.server.Request`.  If the root itself is a handler, no tree is walked and no
Request is made at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from email.utils import formatdate
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.logger import Logger

from graceful.config.settings import Settings
from graceful.web.carrier import HandOver, Mover, ServedSite
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import Exchange
from graceful.web.limits import Limits
from graceful.web.prefix_routes import PrefixRoutes
from graceful.web.register import Register

if TYPE_CHECKING:
    from graceful.web.body_spool import Spooler
    from graceful.web.interfaces import IHandler
    from graceful.web.proxies import TrustedProxies
    from graceful.web.queue_times import QueueTimes
    from graceful.web.write_token import WriteToken

log = Logger(namespace="graceful")


#: Bytes that may wait in memory for all slow readers together, 256 MiB.
HELD_BY_ALL: Final = 1 << 28
#: A line of each 503: in 5 seconds an overload or a deploy is likely to be over.
RETRY_AFTER: Final = "Retry-After: 5\r\n"


class Interceptor(Protocol):
    """Looks at each exchange before it is answered (such as :class:`graceful.web.trace_context.TraceContext`)."""

    def before(self, handle: Callable[[Exchange], object]) -> Callable[[Exchange], None]:
        """Returns a handler that does its own part for an exchange, and then calls `handle` or answers itself."""


class Recorder(Protocol):
    """Takes note of exchanges that are over (such as :class:`graceful.control.counters.Counters`)."""

    def before(self, record: Callable[[Exchange], object] | None) -> Callable[[Exchange], None]:
        """Returns a function that takes note of an exchange, and then calls `record`.  Any thread calls it."""


class Budget:
    """The bytes that wait in memory for all slow readers together.

    A thread need not wait for one slow reader of a small answer; a thousand of them would take all memory.
    """

    def __init__(self, limit: int = HELD_BY_ALL) -> None:
        self._limit = limit
        self._slow: set[WriteToken[Exchange]] = set()  # any thread; single set operations are atomic

    def add(self, write_token: WriteToken[Exchange]) -> None:
        """A connection has a rest to send."""
        self._slow.add(write_token)

    def remove(self, write_token: WriteToken[Exchange]) -> None:
        """It has none any more."""
        self._slow.discard(write_token)

    def room(self) -> bool:
        """Whether one more answer may be held without its thread."""
        return sum(write_token.held for write_token in self._slow.copy()) < self._limit


class Site(ServedSite[Exchange]):
    """A tree of resources, served.

    :param handler: answers each exchange that no route has answered, an :class:`~graceful.web.interfaces.IHandler`.
    :param settings: limits and time-outs.
    :param register: where connections and exchanges are listed.
    :param routes: what is answered by its path alone, before the handler is asked.
    :param hand_over: takes answers from threads for the event loop to send; None if that is not offered.
    :param record: called with each exchange that is over, in any thread.
    :param proxies: whose word about other clients is believed.
    :param spooler: writes large request bodies to files.
    :param pool_for: finds the pool of our threads that stands for a `ThreadPool` of Twisted's, or for None.
    :param on_room: called when a connection was closed, in the reactor thread.
    :param withdraw: takes an exchange out of the queue for a thread; returns False if it does not wait there.
    :param takedown_at: returns when a drain that is under way takes down what is left (:class:`Limits`).
    :param coroutines: runs the coroutines that answer exchanges (:class:`graceful.asgi.asgi_host.AsgiHost`).
    :param streams: the handler reads request bodies while they arrive.
    :param queue_times: measures how long exchanges wait for the application; None if they are not measured.
    :param websockets: looks after WebSockets (:class:`graceful.websocket.keeper.Keeper`).
    :param interceptors: see each exchange before everything else does, in their order.
    :ivar streams: whether an exchange goes to the handler before its body has come; None if none does.
    :ivar going_down: the way out has begun, if only by telling so.  Written by the reactor thread.
    :ivar limits: how long exchanges may run.
    :ivar draining: answers say `Connection: close`, and idle connections end.  Written by the reactor thread.
    :ivar draining_since: when that began, monotonic seconds.
    :ivar mover: in a drain, takes idle connections to a successor, so answers keep them open; else None.
    :ivar moved: how many connections have moved to a successor.
    :ivar arrived: how many connections have moved here from a predecessor.
    :ivar quiet: no more requests are expected on idle connections: they end at once.
    :ivar handle: answers an exchange: by the interceptors, by a route, or else the handler.
    :ivar tail_keep, tail_close: the end of a head, renewed each second by the reactor thread.
    :ivar tail_keep_data: `tail_keep` as bytes.
    """

    def __init__(
        self,
        handler: IHandler | Any,
        settings: Settings | None = None,
        register: Register | None = None,
        *,
        routes: PrefixRoutes | None = None,
        hand_over: HandOver[Exchange] | None = None,
        record: Callable[[Exchange], object] | None = None,
        proxies: TrustedProxies | None = None,
        spooler: Spooler | None = None,
        pool_for: Callable[[Any], Any] | None = None,
        on_room: Callable[[], None] = lambda: None,
        withdraw: Callable[[Exchange], bool] = lambda exchange: False,
        takedown_at: Callable[[], float | None] = lambda: None,
        coroutines: Any = None,
        streams: bool = False,
        queue_times: QueueTimes | None = None,
        websockets: Any = None,
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        self.settings = settings if settings is not None else Settings()
        self.register = register if register is not None else Register()
        self._exchanges = self.register.exchanges
        self.record = record
        self.spooler: Any = spooler
        self.pool_for: Any = pool_for
        self.hand_over = hand_over
        routes = routes or PrefixRoutes()
        self.queue_times = queue_times
        self.handle: Callable[[Exchange], object] = routes.before(handler.handle)
        if queue_times is not None:
            self.handle = queue_times.before(self.handle)
        for interceptor in reversed(interceptors):
            self.handle = interceptor.before(self.handle)
        self.coroutines = coroutines
        self.websockets: Any = websockets
        self.streams: Callable[[Exchange], bool] | None = routes.leaves_to_handler if streams else None
        self._proxies = proxies
        self.budget = Budget()
        self.limits = Limits(self.settings.request_timeout, self.settings.deadline, takedown_at)
        self.going_down = self.draining = self.quiet = False
        self.mover: Mover[Exchange] | None = None
        self.draining_since = 0.0
        self.moved = self.arrived = 0
        self.run_id = f"{os.getpid():x}-{os.urandom(4).hex()}"
        self._on_room = on_room
        self.withdraw: Callable[[Exchange], bool] = withdraw
        self._second = 0
        self._date = self.tail_keep = self.tail_close = ""
        self.tail_keep_data = b""
        self.tick()

    # -- time ---------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Renew the Date that answers carry.  Reactor thread, at least once a second."""
        second = int(time())
        if second != self._second:
            self._second = second
            self._date = formatdate(second, usegmt=True)
            self.tail_keep = self._tail(True, True, True)
            self.tail_close = self._tail(False, True, True)
            self.tail_keep_data = self.tail_keep.encode("latin-1")

    def tail(self, keep: bool | None, date: bool, server: bool) -> str:
        """The end of a head, for an application that sends some of its fields itself.

        :param keep: whether the connection may carry another exchange; None: another protocol goes on.
        """
        return self._tail(keep, date, server)

    def _tail(self, keep: bool | None, date: bool, server: bool) -> str:
        lines = []
        if server:
            lines.append("Server: graceful")
        if date:
            lines.append(f"Date: {self._date}")
        if keep:
            lines.append("Connection: keep-alive")
            if announced := self.settings.announced_keep_alive:
                lines.append(f"Keep-Alive: timeout={announced}")
        elif keep is not None:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""])

    # -- a drain: reactor thread --------------------------------------------------------------------------

    def go_down(self) -> None:
        """The way out has begun, and everything is still answered as always."""
        self.going_down = True

    def drain(self, now: float, quiet: bool) -> None:
        """Make every answer from now on its connection's last; asked again, it may only become quiet.

        :param now: monotonic seconds.
        :param quiet: no more requests are expected on idle connections: they end at once.
        """
        if not self.draining:
            self.draining = True
            self.draining_since = now
        self.quiet = self.quiet or quiet

    # -- connections ---------------------------------------------------------------------------------------

    def trusts(self, peer: tuple[str, int] | None) -> bool:
        """Whether what this client says about others is believed."""
        return self._proxies is not None and self._proxies.trusts(peer[0] if peer is not None else None)

    def refuse_late(self, waiting: Sequence[Exchange], now: float) -> None:
        """Answer those exchanges with 503 that have waited for a thread for too long.  Reactor thread.

        :param waiting: those that wait for one.
        :param now: monotonic seconds.
        """
        times = self.queue_times
        if times is not None and times.max_wait is not None:
            for exchange in waiting:
                if times.too_long(exchange, now) and self.withdraw(exchange) and not times.refuses(exchange):
                    self.answer(exchange, 503)

    def forwarded(self, exchange: Exchange) -> None:
        """Take over what a trusted proxy says about the client."""
        assert self._proxies is not None
        told = self._proxies.client(exchange.headers, exchange.connection.peer)
        exchange.peer = told.address or exchange.peer
        exchange.scheme = told.scheme or exchange.scheme
        exchange.own_id = told.request_id

    def connection_gone(self) -> None:
        """A connection was closed; there is room for another."""
        self._on_room()

    # -- exchanges: any thread ----------------------------------------------------------------------------

    def takes(self, name: str) -> bool:
        """Whether a field of an answer is an offer to hand it over, and not for the client."""
        return self.hand_over is not None and self.hand_over.takes(name)

    def dispatch(self, exchange: Exchange) -> None:
        """It is this exchange's turn: have it answered, by a successor if there is one."""
        if exchange.error:
            self.answer(exchange, exchange.error)
            return
        mover = self.mover  # the reactor thread may take it away meanwhile
        if mover is not None and mover.holds(exchange):
            return
        try:
            self.handle(exchange)
        except Exception:
            self.fail(exchange)

    def start(self, exchange: Exchange) -> None:
        """Have an exchange answered in this process."""
        try:
            self.handle(exchange)
        except Exception:
            self.fail(exchange)

    def answer(self, exchange: Exchange, status: int, extra: str = "") -> None:
        """Answer with a short text of the server's own.

        :param extra: more header lines, each with its line break.
        """
        try:
            exchange.fail(status, RETRY_AFTER if status == 503 else extra)
        except Disconnected:
            exchange.abandon()
        exchange.release()

    def fail(self, exchange: Exchange) -> None:
        """End an exchange whose answering has raised, with 500 or visibly cut.  In an `except` block, in any thread.

        What the code that has failed holds for the exchange it must have given back.
        """
        log.failure("{exchange}: answering it failed", exchange=exchange)
        if not exchange.begun:
            try:
                self.answer(exchange, 500)
                return
            except Exception:
                log.failure("{exchange}: 500 cannot be said either", exchange=exchange)
        exchange.keep = False
        exchange.connection.abort(exchange)
        exchange.release()

    def finished(self, exchange: Exchange) -> None:
        """The exchange is over: off the register, into the access log.  Any thread; only the first call counts.

        One that has a substitute is not over before that is.
        """
        exchanges = self._exchanges
        if exchanges.get(exchange.id) is exchange and exchanges.pop(exchange.id, None) is not None:
            body = exchange.body
            if body is not None:
                exchange.body = None
                if not isinstance(body, list):
                    body.close()
            if self.record is not None:
                if not exchange.ended:
                    exchange.ended = monotonic()
                self.record(exchange)

    def record_first(self, recorder: Recorder) -> None:
        """From now on a recorder gets each exchange that is over, before all others.  Reactor thread."""
        self.record = recorder.before(self.record)

    def replaced(self, substitute: Exchange) -> None:
        """From now on an exchange stands for the one with its number.  Reactor thread."""
        self.register.replace(substitute)

    def interrupted(self, exchange: Exchange) -> None:
        """An exchange that was taken down is over, or its substitute is: nothing waits for its last byte."""
        self.finished(self._exchanges.get(exchange.id, exchange))

    def disconnected(self, exchange: Exchange) -> None:
        """Tell the handler of an exchange that its client is gone.  Reactor thread."""
        if exchange.handler is not None:
            try:
                exchange.handler.disconnected(exchange)
            except Exception:
                log.failure("{exchange}: its handler failed when the client had left", exchange=exchange)
                exchange.release()

    def parked(self, exchange: Exchange | None) -> bool:
        """Whether the exchange waits with no thread and nothing to send.  Reactor thread."""
        return exchange is not None and exchange.handler is not None and bool(exchange.handler.parked(exchange))
