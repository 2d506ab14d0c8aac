"""The control API: HTTP and JSON, for the `graceful` command and every other program that may open its socket.

::

    GET  /status            the status; ?limit=N lists at most N exchanges
    GET  /exchanges         everything in flight, each with the stack of its thread
    GET  /exchanges/ID      one of them
    GET  /events            the status as it changes, as server-sent events
    GET  /metrics           for Prometheus
    GET  /tally             the status with the numbers behind the metrics; on the control socket only
    GET  /wait?for=closed   answers when the sockets are closed, or, for=gone, with how the drain has ended
    POST /leave, /enter     leave and enter the rotation of a balancer
    POST /stop              begin to drain; {"quiet": true, "deadline": SECONDS, "wait": "gone"}, each optional;
                            to wait is to be answered as by /wait
    POST /extend            {"seconds": SECONDS}, which may be negative: move the deadline
    POST /exchanges/ID/takedown
    POST /reload-certificates   answers with `certificates`, those in use, and `refused`, why others are not
    POST /workers           {"count": N}: have N workers; answers with `workers` and how many `before`
    POST /hurry             to an instance that is leaving: take down everything that it has left
    POST /yield             to an instance that is leaving: free --status-listen for a successor
    POST /counted           {"counted": TOTALS}: a predecessor that ends says what it has counted since the takeover
    POST /takeover, /takeover/accepts   for a successor (see :mod:`graceful.takeover.successor_api`)

Every answer is an object or a list; one with an error has the key `error` and a line for the operator.  An order is
obeyed when it is answered, and giving it twice changes nothing, except for /extend.

The status page's address has the same resources without the orders (:mod:`graceful.control.read_api`).

Everything here is done in the reactor thread and never waits.  Only a supervisor, which has to ask its workers, may
answer later.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from graceful.control.events import Events
from graceful.control.metrics import Metrics
from graceful.control.read_api import LONGEST_ID, WAITED_FOR, Problem, ReadApi, limit_of
from graceful.control.status import StatusSource
from graceful.process.orders import ControlOrders, OrderRefused
from graceful.web.carrier import Carrier
from graceful.web.exchange import Exchange

log = Logger(namespace="graceful")


#: Orders of a predecessor or a successor that an operator need not know of.
NOT_LOGGED: Final = ("/takeover/connections", "/counted")

#: Answers a successor, given the exchange, its path and its values; what it returns is sent as JSON.
AnswerSuccessor = Callable[[Exchange, str, dict[str, Any]], Any]

#: struct ucred of unix(7): pid, uid, gid.
_CREDENTIALS: Final = struct.Struct("3i")


class ControlApi(ReadApi):
    """All resources, for the control socket.

    :param yield_addresses: closes the listening sockets of the status page.
    :param inherit: called with what a predecessor has counted.
    :ivar obeying: an order is being obeyed just now, and is not answered yet.
    """

    def __init__(
        self,
        status: StatusSource,
        events: Events,
        metrics: Metrics,
        yield_addresses: Callable[[], object] = lambda: None,
        inherit: Callable[[object], object] = lambda told: None,
    ) -> None:
        super().__init__(status, events, metrics, None)
        self._yield_addresses = yield_addresses
        self._inherit = inherit
        self._orders: ControlOrders | None = None  # None while the instance starts
        self.obeying = False
        self._answer_successor: AnswerSuccessor | None = None
        self._obeyed: dict[str, Callable[[ControlOrders, dict[str, Any]], Any]] = {
            "/leave": self._leave,
            "/enter": self._enter,
            "/stop": self._stop,
            "/extend": self._extend,
            "/hurry": self._hurry,
            "/yield": self._yield,
            "/reload-certificates": self._reload_certificates,
            "/workers": self._set_workers,
        }

    def obey(self, orders: ControlOrders) -> None:
        """Obey from now on: the instance has started.  Until then each order is answered with 503."""
        self._orders = orders

    def answer_successors(self, answer: AnswerSuccessor) -> None:
        """Have `answer` handle what a successor asks for; until then it is told that there is no such order."""
        self._answer_successor = answer

    def _check(self, exchange: Exchange) -> None:
        if exchange.method not in ("GET", "HEAD", "POST"):
            raise Problem(405, "only GET, HEAD and POST are known here")

    def _route(self, exchange: Exchange, path: str, query: Mapping[str, list[str]]) -> None:
        if exchange.method != "POST":
            if path == "/tally":
                self._when(exchange, self._status.snapshot_with_counters(limit_of(query)), self._json)
            else:
                super()._route(exchange, path, query)
            return
        self.obeying = True
        try:
            if path not in NOT_LOGGED:
                log.info("order {order} from {who}", order=path[:100], who=said_by(exchange.connection))
            values = _values(exchange)
            if path.startswith("/takeover") and self._answer_successor is not None:
                self._json(exchange, self._answer_successor(exchange, path, values))
                return
            if path == "/counted":
                self._inherit(values.get("counted"))
                self._json(exchange, {})
                return
            what = values.pop("wait", None)
            if what not in (None, *WAITED_FOR):
                raise Problem(400, "wait for what? closed or gone")
            if self._orders is None:
                raise Problem(503, "the server is starting: try again")
            answer = self._obey(self._orders, path, values)
            if what is None:
                self._when(exchange, answer, self._json)
                return
            if isinstance(answer, Deferred):
                answer.addErrback(lambda failure: log.failure("order {order}", failure, order=path[:100]))
            self._wait(exchange, what)
        finally:
            self.obeying = False

    def _obey(self, orders: ControlOrders, path: str, values: dict[str, Any]) -> Any:
        parts = path.strip("/").split("/")
        if path in self._obeyed:
            return self._obeyed[path](orders, values)
        if parts[0] == "exchanges" and len(parts) == 3 and parts[2] == "takedown":
            return self._take_down(orders, parts[1])
        raise Problem(404, f"there is no order {path[:100]}")

    def _after(self, obeyed: Deferred[None] | None) -> Any:
        """Returns the status, or a Deferred that fires with it when the order is obeyed."""
        return (
            obeyed.addCallback(lambda ignored: self._status.snapshot(0))
            if obeyed is not None
            else self._status.snapshot(0)
        )

    def _leave(self, orders: ControlOrders, values: dict[str, Any]) -> Any:
        return self._after(orders.leave())

    def _enter(self, orders: ControlOrders, values: dict[str, Any]) -> Any:
        if self._status.draining:
            raise Problem(409, "the server is stopping: it cannot enter the rotation again")
        return self._after(orders.enter())

    def _stop(self, orders: ControlOrders, values: dict[str, Any]) -> Any:
        quiet, deadline = values.get("quiet", False), values.get("deadline")
        if not isinstance(quiet, bool):
            raise Problem(400, "quiet is true or false")
        return self._after(orders.stop(quiet, None if deadline is None else _seconds(deadline, 0.0)))

    def _extend(self, orders: ControlOrders, values: dict[str, Any]) -> Any:
        if self._status.state.past_deadline:
            raise Problem(409, "the deadline has passed")
        return self._after(orders.extend(_seconds(values.get("seconds"), -LONGEST)))

    def _hurry(self, orders: ControlOrders, values: dict[str, Any]) -> Any:
        if not self._status.draining:
            raise Problem(409, "the server is not leaving: tell it to stop first")
        return self._after(orders.hurry())

    def _reload_certificates(self, orders: ControlOrders, values: dict[str, Any]) -> Any:
        return orders.reload_certificates()

    def _set_workers(self, orders: ControlOrders, values: dict[str, Any]) -> Any:
        count = values.get("count")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise Problem(400, "expected a number of workers, at least 1")
        try:
            return orders.set_workers(count)
        except OrderRefused as refused:
            raise Problem(409, str(refused)) from None

    def _yield(self, orders: ControlOrders, values: dict[str, Any]) -> Any:
        if not self._status.state.leaving:
            raise Problem(409, "the server is not leaving: give the other one another --status-listen")
        self._yield_addresses()
        return {}

    def _take_down(self, orders: ControlOrders, which: str) -> Any:
        def told(taken: Sequence[int | str]) -> dict[str, Any]:
            if not taken:
                raise Problem(
                    404,
                    f"no exchange {which[:LONGEST_ID]} is in flight, or others are before it on its connection",
                )
            return {"taken_down": taken}

        taken = orders.take_down(which)
        return taken.addCallback(told) if isinstance(taken, Deferred) else told(taken)


#: Seconds by which an order may move a deadline: a year, beyond which only a mistake goes.
LONGEST: Final = 365 * 86_400.0


def _seconds(value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= LONGEST:
        raise Problem(400, f"expected seconds, at least {least:g}, at most a year")
    return float(value)


def _values(exchange: Exchange) -> dict[str, Any]:
    """Returns the values in the body of an order."""
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


def said_by(connection: Carrier[Exchange]) -> str:
    """Returns the process and the user at the other end of a control connection, for the log."""
    pid, uid, _ = credentials(connection.sock)
    return f"process {pid} of user {uid}"


def credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Returns process, user and group of a Unix socket's peer, as the kernel has them (unix(7), SO_PEERCRED)."""
    found: tuple[int, int, int] = _CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return found
