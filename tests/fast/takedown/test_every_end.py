"""Every way in which an exchange can end: log, metrics, status and reports tell the same of it, and the truth."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

from twisted.internet.task import Clock

from graceful.control.counters import CLASSES, Counters
from graceful.drain.state import State
from graceful.logs.access_lines import CombinedLines, Finished
from graceful.reports.interruption import Interruption
from graceful.reports.reporter import Reporter
from graceful.server.server_status import ServerStatus
from graceful.takedown.drain_deadline import DrainTakedown
from graceful.takedown.request_timeout import RequestTimeouts, take_down_one
from graceful.web import exchange as exchange_module
from graceful.web.answer_framing import AnswerFraming
from graceful.web.body_spool import MEMORY
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import APPLICATION, Exchange
from graceful.web.proxies import TrustedProxies
from tests.fast.doubles import MIB, PEER, Case, Client, Engine, virtual_time

TOOK: Final = 1.25
TOLD: Final = b"User-Agent: ua\r\nReferer: http://r/\r\nX-Request-Id: abc\r\nX-Forwarded-For: 203.0.113.9\r\nX: y\r\n"
GET: Final = b"GET /x HTTP/1.1\r\nHost: a\r\n" + TOLD + b"\r\n"
LINE: Final = re.compile(
    r'203\.0\.113\.9 - - \[[^]]*\] "([^"]*)" ([0-9]+) ([0-9]+) "http://r/" "ua" ([0-9.]+) abc\n\Z'
)


def post(size: int, sent: int) -> bytes:
    """A request of which so much of the body comes."""
    return b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n" % (size, TOLD) + b"u" * sent


class FakeReports(Reporter):
    """Keeps the reports that would be published."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[dict[str, Any]] = []

    def taken_down(self, what: Interruption) -> None:
        self.made.append(self.writer.interruption(what))


class FakeInterrupts:
    """Brings no thread down."""

    busy = False

    def start(self, *ignored: object) -> None:
        """The test's own thread works on."""


class End(NamedTuple):
    """An end, and what is told of it.

    :ivar request: what the client sends.
    :ivar end: what ends it, given the test, the client and the exchange.
    :ivar told: request line, status and size in the access log.
    :ivar down: whether it was taken down.
    """

    request: bytes
    end: Callable[[EveryEnd, Client, Exchange], object]
    told: tuple[str, int, int]
    down: bool = False


def answered(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    test.engine.answer(exchange, b"12345")


def left_in_application(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    client.end.close()
    client.connection.close()
    exchange.start("200 OK", [])
    exchange.finish_and_release(b"12345")


def broken_while_sending(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    client.socket.script.append(BrokenPipeError())
    exchange.start("200 OK", [])
    exchange.finish_and_release(b"12345")


def left_in_answer(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    exchange.start("200 OK", [])
    exchange.write(b"123")
    client.connection.close()
    test.assertRaises(Disconnected, exchange.write, b"45")
    exchange.abandon()
    exchange.release()


def left(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    client.close()


def half_closed(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    client.finish()


def reset(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    client.connection.close()


def cut(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    exchange.start("200 OK", [("Content-Length", "9")])
    exchange.write(b"123")
    exchange.cut()
    exchange.release()


def too_slow(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    client.connection.parser.refuse(408)


def nothing(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    """It was refused when it came."""


def at_the_limit(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    test.timeouts.interrupt(exchange, "at the limit")
    late(exchange)


def by_order(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    test.assertEqual(take_down_one(test.engine.site, test.timeouts, exchange.id), [exchange.id])
    if exchange.handler is not None:
        late(exchange)


def by_order_in_answer(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    exchange.start("200 OK", [])
    exchange.write(b"123")
    by_order(test, client, exchange)


def at_the_deadline(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    test.drain.start(True)
    if exchange.handler is not None:
        late(exchange)


def at_the_deadline_slow_client(test: EveryEnd, client: Client, exchange: Exchange) -> None:
    client.socket.script.append(BlockingIOError())
    at_the_deadline(test, client, exchange)


def late(exchange: Exchange) -> None:
    """What the thread of an exchange does that was taken down: it answers."""
    if exchange.head is None:
        exchange.start("200 OK", [])
    exchange.finish_and_release(b"too late")


SERVICE: Final = len("503 Service Unavailable\n")
ENDS: Final = {
    "answered": End(GET, answered, ("GET /x HTTP/1.1", 200, 5)),
    "answered, with a body": End(post(3, 3), answered, ("POST /x HTTP/1.1", 200, 5)),
    "answered, HTTP/1.0": End(GET.replace(b"1.1", b"1.0"), answered, ("GET /x HTTP/1.0", 200, 5)),
    "left by the client while the application runs": End(GET, left_in_application, ("GET /x HTTP/1.1", 0, 0)),
    "broken at the first byte of the answer": End(GET, broken_while_sending, ("GET /x HTTP/1.1", 0, 0)),
    "left by the client in the answer": End(GET, left_in_answer, ("GET /x HTTP/1.1", 200, 5)),
    "left by the client in the head": End(GET[:-2], left, ("GET /x HTTP/1.1", 0, 0)),
    "half-closed by the client in the body": End(post(9, 5), half_closed, ("POST /x HTTP/1.1", 0, 0)),
    "half-closed by the client before the body": End(post(9, 0), half_closed, ("POST /x HTTP/1.1", 0, 0)),
    "reset in the head": End(GET[:-2], reset, ("GET /x HTTP/1.1", 0, 0)),
    "reset in the head, an unusual method": End(b"FOO" + GET[3:-2], reset, ("FOO /x HTTP/1.1", 0, 0)),
    "reset in the body": End(post(9, 5), reset, ("POST /x HTTP/1.1", 0, 0)),
    "reset while the body goes to the disk": End(post(MEMORY + 9, MEMORY + 9), reset, ("POST /x HTTP/1.1", 0, 0)),
    "cut": End(GET, cut, ("GET /x HTTP/1.1", 200, 3)),
    "too slow": End(GET[:-2], too_slow, ("GET /x HTTP/1.1", 408, 20)),
    "refused: an unknown coding": End(
        GET.replace(b"Host: a", b"Host: a\r\nTransfer-Encoding: gzip"), nothing, ("GET /x HTTP/1.1", 501, 20)
    ),
    "refused: an unknown expectation": End(
        GET.replace(b"Host: a", b"Host: a\r\nExpect: x"), nothing, ("GET /x HTTP/1.1", 417, 23)
    ),
    "refused: a bad Host": End(GET.replace(b"Host: a", b"Host: a b"), nothing, ("GET /x HTTP/1.1", 400, 16)),
    "refused: no Host": End(GET.replace(b"Host: a\r\n", b""), nothing, ("GET /x HTTP/1.1", 400, 16)),
    "refused: HTTP/1.0, chunked": End(
        GET.replace(b"1.1\r\nHost: a", b"1.0\r\nTransfer-Encoding: chunked"), nothing, ("GET /x HTTP/1.0", 400, 16)
    ),
    "refused: CONNECT": End(GET.replace(b"GET /x", b"CONNECT a:1"), nothing, ("CONNECT a:1 HTTP/1.1", 501, 20)),
    "refused: a fragment": End(GET.replace(b"/x", b"/x#"), nothing, ("GET /x# HTTP/1.1", 400, 16)),
    "refused: a bad line": End(GET[:-2] + b"\x01: 2\r\n\r\n", nothing, ("GET /x HTTP/1.1", 400, 16)),
    "refused: too large": End(post(MIB, 0), nothing, ("POST /x HTTP/1.1", 413, 22)),
    "taken down at its limit": End(GET, at_the_limit, ("GET /x HTTP/1.1", 503, SERVICE), True),
    "taken down by order": End(GET, by_order, ("GET /x HTTP/1.1", 503, SERVICE), True),
    "taken down by order, in the answer": End(GET, by_order_in_answer, ("GET /x HTTP/1.1", 200, 3), True),
    "taken down by order, in the body": End(post(9, 5), by_order, ("POST /x HTTP/1.1", 503, SERVICE), True),
    "taken down at the deadline": End(GET, at_the_deadline, ("GET /x HTTP/1.1", 503, SERVICE), True),
    "taken down at the deadline, with a body": End(
        post(5, 5), at_the_deadline, ("POST /x HTTP/1.1", 503, SERVICE), True
    ),
    "taken down at the deadline, in the head": End(
        GET[:-2], at_the_deadline, ("GET /x HTTP/1.1", 503, SERVICE), True
    ),
    "taken down at the deadline, while the body goes to the disk": End(
        post(MEMORY + 9, MEMORY + 9), at_the_deadline, ("POST /x HTTP/1.1", 503, SERVICE), True
    ),
    "taken down at the deadline, of a slow client": End(
        GET, at_the_deadline_slow_client, ("GET /x HTTP/1.1", 503, SERVICE), True
    ),
}


class EveryEnd(Case):
    """An exchange behind a trusted proxy, which lasts for 1.25 seconds."""

    def build(self) -> None:
        self.recorded: list[Exchange] = []
        self.counters = Counters()
        record = self.counters.before(self.recorded.append)
        self.engine = Engine(self, record=record, proxies=TrustedProxies([PEER[0]]), max_body=MIB // 2)
        self.clock: Clock = virtual_time(self)
        self.status = ServerStatus(self.engine.site.settings)
        nothing = cast(Any, SimpleNamespace(taken_down=0, abandoned=0, latest_exit=lambda: 0.0))
        self.status.read_from(cast(Any, SimpleNamespace(site=self.engine.site)), cast(Any, None), nothing, nothing)
        self.status.enter(State.FINISHING)
        self.reports = FakeReports()
        self.working: dict[Exchange, int] = {}
        scheduler: Any = FakeInterrupts()
        self.timeouts = RequestTimeouts(
            self.engine.site, self.clock, lambda: {}, lambda: [], scheduler, self.reports, lambda thread: True
        )
        self.drain = DrainTakedown(self.engine.site, self.clock, lambda: {}, scheduler, self.reports)

    def test_each_end_is_told_as_it_was(self) -> None:
        """Of each end the log has client, request, status, size, agent, duration and id; the others agree."""
        for what, (request, end, told, down) in ENDS.items():
            with self.subTest(what):
                self.build()
                client = self.engine.connect()
                client.send(request[:10])
                self.clock.advance(TOOK)
                client.send(request[10:])
                listed = self.engine.in_flight or self.recorded
                (exchange,) = listed
                if exchange in self.engine.asked:
                    exchange.phase = APPLICATION
                number = exchange.id
                end(self, client, exchange)
                self.engine.turn()
                if client.end.fileno() >= 0:
                    client.take()
                    client.close()
                self.nothing_left()
                (recorded,) = self.recorded
                line = CombinedLines()(recorded, recorded.started)
                match = LINE.match(line)
                assert match is not None, line
                self.assertEqual((match[1], int(match[2]), int(match[3])), told, line)
                self.assertAlmostEqual(float(match[4]), TOOK, 3)
                (row,) = [row for row in self.counters.sums() if row[-1]]
                self.assertEqual(self.counters.sums().index(row), told[1] // 100, CLASSES)
                self.assertAlmostEqual(row[-1], TOOK, 3)
                (shown,) = self.status.recently_ended()
                self.assertEqual(
                    (
                        shown["id"],
                        shown["method"],
                        shown["path"],
                        shown["status"],
                        shown["seconds"],
                        shown["taken_down"],
                    ),
                    (number, *told[0].split()[:2], told[1], TOOK, down),
                )
                self.assertEqual(len(self.reports.made), int(down))
                for report in self.reports.made:
                    self.assertEqual(
                        (
                            report["client"],
                            report["request_id"],
                            report["method"],
                            report["status"],
                            report["exchange"],
                        ),
                        ("203.0.113.9", "abc", told[0].split()[0], told[1], number),
                    )
                    self.assertEqual(report["req_vars"]["HTTP_USER_AGENT"], "ua")

    def test_a_substitute_carries_all_that_is_known_of_the_request(self) -> None:
        """Each attribute of an exchange is the request's, which a substitute has too, or the answer's."""
        of_answer = """
            _bare _flags _flushed _known_head _released begun body chunked connection download ended environ error
            handler head hooks in_application length mount offer phase sent status takedown
        """.split()
        of_request = [*exchange_module._OF_REQUEST, *exchange_module._MEASURED]
        attributes = [*Finished.__slots__, *AnswerFraming.__slots__, *Exchange.__slots__]
        self.assertEqual(sorted([*of_request, *of_answer]), sorted(attributes))
