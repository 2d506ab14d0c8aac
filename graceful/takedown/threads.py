"""All threads that are being brought down, side by side, by one timer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.takedown.thread_interrupt import LOOK_AGAIN, WITHIN, Descent
from graceful.takedown.waits import Waits
from graceful.web.exchange import Exchange

log = Logger(namespace="graceful")

Ended = Callable[[Descent, bool], None]


class Descents:
    """The threads that are being brought down.  Reactor thread.

    :param clock: monotonic time.
    :param working: the exchanges that a thread works for, each with its thread.
    :param native: the kernel's number of a thread.
    :param waits: finds out what threads wait for.
    :param call: calls a hook in another thread.
    """

    def __init__(
        self,
        clock: IReactorTime,
        working: Callable[[], dict[Exchange, int]],
        native: Callable[[int], int],
        waits: Waits,
        call: Callable[..., Future[Any]],
    ) -> None:
        self._clock = clock
        self._working = working
        self._native = native
        self._waits = waits
        self._call = call
        self._under_way: dict[Exchange, tuple[Descent, list[Ended]]] = {}

    def start(self, exchange: Exchange, thread: int, ended: Ended) -> Descent:
        """Begin to bring down the thread of an exchange, unless that is under way.

        :param ended: called with the descent, and whether the thread has come down; if not, it is abandoned.
        """
        known = self._under_way.get(exchange)
        if known is not None:
            known[1].append(ended)
            return known[0]
        now = self._clock.seconds()
        descent = Descent(exchange, thread, self._native(thread), now, self._waits, self._call)
        if not self._under_way:
            self._clock.callLater(LOOK_AGAIN, self._look)
        self._under_way[exchange] = descent, [ended]
        self._look_at(descent, now)
        return descent

    @property
    def busy(self) -> bool:
        """Whether any thread is being brought down."""
        return bool(self._under_way)

    def _look(self) -> None:
        now, working = self._clock.seconds(), self._working()
        self._waits.again()
        for exchange, (descent, ended) in list(self._under_way.items()):
            down = working.get(exchange) != descent.thread
            if down or now - descent.began >= WITHIN:
                del self._under_way[exchange]
                for tell in ended:
                    tell(descent, down)
            else:
                self._look_at(descent, now)
        if self._under_way:
            self._clock.callLater(LOOK_AGAIN, self._look)

    def _look_at(self, descent: Descent, now: float) -> None:
        try:
            descent.look(now)
        except Exception:
            # One that fails must not keep the others from coming down.
            log.failure("{exchange}: its thread could not be looked at", exchange=descent.exchange)
