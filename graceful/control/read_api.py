"""The resources that change nothing, as the status page's address serves them.

A browser with a hostile page in it can reach that address.  So there are no orders here, and requests of other
origins are refused, also those by a name that the hostile page's owner has pointed at this machine.  The resources
are listed in :mod:`graceful.control.api`, which adds the orders for the control socket.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from graceful.control.client import ClientError, ControlRefused, Silent
from graceful.control.events import Events
from graceful.control.metrics import Metrics
from graceful.control.same_origin import SameOrigin
from graceful.control.status import StatusSource
from graceful.control.status_page import PAGE, PAGE_FIELDS
from graceful.web.exchange import PARKED, Exchange
from graceful.web.interfaces import IHandler
from graceful.web.response_headers import reason

log = Logger(namespace="graceful")


JSON: Final = "application/json; charset=utf-8"
#: What `/wait?for=` takes.
WAITED_FOR: Final = ("closed", "gone")

#: How many characters of an id an error message repeats: more than any id of ours has.
LONGEST_ID: Final = 32
FIELDS: Final = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
]
T = TypeVar("T")


class Problem(Exception):
    """A request cannot be answered; the text is the reason.

    :ivar status: the HTTP status that says so.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@implementer(IHandler)
class ReadApi:
    """The resources that change nothing, for the status page's address.

    :param status: of the instance.
    :param events: the clients that get every change.
    :param metrics: for Prometheus.
    :param origin: refuses requests of hostile pages; None on a Unix socket, which no page can reach.
    :param scraped: called when the metrics are answered.
    """

    def __init__(
        self,
        status: StatusSource,
        events: Events,
        metrics: Metrics,
        origin: SameOrigin | None,
        scraped: Callable[[], object] = lambda: None,
    ) -> None:
        self._scraped = scraped
        self._status = status
        self._events = events
        self._metrics = metrics
        self._origin = origin
        self._waiting: dict[Exchange, str] = {}
        self._asking: set[Exchange] = set()  # those whose answer a worker has to give first

    # -- IHandler -----------------------------------------------------------------------------------------

    def handle(self, exchange: Exchange) -> None:
        """Answer an exchange, now or as soon as the answer is known."""
        exchange.handler = self
        health = self._status.health
        if health is not None and health.answer(exchange):
            return
        try:
            self._check(exchange)
            path, _, query = exchange.target.decode("latin-1").partition("?")
            self._route(exchange, path, parse_qs(query))
        except Exception as error:
            self._cannot(exchange, error)

    def take(self, exchange: Exchange, prefix: list[bytes], rest: list[bytes]) -> None:
        """Answer an exchange; control is never in a resource tree, so the path does not matter."""
        self.handle(exchange)

    def disconnected(self, exchange: Exchange) -> None:
        """Forget a client that has left."""
        self._waiting.pop(exchange, None)
        self._asking.discard(exchange)
        self._events.remove(exchange)
        exchange.release()

    def parked(self, exchange: Exchange) -> bool:
        """Whether nothing is on its way to the client, as while it waits for a state."""
        return exchange not in self._asking and not exchange.connection.write_token.held

    def works_for(self, exchange: Exchange) -> bool:
        """Return True: its answer may have to be waited for."""
        return True

    # -- resources ----------------------------------------------------------------------------------------

    def _check(self, exchange: Exchange) -> None:
        if self._origin is not None:
            why_not = self._origin.why_not(exchange)
            if why_not is not None:
                raise Problem(403, why_not)
        if exchange.method not in ("GET", "HEAD"):
            raise Problem(405, "this is for reading only; orders are given by the graceful command")

    def _route(self, exchange: Exchange, path: str, query: Mapping[str, list[str]]) -> None:
        """Answer with the resource that a path names."""
        parts = path.strip("/").split("/")
        if path == "/":
            self._send(exchange, "200 OK", [*FIELDS, *PAGE_FIELDS], PAGE)
        elif parts == ["status"]:
            self._when(exchange, self._status.fresh_snapshot(limit_of(query)), self._json)
        elif parts == ["exchanges"]:
            self._when(exchange, self._status.exchanges(limit_of(query)), self._json)
        elif parts[0] == "exchanges" and len(parts) == 2:
            self._when(exchange, self._status.exchange(parts[1]), partial(self._one, parts[1]))
        elif parts == ["events"]:
            self._listen(exchange)
        elif parts == ["metrics"]:
            if not self._metrics.available:
                raise Problem(501, "there are no metrics: install graceful-app[metrics]")
            self._when(exchange, self._status.snapshot_with_counters(0), self._send_metrics)
        elif parts == ["wait"]:
            self._wait(exchange, (query.get("for") or [""])[0])
        else:
            raise Problem(404, f"there is no {path[:100]} here")

    def _one(self, which: str, exchange: Exchange, shown: dict[str, Any] | None) -> None:
        if shown is None:
            raise Problem(404, f"no exchange {which[:LONGEST_ID]} is in flight")
        self._json(exchange, shown)

    def _listen(self, exchange: Exchange) -> None:
        if exchange.method == "HEAD":
            raise Problem(405, "events can only be had by GET")
        if not self._events.add(exchange):
            raise Problem(503, "too many read the events already")

    def _send_metrics(self, exchange: Exchange, told: dict[str, Any]) -> None:
        text = self._metrics.render(told)
        self._send(exchange, "200 OK", [*FIELDS, ("Content-Type", self._metrics.content_type)], text)
        self._scraped()

    # -- waiting ------------------------------------------------------------------------------------------

    def _wait(self, exchange: Exchange, what: str) -> None:
        if what not in WAITED_FOR:
            raise Problem(400, "wait for what? /wait?for=closed or /wait?for=gone")
        exchange.phase = PARKED
        self._waiting[exchange] = what
        self.answer_waiting()

    def answer_waiting(self) -> None:
        """Answer the clients that wait for a state that has come."""
        gone, closed = self._status.ending is not None, self._status.state.closed
        for exchange, what in list(self._waiting.items()):
            if gone or (what == "closed" and closed):
                del self._waiting[exchange]
                self._json(exchange, self._status.last_word() if gone else self._status.snapshot(0))

    # -- answers ------------------------------------------------------------------------------------------

    def _when(self, exchange: Exchange, said: T | Deferred[T], tell: Callable[[Exchange, T], object]) -> None:
        """Answer an exchange as soon as the answer is known; mostly it is known now.

        :param said: what to answer, or a Deferred that fires with it.
        :param tell: answers the exchange with it.
        """
        if not isinstance(said, Deferred):
            tell(exchange, said)
            return

        def answer(result: T | Failure) -> None:
            if exchange not in self._asking:
                return  # the client has left
            self._asking.discard(exchange)
            try:
                if isinstance(result, Failure):
                    result.raiseException()
                tell(exchange, result)
            except Exception as error:
                self._cannot(exchange, error)

        self._asking.add(exchange)
        said.addBoth(answer)

    def _cannot(self, exchange: Exchange, error: Exception) -> None:
        """Answer with an error."""
        if isinstance(error, Problem | ControlRefused):
            self._json(exchange, {"error": str(error)}, error.status)
        elif isinstance(error, ClientError):
            self._json(exchange, {"error": str(error)}, 504 if isinstance(error, Silent) else 502)
        else:
            log.failure("{exchange}: the status could not be told", exchange=exchange)
            exchange.connection.site.answer(exchange, 500)

    def _json(self, exchange: Exchange, value: Any, code: int = 200) -> None:
        fields = [*FIELDS, ("Content-Type", JSON)]
        if code == 405:
            fields.append(("Allow", "GET, HEAD"))
        self._send(exchange, f"{code} {reason(code)}", fields, json.dumps(value).encode() + b"\n")

    def _send(self, exchange: Exchange, status: str, fields: list[tuple[str, str]], body: bytes) -> None:
        exchange.start(status, fields)
        exchange.finish_and_release(body)


def limit_of(query: Mapping[str, list[str]]) -> int | None:
    """Returns how many exchanges a query wants listed; None for all.

    :raises Problem: it is not a number.
    """
    text = (query.get("limit") or [""])[0]
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Problem(400, "limit is a number")
    return int(text) if text else None
