"""The status as it changes, as server-sent events for any number of readers.

Fifty people may look at a deploy.  So there is one status for all of them, made once a tick and only while there are
readers.  A slow reader misses statuses and costs no memory: nothing is sent to a client that has not taken what was
sent before, and one that takes nothing for a while is closed by the same rule as any other.

The format is the HTML standard's `text/event-stream`.  The event `status` holds a status, the first one with the
history of how many were in flight; `gone` is the last event, with how the drain ended.
"""

from __future__ import annotations

import json
import time
from collections import deque
from typing import Any, Final

from graceful.control.status import StatusSource
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import PARKED, Exchange

#: How many readers there may be at once: fewer than control has connections, so that orders still get in.
MOST: Final = 200

#: How many exchanges an event lists: more than a page shows.
LISTED: Final = 200

#: Seconds of the history of how many were in flight.
HISTORY: Final = 300
FIELDS: Final = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Accel-Buffering", "no"),
]


class Events:
    """The readers of the events.  Reactor thread.

    :param status: what they read.
    """

    def __init__(self, status: StatusSource) -> None:
        self._status = status
        self._clients: set[Exchange] = set()
        self._history: deque[int] = deque(maxlen=HISTORY)

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, exchange: Exchange) -> bool:
        """Send events to one more client.  Returns False if there are too many."""
        if len(self._clients) >= MOST:
            return False
        self._clients.add(exchange)
        exchange.phase = PARKED
        try:
            exchange.start("200 OK", FIELDS)
            first = self._snapshot() | {"history": list(self._history)}
            exchange.write(b"retry: 1000\n" + _event("status", first))
        except Disconnected:
            pass  # `disconnected` is called
        return True

    def remove(self, exchange: Exchange) -> None:
        """Forget a client that has left."""
        self._clients.discard(exchange)

    def remember_load(self) -> None:
        """Remember how many exchanges are in flight; called once a second."""
        self._history.append(self._status.in_flight_count)

    def tick(self) -> None:
        """Send the status to every reader that has taken the last one."""
        if not self._clients:
            return
        event = _event("status", self._snapshot())
        for exchange in list(self._clients):
            if not exchange.connection.write_token.held:
                self._write(exchange, event)

    def end(self) -> None:
        """Send the last event: how the drain ended."""
        if not self._clients:
            return
        last = _event("gone", self._status.last_word() | {"ended": list(self._status.recently_ended())})
        for exchange in list(self._clients):
            self._clients.discard(exchange)
            try:
                exchange.write(_event("status", self._snapshot()) + last)
                exchange.finish()
            except Disconnected:
                exchange.abandon()
            exchange.release()

    def _snapshot(self) -> dict[str, Any]:
        status = self._status.snapshot(LISTED)
        status["now"] = round(time.time(), 3)
        status["ended"] = list(self._status.recently_ended())
        return status

    @staticmethod
    def _write(exchange: Exchange, data: bytes) -> None:
        try:
            exchange.write(data)
        except Disconnected:
            pass  # `disconnected` is called


def _event(name: str, value: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()
