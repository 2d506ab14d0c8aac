"""Downloads at a deadline: spared at the first one, with what waits behind them, and cut and named at the second."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from graceful.downloads.parked import Parked
from graceful.downloads.parking_lot import ParkedRequest
from graceful.reports.reporter import Reporter
from graceful.server.shutdown import Shutdown
from graceful.takedown.drain_deadline import LAST_MOMENT, DrainTakedown
from graceful.takedown.kernel_waits import KernelWaits
from graceful.takedown.thread_interrupt import InterruptScheduler
from graceful.threads.callbacks import CallbackThreads
from graceful.web.connection import spared_exchanges
from graceful.web.exchange import Exchange
from tests.fast.doubles import GET, Client, get, parse_answers
from tests.fast.downloads.downloading import DownloadCase, Response


class Case(DownloadCase):
    """A site with downloads and others in flight."""

    def setUp(self) -> None:
        """Have a takedown, and threads that are only said to work."""
        super().setUp()
        self.working: dict[Exchange, int] = {}
        self.scheduler = InterruptScheduler(
            self.clock, lambda: self.working, lambda thread: 0, KernelWaits(set), CallbackThreads().call
        )
        self.reports = Reporter()
        self.takedown = DrainTakedown(
            self.engine.site, self.clock, lambda: self.working, self.scheduler, self.reports
        )

    def download(self, data: bytes = GET, length: int = 10) -> tuple[Client, Response]:
        """Return a client that has 3 bytes of this length, and the upstream they come from."""
        client, exchange = self.ask(data)
        self.start_relay(exchange, "http://librarian/x")
        self.engine.turn()
        response = self.upstream.asked[-1].answer(200, length=length)
        response.data(b"abc")
        self.engine.turn()
        return client, response

    def start(self, everything: bool) -> tuple[list[None], list[str]]:
        """Take down; a list that gets an entry when that is through, and the lines that name what is."""
        through: list[None] = []
        lines = self.logged(lambda: self.takedown.start(everything).addCallback(through.append))
        self.engine.turn()
        return through, [line for line in lines if line.startswith("taking down")]

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        for _ in range(round(seconds * 20)):
            self.clock.advance(0.05)
            self.engine.turn()


class SparedTests(Case):
    """Which exchanges are spared."""

    def test_spares_downloads_and_what_waits_behind(self) -> None:
        """Downloads, with what waits behind them on their connections, be it whole or half received."""
        self.download(get(0) + get(1) + get(2) + b"GET /3")
        self.assertEqual(spared_exchanges(self.engine.site), set(self.engine.in_flight))
        self.assertEqual(len(self.engine.in_flight), 4)

    def test_spares_nothing_else(self) -> None:
        """No exchange of a thread, no parked one, no idle connection; nor what may yet become a download."""
        self.ask()
        self.engine.connect()
        _, exchange = self.ask()
        exchange.start("200 OK", [])
        ParkedRequest(exchange, Parked(), self.parking_lot, False).begin()
        self.engine.connect().send(b"GET / HTTP")
        self.assertEqual(spared_exchanges(self.engine.site), set())

    def test_spares_download_until_it_is_taken(self) -> None:
        """A download is spared until its client has taken the last bytes."""
        client, response = self.download(self.request(connection="close"))
        response.data(b"defghij")
        response.end()
        self.engine.turn()
        (exchange,) = self.engine.in_flight
        self.assertEqual(spared_exchanges(self.engine.site), {exchange})
        client.take()
        client.close()
        self.engine.turn()
        self.assertEqual(spared_exchanges(self.engine.site), set())

    def test_does_not_spare_what_follows_a_download(self) -> None:
        """The exchange behind a download that is over is not spared."""
        _, response = self.download(get(0) + get(1))
        response.data(b"defghij")
        response.end()
        self.engine.turn()
        self.assertEqual(len(self.engine.asked), 2)
        self.assertEqual(spared_exchanges(self.engine.site), set())


class FirstTests(Case):
    """The first deadline."""

    def test_first_deadline_spares_downloads(self) -> None:
        """The first deadline takes everything else down, and ends then; the downloads go on to their ends."""
        client, response = self.download(get(0) + get(1))
        others = [self.ask()[0], self.engine.connect().send(b"GET /half")]
        parked, exchange = self.ask()
        exchange.start("200 OK", [])
        ParkedRequest(exchange, Parked(), self.parking_lot, False).begin()
        self.engine.connect()
        through, lines = self.start(False)
        self.assertEqual((len(lines), self.takedown.taken), (3, 3))
        self.assertFalse(any("downloading" in line for line in lines))
        for other in (*others, parked):
            self.assertEqual([answer.status for answer in parse_answers(other.take())], [503])
            other.close()
        self.wait(0.1)
        self.assertEqual((through, self.engine.open), ([None], 1))
        response.data(b"defghij")
        response.end()
        self.engine.turn()
        self.answer(self.engine.asked[-1], body=b"next")
        self.assertEqual(self.bodies(client), [b"abcdefghij", b"next"])
        self.leave(client)

    def test_first_deadline_does_not_wait_for_downloads(self) -> None:
        """With nothing but downloads there is nothing to do."""
        client, response = self.download()
        through, lines = self.start(False)
        self.assertEqual((through, lines, self.takedown.taken), ([None], [], 0))
        self.assertFalse(response.closed or client.connection.write_token.closed)
        self.leave(client)

    def test_first_deadline_never_closes_downloads(self) -> None:
        """Connections that do not end are closed after a moment; those of downloads are not."""
        client, _ = self.download()
        self.ask()
        through, _ = self.start(False)
        self.wait(LAST_MOMENT + 0.1)
        self.assertEqual((through, self.engine.open), ([None], 1))
        self.leave(client)


class SecondTests(Case):
    """The second deadline."""

    def test_second_deadline_cuts_and_names_downloads(self) -> None:
        """The second deadline cuts downloads visibly, names each with its progress, and counts those behind them."""
        client, response = self.download(get(0) + get(1))
        self.start(False)
        through, lines = self.start(True)
        self.assertEqual((len(lines), self.takedown.taken), (2, 2))
        self.assertRegex(lines[0], r"GET /0 from 192\.0\.2\.1: downloading for .* s, 3 of 10 bytes sent")
        self.assertTrue(response.closed)
        (answer,) = parse_answers(client.take())
        self.assertEqual((answer.body, answer.whole, client.eof), (b"abc", False, True))
        self.wait(0.1)
        self.assertEqual(through, [None])
        self.leave(client)


class StoppingTests(Case):
    """What Shutdown tells a drain, and does for it."""

    def setUp(self) -> None:
        """Have an engine that has only what is asked for."""
        super().setUp()
        engine: Any = SimpleNamespace(
            site=self.engine.site,
            clock=self.clock,
            working=lambda: self.working,
            parking_lot=self.parking_lot,
            websockets=SimpleNamespace(drain=lambda: None),
            sweep_in_drain=lambda: None,
            interrupt_scheduler=self.scheduler,
            reports=self.reports,
            request_timeouts=SimpleNamespace(taken=0),
            asgi=SimpleNamespace(tasks=(), notice=lambda: None),
        )
        self.arriving = False
        listener = cast(Any, SimpleNamespace(more_arrive=lambda: self.arriving))
        self.stopping = Shutdown(engine, None, None, listener)

    def test_downloads_are_not_left_over(self) -> None:
        """Downloads are no others; everything else is, also an idle connection."""
        self.assertEqual((self.stopping.has_leftovers(), self.stopping.has_spared()), (False, False))
        client, _ = self.download(get(0) + get(1))
        self.assertEqual((self.stopping.has_leftovers(), self.stopping.has_spared()), (False, True))
        idle = self.engine.connect()
        self.assertTrue(self.stopping.has_leftovers())
        idle.close()
        self.assertFalse(self.stopping.has_leftovers())
        other, exchange = self.ask()
        self.assertTrue(self.stopping.has_leftovers())
        other.close()
        self.assertTrue(self.stopping.has_leftovers())  # its thread has not noticed yet
        exchange.release()
        self.assertFalse(self.stopping.has_leftovers())
        self.leave(client)

    def test_adds_up_both_takedowns(self) -> None:
        """The exchanges of both takedowns are counted together."""
        self.download()
        other = self.ask()[0]
        self.stopping.take_down(False)
        self.assertEqual((self.stopping.taken_down, self.stopping.has_spared()), (1, True))
        other.take()
        self.stopping.take_down(True)
        self.assertEqual((self.stopping.taken_down, self.stopping.has_spared()), (2, False))

    def test_tells_parked_requests_of_the_drain(self) -> None:
        """When the sockets are closed, parked requests are told, and the wait is over when all are gone."""
        client, exchange = self.ask()
        exchange.start("200 OK", [])
        ParkedRequest(exchange, Parked(timeout=1000), self.parking_lot, False).begin()
        self.stopping.last_requests(False)
        self.clock.advance(5)
        self.parking_lot.tick(self.clock.seconds())
        self.engine.turn()
        self.assertEqual(client.take(), b"")  # a client that came again would find us
        gone = self.stopping.all_gone()
        for _ in range(11):
            self.clock.advance(0.1)
            self.parking_lot.tick(self.clock.seconds())
            self.engine.turn()
        self.assertEqual([answer.status for answer in parse_answers(client.take())], [204])
        self.assertNoResult(gone)
        client.close()
        self.engine.turn()
        self.clock.advance(1)
        self.successResultOf(gone)

    def test_waits_for_connections_that_arrive(self) -> None:
        """One that moves here at the last moment is waited for, too."""
        self.arriving = True
        gone = self.stopping.all_gone()
        self.clock.advance(1)
        self.assertNoResult(gone)
        client = self.engine.connect()
        self.arriving = False
        self.clock.advance(1)
        self.assertNoResult(gone)
        client.close()
        self.engine.turn()
        self.clock.advance(1)
        self.successResultOf(gone)
