"""The status as it changes, for everybody who looks: server-sent events.

Fifty people may look at a deploy.  So there is one picture for all of them, made once a tick and only while somebody
looks.  Whoever reads too slowly misses pictures, not memory: nothing is sent to a client that has not taken what was
sent before, and one that takes nothing for a while is closed by the same rule as any other.

Form: the HTML standard's `text/event-stream`.  The event `status` holds a status, the first one with the history of
how many were in flight; `gone` is the last one, with how it ended.
"""

from __future__ import annotations

import json
import time
from collections import deque
from typing import Any, Final

from graceful.control.status import StatusSource
from graceful.web.exchange import PARKED, Disconnected, Exchange

MOST: Final = 200
LISTED: Final = 200
HISTORY: Final = 300
FIELDS: Final = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Accel-Buffering", "no"),
]


class Events:
    """Those who look.  Reactor thread.

    :param status: what they look at.
    """

    def __init__(self, status: StatusSource) -> None:
        self._status = status
        self._clients: set[Exchange] = set()
        self._history: deque[int] = deque(maxlen=HISTORY)

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, exchange: Exchange) -> bool:
        """Begin to tell one more; False if there are too many."""
        if len(self._clients) >= MOST:
            return False
        self._clients.add(exchange)
        exchange.phase = PARKED
        try:
            exchange.start("200 OK", FIELDS)
            first = self._picture() | {"history": list(self._history)}
            exchange.write(b"retry: 1000\n" + _event("status", first))
        except Disconnected:
            pass  # we are told
        return True

    def remove(self, exchange: Exchange) -> None:
        """One has left."""
        self._clients.discard(exchange)

    def second(self) -> None:
        """Remember how many are in flight; once a second."""
        self._history.append(self._status.in_flight_count)

    def tick(self) -> None:
        """Tell all who look how it is now."""
        if not self._clients:
            return
        picture = _event("status", self._picture())
        for exchange in list(self._clients):
            if not exchange.connection.write_token.held:
                self._write(exchange, picture)

    def end(self) -> None:
        """Tell all how it ended; that was the last event."""
        if not self._clients:
            return
        last = _event("gone", self._status.last_word() | {"ended": list(self._status.recently_ended())})
        for exchange in list(self._clients):
            self._clients.discard(exchange)
            try:
                exchange.write(_event("status", self._picture()) + last)
                exchange.finish()
            except Disconnected:
                exchange.abandon()
            exchange.release()

    def _picture(self) -> dict[str, Any]:
        picture = self._status(LISTED)
        picture["now"] = round(time.time(), 3)
        picture["ended"] = list(self._status.recently_ended())
        return picture

    @staticmethod
    def _write(exchange: Exchange, data: bytes) -> None:
        try:
            exchange.write(data)
        except Disconnected:
            pass  # we are told


def _event(name: str, value: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()
