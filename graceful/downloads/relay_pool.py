"""The relays that are running, and the client of the upstream servers that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IReactorTime

from graceful.downloads.headers import ApplicationHead, upstream_fields
from graceful.downloads.reactor_answer import run_or_fail
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
        relay = self._relay(exchange, url, head, upstream_fields(exchange, head))
        run_or_fail(relay, relay.begin)

    def resume(self, exchange: Exchange, state: dict[str, Any]) -> None:
        """Go on with an answer of another process's, from what its relay has carried."""
        relay = self._relay(exchange, state["url"], ApplicationHead(), state["asked"])
        run_or_fail(relay, relay.resume, state["etag"], state["following"], state["last"], state["total"])

    def _relay(self, exchange: Exchange, url: str, head: ApplicationHead, fields: Mapping[str, str]) -> Relay:
        # Not at import time: Twisted's endpoints take systemd's sockets out of the environment.
        from graceful.downloads.relay import Relay

        if self._upstream is None:
            self._upstream = self._make_upstream()
        relay = Relay(exchange, url, head, fields, self._upstream, self._clock, self._silence, self._running.discard)
        self._running.add(relay)
        return relay

    def tick(self, now: float) -> None:
        """Look at the time-outs of all relays.  Once a second.

        :param now: the clock's seconds.
        """
        for relay in list(self._running):
            run_or_fail(relay, relay.tick, now)

    def stop(self) -> None:
        """Close the upstream connections; nothing is in flight any more."""
        if self._upstream is not None:
            self._upstream.stop()
