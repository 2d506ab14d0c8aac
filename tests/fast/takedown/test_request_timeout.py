"""Exchanges that outstay their limit while the server runs normally."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from graceful.config.values import Limit
from graceful.reports.interruption import Interruption
from graceful.takedown.last_answer import interrupt
from graceful.takedown.request_timeout import LOOK, RequestTimeouts, take_down_one
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import APPLICATION, Exchange
from tests.fast.doubles import MIB, Case, Client, Engine, get, parse_answers, virtual_time


class FakeReports:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.down: list[Interruption] = []
        self.seen_slow: list[tuple[Exchange, str, str]] = []
        self._number = 0

    def new_id(self) -> str:
        self._number += 1
        return f"OOPS-{self._number}"

    def taken_down(self, what: Interruption) -> None:
        self.down.append(what)

    def slow(self, exchange: Exchange, why: str, stack: str) -> None:
        self.seen_slow.append((exchange, why, stack))


class FakeInterrupts:
    """Keeps which threads it is asked to bring down; the test says how that ends."""

    def __init__(self) -> None:
        self.started: list[tuple[Exchange, int, Callable[..., Any]]] = []

    def start(self, exchange: Exchange, thread: int, ended: Callable[..., Any]) -> Any:
        self.started.append((exchange, thread, ended))
        exchange.takedown = self  # type: ignore[assignment]
        self.exchange, self.thread, self.story = exchange, thread, ["raised Takedown"]
        return self


class Overtimes(Case):
    """Exchanges that run too long."""

    def setUp(self) -> None:
        """With a limit of 8 seconds, which is 10 with its margin."""
        self.build(request_timeout=(Limit(8), Limit(4, "/tried", True)))

    def build(self, **settings: Any) -> None:
        """Start an engine."""
        self.engine = Engine(self, **settings)
        self.clock: Clock = virtual_time(self)
        self.working: dict[Exchange, int] = {}
        self.queued: list[Exchange] = []
        self.reports, self.scheduler = FakeReports(), FakeInterrupts()
        self.replaced: list[int] = []
        self.timeouts = RequestTimeouts(
            self.engine.site,
            self.clock,
            lambda: self.working,
            lambda: self.queued,
            self.scheduler,  # type: ignore[arg-type]
            self.reports,  # type: ignore[arg-type]
            lambda thread: not self.replaced.append(thread),
        )
        self.timeouts.start()

    def threaded(self, data: bytes = get(1)) -> tuple[Client, Exchange]:
        """A client, and its exchange, for which a thread works."""
        client, exchange = self.ask(data)
        exchange.phase, exchange.in_application = APPLICATION, True
        self.working[exchange] = threading.get_ident()
        return client, exchange

    def pass_time(self, seconds: float) -> list[str]:
        """Let time go by; what was logged."""
        with capturedLogs() as events:
            for _ in range(round(seconds / LOOK)):
                self.clock.advance(LOOK)
        self.engine.turn()
        return [formatEvent(event) for event in events]

    def statuses(self, client: Client) -> list[int]:
        """Return the answer that a client got."""
        return [answer.status for answer in parse_answers(client.take())]


class LimitTests(Overtimes):
    """Limits that are enforced."""

    def test_does_not_look_without_limits(self) -> None:
        """Without limits there is no timer."""
        self.build()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_does_nothing_before_limit_and_margin(self) -> None:
        """Until its limit and the margin have passed, nothing happens."""
        client, exchange = self.threaded()
        self.assertEqual(self.pass_time(9.5), [])
        del self.working[exchange]
        self.answer(exchange)
        self.assertEqual(self.statuses(client), [200])
        self.assertEqual(self.scheduler.started, [])

    def test_answers_503_and_brings_thread_down(self) -> None:
        """After limit and margin the client gets 503 at once, with the report's id; the thread is brought down."""
        client, exchange = self.threaded()
        lines = self.pass_time(10.25)
        (answer,) = parse_answers(client.take())
        self.assertEqual((answer.status, answer.fields["retry-after"]), (503, "5"))
        self.assertEqual((answer.fields["x-oops-id"], exchange.report), ("OOPS-1", "OOPS-1"))
        self.assertEqual(answer.fields["connection"], "keep-alive")
        self.assertRegex(
            lines[0], r"taking down exchange 1 GET /1 .* for 10.\d s at the limit 8 \(OOPS-1\), its thread"
        )
        ((down, thread, ended),) = self.scheduler.started
        self.assertEqual((down, thread, self.engine.in_flight), (exchange, threading.get_ident(), []))
        ended(self.scheduler, True)
        (what,) = self.reports.down
        self.assertEqual((what.exchange, what.down, what.outcome, self.replaced), (exchange, True, "taken down", []))
        self.assertEqual(self.timeouts.taken, 1)

    def test_answers_next_exchange_on_the_connection(self) -> None:
        """The next exchange on its connection is answered as if nothing had been."""
        client, exchange = self.threaded(get(1) + get(2))
        self.pass_time(10.25)
        second = self.engine.asked[-1]
        self.assertIsNot(second, exchange)
        exchange.start("200 OK", [])
        self.assertRaises(Disconnected, exchange.finish, b"late")
        self.answer(second, body=b"second")
        self.assertEqual([answer.body for answer in parse_answers(client.take())][1:], [b"second"])

    def test_cuts_answer_that_has_begun(self) -> None:
        """An answer that has begun is cut; those behind it are lost with the connection."""
        client, exchange = self.threaded(get(1) + get(2))
        self.stream(exchange, b"some")
        self.pass_time(10.25)
        (answer,) = parse_answers(client.take())
        self.assertEqual((answer.status, answer.whole), (200, False))
        self.assertEqual((self.engine.in_flight, self.engine.open), ([], 0))

    def test_keeps_complete_answer(self) -> None:
        """An answer that is complete stays so: its thread is in close(), and comes down without it."""
        client, exchange = self.threaded()
        exchange.start("200 OK", [])
        exchange.finish(b"whole")
        self.pass_time(10.25)
        self.assertEqual(self.statuses(client), [200])
        self.assertEqual(len(self.scheduler.started), 1)
        self.assertEqual(self.timeouts.taken, 0)

    def test_keeps_answer_that_is_being_completed(self) -> None:
        """An answer that is just being given away is not cut any more."""
        client, exchange = self.threaded()
        results: list[bool] = []
        client.socket.meanwhile = lambda: results.append(interrupt(exchange))
        exchange.start("200 OK", [])
        exchange.finish(b"whole")
        self.engine.turn()
        (answer,) = parse_answers(client.take())
        self.assertEqual((results, answer.body, answer.whole), ([False], b"whole", True))

    def test_leaves_exchange_that_is_about_to_end(self) -> None:
        """An exchange that is about to end is left alone."""
        _, exchange = self.threaded()
        exchange.start("200 OK", [])
        exchange.finish(b"whole")
        exchange.in_application = False
        self.assertEqual(self.pass_time(10.25), [])

    def test_leaves_next_exchange(self) -> None:
        """If the answer was ended meanwhile, the next exchange on the connection is not touched."""
        client, exchange = self.threaded(get(1) + get(2))
        self.answer(exchange)
        second = self.engine.asked[-1]
        self.assertFalse(interrupt(exchange))
        self.assertFalse(client.connection.close(only=exchange))
        self.answer(second)
        self.assertEqual(self.statuses(client), [200, 200])

    def test_brings_down_thread_without_client(self) -> None:
        """A thread whose client has left is brought down as well."""
        client, _exchange = self.threaded()
        client.close()
        self.pass_time(10.25)
        self.assertEqual(len(self.scheduler.started), 1)

    def test_takes_down_once(self) -> None:
        """An exchange is taken down once, however long its thread needs."""
        self.threaded()
        self.pass_time(30)
        self.assertEqual(len(self.scheduler.started), 1)

    def test_replaces_lost_thread(self) -> None:
        """A thread that does not come down is named, and replaced."""
        self.threaded()
        self.pass_time(10.25)
        ((_, thread, ended),) = self.scheduler.started
        with capturedLogs() as events:
            ended(self.scheduler, False)
        (line,) = [formatEvent(event) for event in events]
        self.assertRegex(
            line, r"\(OOPS-1\): its thread could not be brought down \(raised Takedown\).*takes its place"
        )
        self.assertEqual((self.replaced, self.reports.down[0].outcome), ([thread], "abandoned"))

    def test_answers_503_to_queued_exchange(self) -> None:
        """An exchange that has exceeded its limit in the queue gets 503, and never reaches the application."""
        client, exchange = self.ask()
        self.queued.append(exchange)
        self.pass_time(10)
        self.queued.clear()
        self.assertEqual(self.statuses(client), [503])
        self.assertEqual((self.scheduler.started, len(self.reports.down)), ([], 1))

    def test_keeps_interruptions_of_a_drain(self) -> None:
        """Exchanges that are taken down during a drain are kept for its last line."""
        self.timeouts.begin_drain()
        self.threaded()
        self.pass_time(10.25)
        self.assertEqual(len(self.timeouts.in_drain), 1)


class ReportedTests(Overtimes):
    """Limits that only report."""

    def test_tried_out_limit_only_reports(self) -> None:
        """A limit that is tried out is only reported, when the exchange has ended, with where it was."""
        client, exchange = self.threaded(get(1).replace(b"GET /1", b"GET /tried"))
        lines = self.pass_time(5.25)
        self.assertRegex(lines[0], r"has passed the limit /tried=4:report, which is only tried out \(OOPS-1\)")
        self.assertEqual(self.reports.seen_slow, [])
        del self.working[exchange]
        self.answer(exchange)
        self.pass_time(LOOK)
        ((reported, why, stack),) = self.reports.seen_slow
        self.assertEqual(reported, exchange)
        self.assertIn("tried out", why)
        self.assertIn("in test_tried_out_limit_only_reports", stack)
        self.assertEqual(self.statuses(client), [200])

    def test_reports_slow_exchange_once(self) -> None:
        """An exchange that takes longer than `--report-slower-than` is reported once."""
        self.build(report_slower_than=3)
        _, exchange = self.threaded()
        self.pass_time(20)
        del self.working[exchange]
        self.pass_time(1)
        self.assertEqual([why for _, why, _ in self.reports.seen_slow], ["3 s"])

    def test_does_not_report_twice(self) -> None:
        """An exchange that failed, or was taken down, is not reported again."""
        self.build(report_slower_than=3, request_timeout=(Limit(8),))
        _, failed = self.threaded()
        _, down = self.threaded(get(2))
        self.pass_time(4)
        failed.error = 500
        del self.working[failed]
        self.pass_time(8)
        del self.working[down]
        self.pass_time(1)
        self.assertEqual(self.reports.seen_slow, [])


class OrderTests(Overtimes):
    """An exchange that a person has chosen."""

    def test_takes_down_exchange_with_thread(self) -> None:
        """The client gets 503, the thread is brought down, and other exchanges go on."""
        client, exchange = self.threaded(get(1) + get(2))
        self.assertEqual(take_down_one(self.engine.site, self.timeouts, exchange.id), [exchange.id])
        self.engine.turn()
        self.assertEqual(len(self.scheduler.started), 1)
        self.answer(self.engine.asked[-1])
        self.assertEqual(self.statuses(client), [503, 200])

    def test_cuts_complete_answer(self) -> None:
        """An exchange whose answer is complete is cut all the same, if its client has yet to take it."""
        client, exchange = self.ask(buffer=5000)
        self.answer(exchange, body=b"x" * MIB)
        self.assertEqual(take_down_one(self.engine.site, self.timeouts, exchange.id), [exchange.id])
        (answer,) = parse_answers(client.take())
        self.assertFalse(answer.whole)

    def test_cuts_exchange_without_thread(self) -> None:
        """An exchange without a thread is cut."""
        client, exchange = self.ask()
        exchange.download = True
        self.stream(exchange, b"some")
        self.assertEqual(take_down_one(self.engine.site, self.timeouts, exchange.id), [exchange.id])
        (answer,) = parse_answers(client.take())
        self.assertFalse(answer.whole)
        self.assertEqual(len(self.reports.down), 1)

    def test_takes_down_nothing_if_not_current(self) -> None:
        """An exchange that is not in flight, or has others before it, is not taken down."""
        self.ask(get(1) + get(2))
        first, second = self.engine.in_flight
        self.assertEqual(take_down_one(self.engine.site, self.timeouts, 99), [])
        self.assertEqual(take_down_one(self.engine.site, self.timeouts, second.id), [])
        self.assertEqual(take_down_one(self.engine.site, self.timeouts, first.id), [first.id])
