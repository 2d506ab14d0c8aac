"""The control API: HTTP and JSON, for the `graceful` command and everybody else who may open its socket.

::

    GET  /status            what the instance says of itself; ?limit=N lists so many exchanges at most
    GET  /exchanges         everything in flight, each with the stack of its thread
    GET  /exchanges/ID      one of them
    GET  /events            the status as it changes, as server-sent events
    GET  /metrics           for Prometheus
    GET  /tally             the status with the numbers behind the metrics; on the control socket only
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

Everything here is done in the reactor thread and never waits.  Only a supervisor, which has to ask its workers, may
answer later.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import parse_qs

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from graceful.control.client import ClientError, Refused, Silent
from graceful.control.events import Events
from graceful.control.metrics import Metrics
from graceful.control.origin import Origin
from graceful.control.page import PAGE, PAGE_FIELDS
from graceful.control.status import CLOSED_SINCE
from graceful.control.telling import Telling
from graceful.web.connection import Connection
from graceful.web.exchange import PARKED, Disconnected, Exchange
from graceful.web.fields import reason
from graceful.web.handler import IHandler

JSON: Final = "application/json; charset=utf-8"
WAITED_FOR: Final = ("closed", "gone")
LONGEST_ID: Final = 32
GIVES_UP: Final = ("closing", "finishing", "takedown", "gone")
FIELDS: Final = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
]
_CREDENTIALS: Final = struct.Struct("3i")
T = TypeVar("T")


class Orders(Protocol):
    """What control may have an instance do.  Reactor thread.

    An order is answered when it is obeyed: what takes its time returns a Deferred.
    """

    def leave(self) -> Deferred[None] | None:
        """Leave the rotation of a balancer."""

    def enter(self) -> Deferred[None] | None:
        """Enter it again."""

    def stop(self, quiet: bool, deadline: float | None) -> Deferred[None] | None:
        """Begin to drain, with another deadline if one is given."""

    def hurry(self) -> Deferred[None] | None:
        """Take down at once what is in flight."""

    def extend(self, seconds: float) -> Deferred[None] | None:
        """Give what is in flight more time, or less."""

    def take_down(self, which: str) -> Sequence[int | str] | Deferred[Sequence[str]]:
        """Take down one exchange, and those behind it on its connection; which were.

        :param which: its id as a status shows it; or anything else, by which nothing is taken down.
        """

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

    def __init__(self, status: Telling, events: Events, metrics: Metrics, origin: Origin | None) -> None:
        self._status = status
        self._events = events
        self._metrics = metrics
        self._origin = origin
        self._waiting: dict[Exchange, str] = {}
        self._asking: set[Exchange] = set()  # those whose answer somebody else has to give first

    # -- IHandler -----------------------------------------------------------------------------------------

    def handle(self, exchange: Exchange) -> None:
        """Answer, now or when there is something to tell."""
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
        """It is never in a tree."""
        self.handle(exchange)

    def disconnected(self, exchange: Exchange) -> None:
        """One who waited has left."""
        self._waiting.pop(exchange, None)
        self._asking.discard(exchange)
        self._events.remove(exchange)
        exchange.connection.site.through(exchange)

    def parked(self, exchange: Exchange) -> bool:
        """Those who wait for a state have nothing on its way to them."""
        return exchange not in self._asking and not exchange.connection.turn.held

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
            self._when(exchange, self._status.asked(_limit(query)), self._json)
        elif parts == ["exchanges"]:
            self._when(exchange, self._status.exchanges(_limit(query)), self._json)
        elif parts[0] == "exchanges" and len(parts) == 2:
            self._when(exchange, self._status.exchange(parts[1]), partial(self._one, parts[1]))
        elif parts == ["events"]:
            self._listen(exchange)
        elif parts == ["metrics"]:
            if not self._metrics.available:
                raise Problem(501, "there are no metrics: install graceful[metrics]")
            self._when(exchange, self._status.picture(0), self._send_metrics)
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

    def _when(self, exchange: Exchange, said: T | Deferred[T], tell: Callable[[Exchange, T], object]) -> None:
        """Tell something as soon as it is known; most often that is now.

        :param said: what is to be told, or fires with it.
        :param tell: tells it.
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
        """Say why something cannot be told."""
        if isinstance(error, Problem | Refused):
            self._json(exchange, {"error": str(error)}, error.status)
        elif isinstance(error, ClientError):
            self._json(exchange, {"error": str(error)}, 504 if isinstance(error, Silent) else 502)
        else:
            self.log.failure("{exchange}: the status could not be told", exchange=exchange)
            exchange.connection.site.answer(exchange, 500)

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
        status: Telling,
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
            if path == "/tally":
                self._when(exchange, self._status.picture(_limit(query)), self._json)
            else:
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
            if what is None:
                self._when(exchange, answer, self._json)
                return
            if isinstance(answer, Deferred):
                answer.addErrback(lambda failure: self.log.failure("order {order}", failure, order=path[:100]))
            self._wait(exchange, what)
        finally:
            self.obeying = False

    def _obey(self, orders: Orders, path: str, values: dict[str, Any]) -> Any:
        parts = path.strip("/").split("/")
        if path in self._obeyed:
            return self._obeyed[path](orders, values)
        if parts[0] == "exchanges" and len(parts) == 3 and parts[2] == "takedown":
            return self._take_down(orders, parts[1])
        raise Problem(404, f"there is no order {path[:100]}")

    def _after(self, obeyed: Deferred[None] | None) -> Any:
        """The status, when an order is obeyed."""
        return obeyed.addCallback(lambda ignored: self._status(0)) if obeyed is not None else self._status(0)

    def _leave(self, orders: Orders, values: dict[str, Any]) -> Any:
        return self._after(orders.leave())

    def _enter(self, orders: Orders, values: dict[str, Any]) -> Any:
        if self._status.draining:
            raise Problem(409, "the server is stopping: it cannot enter the rotation again")
        return self._after(orders.enter())

    def _stop(self, orders: Orders, values: dict[str, Any]) -> Any:
        quiet, deadline = values.get("quiet", False), values.get("deadline")
        if not isinstance(quiet, bool):
            raise Problem(400, "quiet is true or false")
        return self._after(orders.stop(quiet, None if deadline is None else _seconds(deadline, 0.0)))

    def _extend(self, orders: Orders, values: dict[str, Any]) -> Any:
        if self._status.state in ("takedown", "gone"):
            raise Problem(409, "the deadline has passed")
        return self._after(orders.extend(_seconds(values.get("seconds"), -LONGEST)))

    def _hurry(self, orders: Orders, values: dict[str, Any]) -> Any:
        if not self._status.draining:
            raise Problem(409, "the server is not leaving: tell it to stop first")
        return self._after(orders.hurry())

    def _yield(self, orders: Orders, values: dict[str, Any]) -> Any:
        if self._status.state not in GIVES_UP:
            raise Problem(409, "the server is not leaving: give the other one another --status-listen")
        self._yield_places()
        return {}

    def _take_down(self, orders: Orders, which: str) -> Any:
        def told(taken: Sequence[int | str]) -> dict[str, Any]:
            if not taken:
                raise Problem(
                    404,
                    f"no exchange {which[:LONGEST_ID]} is in flight, or others are before it on its connection",
                )
            return {"taken_down": taken}

        taken = orders.take_down(which)
        return taken.addCallback(told) if isinstance(taken, Deferred) else told(taken)


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
