"""Exchanges that nothing works for: how they are told from those that wait."""

from __future__ import annotations

from types import SimpleNamespace

from twisted.logger import capturedLogs, formatEvent

from graceful.takedown.lost_exchanges import LOOK, SUSPECTED, LostExchanges
from graceful.web.exchange import Exchange
from tests.fast.doubles import Case, get, parse_answers, post


class LostExchangeTests(Case):
    """An exchange in each situation, while the time goes by."""

    def setUp(self) -> None:
        """Look at everything, with threads and a queue that the test decides."""
        super().setUp()
        self.working: dict[Exchange, int] = {}
        self.queued: list[Exchange] = []
        self.lost = LostExchanges(self.engine.site, lambda: self.working, lambda: self.queued)
        self.now = 100.0

    def pass_time(self, seconds: float = SUSPECTED * 3) -> list[str]:
        """Look again and again; what is logged."""
        with capturedLogs() as events:
            until = self.now + seconds
            while self.now < until:
                self.now += LOOK
                self.lost(self.now)
                self.engine.turn()
        return [formatEvent(event) or "" for event in events]

    def forget(self, exchange: Exchange) -> None:
        """Have an exchange's handler work for it no longer."""
        exchange.handler = None

    def test_an_exchange_that_nothing_works_for_is_answered_with_500_and_named(self) -> None:
        """After a while, not at once: it may be on its way from one thread to the next."""
        client, exchange = self.ask()
        self.forget(exchange)
        self.assertEqual(self.pass_time(SUSPECTED), [])
        (line,) = self.pass_time(2 * LOOK)
        self.assertIn("exchange 1 GET / from 192.0.2.1", line)
        (answer,) = parse_answers(client.take())
        self.assertEqual((answer.status, self.lost.ended), (500, 1))
        client.close()
        self.nothing_left()

    def test_an_answer_that_nothing_completes_is_cut(self) -> None:
        """The client must not take it for the whole."""
        client, exchange = self.ask()
        self.stream(exchange, b"begun", length=10)
        self.forget(exchange)
        self.assertEqual(len(self.pass_time()), 1)
        (answer,) = parse_answers(client.take())
        self.assertEqual((answer.whole, client.eof), (False, True))
        self.nothing_left()

    def test_an_answer_that_was_released_without_its_end_is_cut(self) -> None:
        """Its handler says that it is done, but the client waits."""
        _, exchange = self.ask()
        self.stream(exchange, b"begun", length=10)
        exchange.release()
        self.assertEqual(len(self.pass_time()), 1)
        self.nothing_left()

    def test_an_exchange_of_a_closed_connection_is_ended(self) -> None:
        """Its handler was to release it, and did not."""
        client, exchange = self.ask()
        client.close()
        self.assertEqual(self.engine.in_flight, [exchange])
        self.forget(exchange)
        self.assertEqual(len(self.pass_time()), 1)
        self.nothing_left()

    def test_nothing_is_ended_that_something_works_for(self) -> None:
        """A thread, a queue, a handler, an upload, a pipeline, a slow reader, and a client that is slow to leave."""
        clients = []
        for owner in ("thread", "queue", "handler"):
            client, exchange = self.ask()
            clients.append(client)
            if owner == "thread":
                self.working[exchange] = 1
            elif owner == "queue":
                self.queued.append(exchange)
            if owner != "handler":
                self.forget(exchange)
        clients.append(self.engine.connect().send(post(10)[:-5]))
        clients.append(self.ask(get(1) + get(2))[0])
        reader, slow = self.ask(buffer=4096)
        clients.append(reader)
        slow.start("200 OK", [])
        slow.finish(b"x" * 500_000)
        slow.release()
        leaving, last = self.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        clients.append(leaving)
        last.keep = False
        self.engine.answer(last)
        self.assertEqual(self.pass_time(), [])
        self.assertEqual(self.lost.ended, 0)

    def test_an_exchange_is_not_suspected_for_what_is_long_over(self) -> None:
        """Only an unbroken time without an owner counts."""
        _, exchange = self.ask()
        handler = exchange.handler
        for _ in range(5):
            self.forget(exchange)
            self.assertEqual(self.pass_time(SUSPECTED - 2 * LOOK), [])
            exchange.handler = handler
            self.assertEqual(self.pass_time(LOOK), [])

    def test_looks_are_not_more_frequent_than_needed(self) -> None:
        """A drain sweeps ten times a second; ten thousand exchanges are looked at once in one."""
        looked = []
        register = SimpleNamespace(in_flight=lambda: looked.append(1) or [], connections=())
        self.patch(self.engine.site, "register", register)
        for _ in range(20):
            self.now += 0.1
            self.lost(self.now)
        self.assertLess(len(looked), 4)
