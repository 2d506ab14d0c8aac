"""The relays that are running, and the client of the upstream servers that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime

from graceful.downloads.headers import ApplicationHead, upstream_fields
from graceful.web.exchange import Exchange

if TYPE_CHECKING:
    from graceful.downloads.relay import Relay
    from graceful.downloads.upstream import Upstream


class UrlAnswer:
    """An answer with what an upstream server has at a URL; a `graceful.downloads.reactor_answer.ReactorAnswer`.

    :param exchange: its answer is not started.
    :param url: at the upstream.
    :param head: what the application has set in the answer.
    :param relays: starts the relay.
    """

    def __init__(self, exchange: Exchange, url: str, head: ApplicationHead, relays: RelayPool) -> None:
        self.exchange = exchange
        self._url = url
        self._head = head
        self._relays = relays

    def begin(self) -> None:
        """Ask the upstream.  Reactor thread."""
        self._relays.start(self.exchange, self._url, self._head)

    def drop(self) -> None:
        """Do nothing: the upstream has not been asked yet."""


class RelayPool:
    """Starts relays, and ends those whose upstream is silent.  Reactor thread.

    :param clock: monotonic time.
    :param upstream: makes the client of the upstream servers when the first relay starts.
    :param silence: how long an upstream may say nothing, seconds.
    """

    def __init__(self, clock: IReactorTime, upstream: Callable[[], Upstream], silence: float) -> None:
        self._clock = clock
        self._make_upstream = upstream
        self._upstream: Upstream | None = None
        self._silence = silence
        self._running: set[Relay] = set()

    def start(self, exchange: Exchange, url: str, head: ApplicationHead) -> None:
        """Begin to relay what an upstream server has at a URL."""
        # Not at import time: Twisted's endpoints take systemd's sockets out of the environment.
        from graceful.downloads.relay import Relay

        if self._upstream is None:
            self._upstream = self._make_upstream()
        fields = upstream_fields(exchange, head)
        relay = Relay(exchange, url, head, fields, self._upstream, self._clock, self._silence, self._running.discard)
        self._running.add(relay)
        relay.begin()

    def tick(self, now: float) -> None:
        """Look at the time-outs of all relays.  Once a second.

        :param now: the clock's seconds.
        """
        for relay in list(self._running):
            relay.tick(now)

    def stop(self) -> None:
        """Close the upstream connections; nothing is in flight any more."""
        if self._upstream is not None:
            self._upstream.stop()
