"""What is served, with its limits: where a connection comes in and where an exchange is handed on.

A site's root may be any `twisted.web.resource.IResource` tree.  Something in it that can answer an exchange itself
(an :class:`~graceful.web.interfaces.IHandler`, such as a `WSGIResource`) gets it as it is, in the fast way; every
other resource gets a real `twisted.web.server.Request`.  If the root itself is a handler, no tree is walked and no
Request is made at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from email.utils import formatdate
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from graceful.config.settings import Settings
from graceful.web.exchange import Disconnected, Exchange, HandOver
from graceful.web.limits import Limits
from graceful.web.prefix_routes import PrefixRoutes
from graceful.web.register import Register

if TYPE_CHECKING:
    from twisted.web.resource import IResource

    from graceful.web.body_spool import Spooler
    from graceful.web.proxies import TrustedProxies
    from graceful.web.write_token import WriteToken


#: Bytes that may wait in memory for all slow readers together, 256 MiB.
HELD_BY_ALL: Final = 1 << 28
#: A line of each 503: in 5 seconds an overload or a deploy is likely to be over.
RETRY_AFTER: Final = "Retry-After: 5\r\n"


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


class Site:
    """A tree of resources, served.

    :param root: an `IResource`, or an `IHandler`.
    :param settings: limits and time-outs.
    :param register: where connections and exchanges are listed.
    :param takedown_at: returns when a drain that is under way takes down what is left (:class:`Limits`).
    :ivar going_down: the way out has begun, if only by telling so.  Set by the reactor thread.
    :ivar limits: how long exchanges may run.
    :ivar draining: answers say `Connection: close`, and idle connections end.  Set by the reactor thread.
    :ivar draining_since: when that began, monotonic seconds.
    :ivar quiet: no more requests are expected on idle connections: they end at once.
    :ivar handle: the handler's, which answers an exchange.
    :ivar pool_for: finds the pool of our threads that stands for a `ThreadPool` of Twisted's, or for None.
    :ivar hand_over: takes answers from threads for the event loop to send; None if that is not offered.
    :ivar tail_keep, tail_close: the end of a head, renewed each second by the reactor thread.
    """

    def __init__(
        self,
        root: IResource | Any,
        settings: Settings | None = None,
        register: Register | None = None,
        *,
        record: Callable[[Exchange], object] | None = None,
        proxies: TrustedProxies | None = None,
        spooler: Spooler | None = None,
        pool_for: Callable[[Any], Any] | None = None,
        takedown_at: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.root = root
        self.settings = settings if settings is not None else Settings()
        self.register = register if register is not None else Register()
        self._exchanges = self.register.exchanges
        self.record = record
        self.spooler: Any = spooler
        self.pool_for: Any = pool_for
        self.hand_over: HandOver | None = None
        self._proxies = proxies
        self._routes = PrefixRoutes()
        self.handle: Callable[[Exchange], None]
        self.budget = Budget()
        self.limits = Limits(self.settings.request_timeout, self.settings.deadline, takedown_at)
        self.going_down = self.draining = self.quiet = False
        self.draining_since = 0.0
        self.run_id = f"{os.getpid():x}-{os.urandom(4).hex()}"
        self.on_room: Callable[[], None] | None = None
        self._second = 0
        self._date = self.tail_keep = self.tail_close = ""
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

    def tail(self, keep: bool, date: bool, server: bool) -> str:
        """The end of a head, for an application that sends some of its fields itself."""
        return self._tail(keep, date, server)

    def _tail(self, keep: bool, date: bool, server: bool) -> str:
        lines = []
        if server:
            lines.append("Server: graceful")
        if date:
            lines.append(f"Date: {self._date}")
        if keep:
            lines.append("Connection: keep-alive")
            lines.append(f"Keep-Alive: timeout={int(self.settings.keep_alive)}")
        else:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""])

    # -- connections ---------------------------------------------------------------------------------------

    def trusts(self, peer: tuple[str, int] | None) -> bool:
        """Whether what this client says about others is believed."""
        return self._proxies is not None and self._proxies.trusts(peer[0] if peer is not None else None)

    def forwarded(self, exchange: Exchange) -> None:
        """Take over what a trusted proxy says about the client."""
        assert self._proxies is not None
        told = self._proxies.client(exchange.headers, exchange.peer)
        exchange.peer = told.address or exchange.peer
        exchange.scheme = told.scheme or exchange.scheme
        exchange.own_id = told.request_id

    def connection_gone(self) -> None:
        """A connection was closed; there is room for another."""
        if self.on_room is not None:
            self.on_room()

    # -- exchanges: any thread ----------------------------------------------------------------------------

    def serve(self, handler: Any) -> None:
        """Have everything answered by this `IHandler`, but for what has a route of its own."""
        self.handle = self._routes.before(handler.handle)

    def route(self, prefix: str, answer: Callable[[Exchange], bool]) -> None:
        """Have requests answered before the handler is asked (see :meth:`PrefixRoutes.add`).  Before `serve`."""
        self._routes.add(prefix, answer)

    def takes(self, name: str) -> bool:
        """Whether a field of an answer is an offer to hand it over, and not for the client."""
        return self.hand_over is not None and self.hand_over.takes(name)

    def dispatch(self, exchange: Exchange) -> None:
        """It is this exchange's turn: have it answered."""
        if exchange.error:
            self.answer(exchange, exchange.error)
        else:
            self.handle(exchange)

    def answer(self, exchange: Exchange, status: int, extra: str = "") -> None:
        """Answer with a short text of the server's own.

        :param extra: more header lines, each with its line break.
        """
        try:
            exchange.fail(status, RETRY_AFTER if status == 503 else extra)
        except Disconnected:
            exchange.abandon()
        exchange.release()

    def finished(self, exchange: Exchange) -> None:
        """The exchange is over: off the register, into the access log.  Any thread; only the first call counts."""
        if self._exchanges.pop(exchange.id, None) is not None:
            body = exchange.body
            if body is not None:
                exchange.body = None
                if not isinstance(body, list):
                    body.close()
            if self.record is not None:
                if not exchange.ended:
                    exchange.ended = monotonic()
                self.record(exchange)

    def disconnected(self, exchange: Exchange) -> None:
        """Tell the handler of an exchange that its client is gone.  Reactor thread."""
        if exchange.handler is not None:
            exchange.handler.disconnected(exchange)

    def parked(self, exchange: Exchange | None) -> bool:
        """Whether the exchange waits with no thread and nothing to send.  Reactor thread."""
        return exchange is not None and exchange.handler is not None and bool(exchange.handler.parked(exchange))
