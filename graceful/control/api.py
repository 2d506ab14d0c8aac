"""The control API: HTTP and JSON, for the `graceful` command and everybody else who may open its socket.

::

    GET  /status            what the instance says of itself; ?limit=N lists so many exchanges at most
    GET  /exchanges         everything in flight, each with the stack of its thread
    GET  /exchanges/ID      one of them
    GET  /events            the status as it changes, as server-sent events
    GET  /metrics           for Prometheus
    GET  /wait?for=closed   answers when the sockets are closed, or, for=gone, with how the drain has ended
    POST /leave, /enter     leave and enter the rotation of a balancer
    POST /stop              begin to drain; {"quiet": true, "deadline": SECONDS, "wait": "gone"}, each optional;
                            to wait is to be answered as by /wait
    POST /extend            {"seconds": SECONDS} more, or fewer, until the deadline
    POST /exchanges/ID/takedown
    POST /hurry             to an instance that is leaving: take down everything that it has left
    POST /yield             from an instance that is leaving: a successor wants its place at --status-listen
    POST /takeover, /takeover/accepts   for a successor (see :mod:`graceful.control.takeover`)

Every answer is an object or a list; one with an error has the key `error` and a line for the operator.  An order is
obeyed when it is answered, and giving it twice changes nothing, except for /extend.

The status page's door has the same resources but for the orders, since a browser that a hostile page runs in can
reach it.  Nothing there is for other origins, nor for a name that the hostile page's owner has pointed at us.

Everything here is done in the reactor thread and never waits.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import parse_qs

from twisted.logger import Logger
from zope.interface import implementer

from graceful.control.events import Events
from graceful.control.metrics import Metrics
from graceful.control.origin import Origin
from graceful.control.page import PAGE, PAGE_FIELDS
from graceful.control.status import Status
from graceful.web.connection import Connection
from graceful.web.exchange import PARKED, Disconnected, Exchange
from graceful.web.fields import reason
from graceful.web.handler import IHandler

JSON: Final = "application/json; charset=utf-8"
WAITED_FOR: Final = ("closed", "gone")
GIVES_UP: Final = ("closing", "finishing", "takedown", "gone")
CLOSED_SINCE: Final = ("finishing", "takedown", "gone")
FIELDS: Final = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
]
_CREDENTIALS: Final = struct.Struct("3i")


class Orders(Protocol):
    """What control may have an instance do.  Reactor thread."""

    def leave(self) -> None:
        """Leave the rotation of a balancer."""

    def enter(self) -> None:
        """Enter it again."""

    def stop(self, quiet: bool, deadline: float | None) -> None:
        """Begin to drain, with another deadline if one is given."""

    def hurry(self) -> None:
        """Take down at once what is in flight."""

    def extend(self, seconds: float) -> None:
        """Give what is in flight more time, or less."""

    def take_down(self, number: int) -> list[int]:
        """Take down one exchange, and those behind it on its connection; which were."""

    def renew_limit(self) -> None:
        """Move the last limit, if there is more time than when it was set; called all the time."""


class Problem(Exception):
    """What was asked cannot be answered.

    :ivar status: the HTTP status that says so.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@implementer(IHandler)
class Reading:
    """The resources that change nothing, for the status page's door.

    :param status: of the instance.
    :param events: the clients that get every change.
    :param origin: says which requests are none of a hostile page's; None on a Unix socket, which no page can reach.
    """

    log = Logger(namespace="graceful")

    def __init__(self, status: Status, events: Events, metrics: Metrics, origin: Origin | None) -> None:
        self._status = status
        self._events = events
        self._metrics = metrics
        self._origin = origin
        self._waiting: dict[Exchange, str] = {}

    # -- IHandler -----------------------------------------------------------------------------------------

    def handle(self, exchange: Exchange) -> None:
        """Answer, now or when there is something to tell."""
        exchange.handler = self
        engine = self._status.engine
        if engine is not None and engine.health.answer(exchange):
            return
        try:
            self._check(exchange)
            path, _, query = exchange.target.decode("latin-1").partition("?")
            self._route(exchange, path, parse_qs(query))
        except Problem as problem:
            self._json(exchange, {"error": str(problem)}, problem.status)
        except Exception:
            self.log.failure("{exchange}: the status could not be told", exchange=exchange)
            exchange.connection.site.answer(exchange, 500)

    def take(self, exchange: Exchange, prefix: list[bytes], rest: list[bytes]) -> None:
        """It is never in a tree."""
        self.handle(exchange)

    def disconnected(self, exchange: Exchange) -> None:
        """One who waited has left."""
        self._waiting.pop(exchange, None)
        self._events.remove(exchange)
        exchange.connection.site.through(exchange)

    def parked(self, exchange: Exchange) -> bool:
        """Those who wait have nothing on its way to them."""
        return not exchange.connection.turn.held

    # -- resources ----------------------------------------------------------------------------------------

    def _check(self, exchange: Exchange) -> None:
        if self._origin is not None:
            why_not = self._origin.why_not(exchange)
            if why_not is not None:
                raise Problem(403, why_not)
        if exchange.method not in ("GET", "HEAD"):
            raise Problem(405, "this is for reading only; orders are given by the graceful command")

    def _route(self, exchange: Exchange, path: str, query: Mapping[str, list[str]]) -> None:
        """Find what is asked for."""
        parts = path.strip("/").split("/")
        if path == "/":
            self._send(exchange, "200 OK", [*FIELDS, *PAGE_FIELDS], PAGE)
        elif parts == ["status"]:
            self._json(exchange, self._status(_limit(query)))
        elif parts == ["exchanges"]:
            self._json(exchange, self._status.in_flight(_limit(query), stacks=True))
        elif parts[0] == "exchanges" and len(parts) == 2:
            self._json(exchange, self._one(parts[1]))
        elif parts == ["events"]:
            self._listen(exchange)
        elif parts == ["metrics"]:
            self._send_metrics(exchange)
        elif parts == ["wait"]:
            self._wait(exchange, (query.get("for") or [""])[0])
        else:
            raise Problem(404, f"there is no {path[:100]} here")

    def _one(self, number: str) -> dict[str, Any]:
        for shown in self._status.in_flight(stacks=True):
            if str(shown["id"]) == number:
                return shown
        raise Problem(404, f"no exchange {number[:20]} is in flight")

    def _listen(self, exchange: Exchange) -> None:
        if exchange.method == "HEAD":
            raise Problem(405, "events can only be had by GET")
        if not self._events.add(exchange):
            raise Problem(503, "too many read the events already")

    def _send_metrics(self, exchange: Exchange) -> None:
        text = self._metrics.render()
        if text is None:
            raise Problem(501, "there are no metrics: install graceful[metrics]")
        self._send(exchange, "200 OK", [*FIELDS, ("Content-Type", self._metrics.content_type)], text)

    # -- waiting ------------------------------------------------------------------------------------------

    def _wait(self, exchange: Exchange, what: str) -> None:
        if what not in WAITED_FOR:
            raise Problem(400, "wait for what? /wait?for=closed or /wait?for=gone")
        exchange.phase = PARKED
        self._waiting[exchange] = what
        self.tell()

    def tell(self) -> None:
        """Answer those who have waited for what is the state by now."""
        gone, closed = self._status.ending is not None, self._status.state in CLOSED_SINCE
        for exchange, what in list(self._waiting.items()):
            if gone or (what == "closed" and closed):
                del self._waiting[exchange]
                self._json(exchange, self._status.last_word() if gone else self._status(0))

    # -- answers ------------------------------------------------------------------------------------------

    def _json(self, exchange: Exchange, value: Any, code: int = 200) -> None:
        fields = [*FIELDS, ("Content-Type", JSON)]
        if code == 405:
            fields.append(("Allow", "GET, HEAD"))
        self._send(exchange, f"{code} {reason(code)}", fields, json.dumps(value).encode() + b"\n")

    def _send(self, exchange: Exchange, status: str, fields: list[tuple[str, str]], body: bytes) -> None:
        try:
            exchange.start(status, fields)
            exchange.finish(body)
        except Disconnected:
            exchange.flushed = True
        exchange.connection.site.through(exchange)


class Control(Reading):
    """All resources, for the control socket.

    :param yield_places: closes the sockets of the status page's door.
    :ivar orders: what the instance can be told; None while it starts.
    :ivar obeying: an order is being obeyed just now, and is yet to be answered.
    :ivar takeover: answers a successor: the exchange, its path and what it says.
    """

    def __init__(
        self,
        status: Status,
        events: Events,
        metrics: Metrics,
        yield_places: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(status, events, metrics, None)
        self._yield_places = yield_places
        self.orders: Orders | None = None
        self.obeying = False
        self.takeover: Callable[[Exchange, str, dict[str, Any]], Any] | None = None
        self._obeyed: dict[str, Callable[[Orders, dict[str, Any]], Any]] = {
            "/leave": self._leave,
            "/enter": self._enter,
            "/stop": self._stop,
            "/extend": self._extend,
            "/hurry": self._hurry,
            "/yield": self._yield,
        }

    def _check(self, exchange: Exchange) -> None:
        if exchange.method not in ("GET", "HEAD", "POST"):
            raise Problem(405, "only GET, HEAD and POST are known here")

    def _route(self, exchange: Exchange, path: str, query: Mapping[str, list[str]]) -> None:
        if exchange.method != "POST":
            super()._route(exchange, path, query)
            return
        self.obeying = True
        try:
            self.log.info("order {order} from {who}", order=path[:100], who=said_by(exchange.connection))
            values = _values(exchange)
            if path.startswith("/takeover") and self.takeover is not None:
                self._json(exchange, self.takeover(exchange, path, values))
                return
            what = values.pop("wait", None)
            if what not in (None, *WAITED_FOR):
                raise Problem(400, "wait for what? closed or gone")
            if self.orders is None:
                raise Problem(503, "the server is starting: try again")
            answer = self._obey(self.orders, path, values)
            if what is not None:
                self._wait(exchange, what)
            else:
                self._json(exchange, answer)
        finally:
            self.obeying = False

    def _obey(self, orders: Orders, path: str, values: dict[str, Any]) -> Any:
        parts = path.strip("/").split("/")
        if path in self._obeyed:
            return self._obeyed[path](orders, values)
        if parts[0] == "exchanges" and len(parts) == 3 and parts[2] == "takedown":
            return self._take_down(orders, parts[1])
        raise Problem(404, f"there is no order {path[:100]}")

    def _leave(self, orders: Orders, values: dict[str, Any]) -> Any:
        orders.leave()
        return self._status(0)

    def _enter(self, orders: Orders, values: dict[str, Any]) -> Any:
        if self._status.draining:
            raise Problem(409, "the server is stopping: it cannot enter the rotation again")
        orders.enter()
        return self._status(0)

    def _stop(self, orders: Orders, values: dict[str, Any]) -> Any:
        quiet, deadline = values.get("quiet", False), values.get("deadline")
        if not isinstance(quiet, bool):
            raise Problem(400, "quiet is true or false")
        orders.stop(quiet, None if deadline is None else _seconds(deadline, 0.0))
        return self._status(0)

    def _extend(self, orders: Orders, values: dict[str, Any]) -> Any:
        if self._status.state in ("takedown", "gone"):
            raise Problem(409, "the deadline has passed")
        orders.extend(_seconds(values.get("seconds"), -LONGEST))
        return self._status(0)

    def _hurry(self, orders: Orders, values: dict[str, Any]) -> Any:
        if not self._status.draining:
            raise Problem(409, "the server is not leaving: tell it to stop first")
        orders.hurry()
        return self._status(0)

    def _yield(self, orders: Orders, values: dict[str, Any]) -> Any:
        if self._status.state not in GIVES_UP:
            raise Problem(409, "the server is not leaving: give the other one another --status-listen")
        self._yield_places()
        return {}

    def _take_down(self, orders: Orders, number: str) -> Any:
        taken = orders.take_down(int(number)) if number.isdigit() and len(number) < 20 else []
        if not taken:
            raise Problem(404, f"no exchange {number[:20]} is in flight, or others are before it on its connection")
        return {"taken_down": taken}


LONGEST: Final = 365 * 86_400.0


def _seconds(value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= LONGEST:
        raise Problem(400, f"expected seconds, at least {least:g}, at most a year")
    return float(value)


def _limit(query: Mapping[str, list[str]]) -> int | None:
    text = (query.get("limit") or [""])[0]
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Problem(400, "limit is a number")
    return int(text) if text else None


def _values(exchange: Exchange) -> dict[str, Any]:
    """What the body of an order says."""
    body = exchange.body
    if not body:
        return {}
    assert isinstance(body, list)  # it is too small for a file
    try:
        values = json.loads(b"".join(body) or b"{}")
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise Problem(400, "the body of an order is a JSON object")
    return values


def said_by(connection: Connection) -> str:
    """Who is on the other end of a control connection, for the log."""
    pid, uid, _ = credentials(connection.sock)
    return f"process {pid} of user {uid}"


def credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Process, user and group of a Unix socket's peer, as the kernel has it (unix(7), SO_PEERCRED)."""
    found: tuple[int, int, int] = _CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return found
