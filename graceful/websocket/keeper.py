"""What all WebSockets of a server have in common: their limits, their pings, and their end in a drain.

A timer for each would cost more than it does.  One look a second at what the register lists finds the client that has
been silent for too long; in a drain, where it is ten times as frequent, also the one whose turn it is to be told.

In a drain every client is told 1012, "service restart", and comes back.  Ten thousand that come back in one instant
would be the successor's first load, so they are told one after the other, evenly over :attr:`Keeper.spread` seconds.
An application that closes its WebSockets by itself, since it has been told of the drain, is left alone; so that it
can, none is closed in the first fifth of that time, or the first second.

This module is loaded by every server, so it must not import `websockets`, which only ASGI applications need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import uniform
from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.config.settings import OFF
from graceful.web.exchange import WEBSOCKET

if TYPE_CHECKING:
    from graceful.config.settings import Settings
    from graceful.web.register import Register
    from graceful.websocket.session import Session

log = Logger(namespace="graceful")


#: Seconds at most that applications have at first to close their WebSockets by themselves.
HEAD_START: Final = 1.0
#: The part of the spread that this is at most: a fifth.
_SHARE: Final = 5


class Keeper:
    """Looks after all WebSockets of a server; the `graceful.websocket.session.Times` of each.  Reactor thread.

    :param register: lists them, among all exchanges.
    :param settings: their limits.
    :param clock: monotonic time.
    :param call: calls a function in the reactor thread, from any thread.
    :ivar seconds: returns monotonic seconds.
    :ivar spread: seconds over which a drain closes them.
    """

    def __init__(
        self, register: Register, settings: Settings, clock: IReactorTime, call: Callable[..., object]
    ) -> None:
        self._register = register
        self.call = call
        self.seconds: Callable[[], float] = clock.seconds
        self.max_message = settings.websocket_max_message
        self.ping_interval = settings.websocket_ping_interval
        self.ping_timeout = settings.websocket_ping_timeout
        self.compresses = settings.websocket_compression != OFF
        # So that all have been told, and have had a moment to close, when the deadline comes.
        self.spread = min(settings.close_spread, settings.deadline / 2)
        self._draining = False

    def sessions(self) -> Iterator[Session]:
        """The WebSockets of this server."""
        for exchange in self._register.in_flight():
            if exchange.phase == WEBSOCKET:
                yield exchange.handler

    def opened(self, session: Session) -> None:
        """Have a WebSocket closed in its turn, too, that is only opened in a drain."""
        if self._draining:
            session.close_in_drain(self.seconds() + uniform(0, self.spread))

    def drain(self) -> None:
        """Close all of them, one after the other.  The sockets are closed: clients find the next instance."""
        if self._draining:
            return
        self._draining = True
        head_start = min(HEAD_START, self.spread / _SHARE)
        begin, sessions = self.seconds() + head_start, list(self.sessions())
        for number, session in enumerate(sessions):
            session.close_in_drain(begin + (self.spread - head_start) * number / len(sessions))

    def tick(self, now: float) -> None:
        """Do for each what is due.  Once a second, in a drain several times.

        :param now: the clock's seconds.
        """
        for session in self.sessions():
            try:
                session.look(now)
            except Exception:
                log.failure("a WebSocket failed and is closed")
                session.cut()
