"""The deadline of a drain: how each exchange ends, what the log names, and which threads are abandoned."""

from __future__ import annotations

import threading

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from graceful.reports.reporter import Reporter
from graceful.takedown import drain_deadline as deadline_module
from graceful.takedown.drain_deadline import LAST_MOMENT, DrainTakedown
from graceful.takedown.kernel_waits import KernelWaits
from graceful.takedown.last_answer import take_down
from graceful.takedown.thread_interrupt import InterruptScheduler
from graceful.threads.callbacks import CallbackThreads
from graceful.threads.stacks import stack_of
from graceful.web.body_spool import MEMORY
from graceful.web.connection import Connection
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import Exchange
from tests.fast.doubles import CLOSE, EXPECT, GET, HOST, MIB, Case, Client, Engine, get, parse_answers, post


class TakeDownTests(Case):
    """The deadline of a drain, in every situation that a connection can be in."""

    def take_down(self, client: Client) -> list[Exchange]:
        """Take down what the connection carries."""
        interrupted = take_down(client.connection)
        for exchange in interrupted:
            self.engine.site.finished(exchange)
        self.engine.turn()
        return interrupted

    def honest(self, client: Client, exchange: Exchange, *behind: Exchange) -> None:
        """Check that a client whose answer had not begun is told so, and that the thread's answer comes too late."""
        self.assertEqual(self.take_down(client), [exchange, *behind])
        (answer,) = parse_answers(client.take())
        self.assertEqual((answer.status, answer.fields["retry-after"]), (503, "5"))
        self.assertEqual((answer.fields["connection"], client.eof), ("close", True))
        self.assertEqual(exchange.status, 503)
        exchange.start("200 OK", [])
        self.assertRaises(Disconnected, exchange.finish, b"late")
        exchange.abandon()
        exchange.release()
        self.assertEqual(client.take(), b"")
        client.close()
        self.nothing_left()

    def test_closes_idle_connection(self) -> None:
        """An idle connection is closed, and nothing was interrupted."""
        client = self.engine.connect()
        self.assertEqual(self.take_down(client), [])
        self.nothing_left()

    def test_answers_503_before_the_answer_begins(self) -> None:
        """An exchange whose answer has not begun is answered with 503 and a time to come again."""
        self.honest(*self.ask())

    def test_answers_503_and_ends_pipelined_requests(self) -> None:
        """An exchange with others behind it is answered with 503; the others end with the connection."""
        client = self.ask(get(1) + get(2) + get(3)[:-1])[0]
        self.assertEqual(len(self.engine.in_flight), 3)
        self.honest(client, *self.engine.in_flight)

    def test_head_gets_503_without_body(self) -> None:
        """HEAD gets no body with it."""
        client, exchange = self.ask(b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n")
        self.assertEqual(self.take_down(client), [exchange])
        self.assertEqual([answer.status for answer in parse_answers(client.take(), "HEAD")], [503])

    def test_answers_503_while_receiving(self) -> None:
        """A request that is still being received is answered with 503."""
        for data in (b"GET /", post(100)[:-1], post(MEMORY + 10)[:-1], post(MEMORY + 10), EXPECT):
            self.engine = Engine(self)
            client = self.engine.connect()
            client.send(data)
            (exchange,) = self.engine.in_flight
            self.assertEqual(self.take_down(client), [exchange])
            answers = [answer for answer in parse_answers(client.take()) if answer.status != 100]
            self.assertEqual(([answer.status for answer in answers], client.eof), ([503], True))
            self.engine.disk.work()
            client.close()
            self.nothing_left()

    def test_cuts_answer_that_has_begun(self) -> None:
        """An answer that has begun is cut, visibly."""
        for version, fields, reset in (
            (b"1.1", [], False),
            (b"1.1", [("Content-Length", "9")], False),
            (b"1.0", [], True),
        ):
            self.engine = Engine(self)
            client, exchange = self.ask(b"GET / HTTP/" + version + b"\r\n" + HOST + b"\r\n")
            exchange.start("200 OK", fields)
            exchange.write(b"some")
            self.assertEqual(self.take_down(client), [exchange])
            self.assertEqual((client.socket.closed, client.socket.reset), (True, reset))
            (answer,) = parse_answers(client.take())
            self.assertFalse(answer.whole)
            self.assertRaises(Disconnected, exchange.write, b"more")
            exchange.release()
            self.nothing_left()

    def test_cuts_answer_being_sent(self) -> None:
        """An answer that its client has yet to take is cut."""
        client, exchange = self.ask(buffer=5000)
        self.answer(exchange, body=b"x" * MIB)
        self.assertEqual(self.take_down(client), [exchange])
        self.nothing_left()

    def test_lingering_answer_counts_if_not_taken(self) -> None:
        """A last answer counts as interrupted if its client has not taken all of it, else as finished."""
        client, exchange = self.ask(CLOSE)
        self.answer(exchange, body=b"x" * 1000)
        self.assertEqual(self.take_down(client), [exchange])
        client, exchange = self.ask(CLOSE)
        self.answer(exchange, body=b"x" * 1000)
        client.take()
        self.assertEqual(self.take_down(client), [])

    def test_sending_thread_gives_descriptor_back(self) -> None:
        """A thread that is inside `send` in that moment gives the descriptor back itself."""
        client, exchange = self.ask()
        client.socket.meanwhile = lambda: take_down(client.connection)
        exchange.start("200 OK", [])
        try:
            exchange.write(b"some")
        except Disconnected:
            pass
        self.assertFalse(client.socket.closed)
        self.engine.turn()
        self.assertTrue(client.socket.closed)


class DeadlineTests(Case):
    """The takedown of everything at once."""

    def setUp(self) -> None:
        """Start an engine, whose threads are only said to work."""
        super().setUp()
        self.clock = Clock()
        self.working: dict[Exchange, int] = {}
        scheduler = InterruptScheduler(
            self.clock,
            lambda: self.working,
            lambda thread: threading.get_native_id(),
            KernelWaits(set),
            CallbackThreads().call,
        )
        self.takedown = DrainTakedown(self.engine.site, self.clock, lambda: self.working, scheduler, Reporter())

    def start(self, everything: bool = True) -> tuple[list[None], list[str]]:
        """Start it; a list that gets an entry when it is through, and what it says about each exchange."""
        through: list[None] = []
        with capturedLogs() as events:
            self.takedown.start(everything).addCallback(through.append)
        self.engine.turn()
        lines = [formatEvent(event) for event in events]
        return through, [line for line in lines if line.startswith("taking down")]

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        for _ in range(round(seconds * 100)):
            self.clock.advance(0.01)
            self.engine.turn()

    def threaded(self, data: bytes = GET) -> tuple[Client, Exchange]:
        """A client, and its exchange, for which a thread works."""
        client, exchange = self.ask(data)
        self.working[exchange] = threading.get_ident()
        return client, exchange

    def ends(self, exchange: Exchange) -> None:
        """Let the thread that works for an exchange notice that it is gone."""
        del self.working[exchange]
        exchange.abandon()
        exchange.release()

    def test_ends_at_once_with_nothing_left(self) -> None:
        """With nothing left it is through at once."""
        through, lines = self.start()
        self.assertEqual((through, lines, self.takedown.taken, self.takedown.abandoned), ([None], [], 0, 0))

    def test_names_each_exchange_with_age_and_stack(self) -> None:
        """Every exchange is named with its age, and with its thread's stack if it has one."""
        self.threaded(get(1))
        self.engine.connect().send(b"GET /2 HTTP")
        self.clock.advance(self.engine.in_flight[-1].started + 10)
        _, lines = self.start()
        self.assertEqual(len(lines), 2)
        self.assertRegex(lines[0], r"taking down exchange \d+ GET /1 from 192\.0\.2\.1: queued for 10\.\d s")
        self.assertIn("its thread is here:", lines[0])
        self.assertIn("in test_names_each_exchange_with_age_and_stack", lines[0])
        self.assertRegex(
            lines[1], r"taking down exchange \d+ - /2 from 192\.0\.2\.1: receiving for 10\.\d s \(OOPS-\w+\)$"
        )

    def test_counts_what_was_interrupted(self) -> None:
        """Interrupted exchanges are counted, and leave the register; an idle connection is not counted."""
        clients = [
            self.threaded()[0],
            self.engine.connect(),
            self.engine.connect().send(b"GET"),
            self.ask(get(1) + get(2))[0],
        ]
        through, _ = self.start()
        self.assertEqual((self.takedown.taken, self.engine.in_flight, through), (4, [], []))
        statuses = [[answer.status for answer in parse_answers(client.take())] for client in clients]
        self.assertEqual(statuses, [[503], [], [503], [503]])

    def test_ends_when_threads_and_clients_have(self) -> None:
        """The takedown ends as soon as all threads have ended, and all clients have closed."""
        (client, exchange), (other, second) = self.threaded(), self.threaded()
        through, _ = self.start()
        self.ends(exchange)
        client.close()
        self.wait(0.5)
        self.assertEqual(through, [])
        self.ends(second)
        self.wait(0.5)
        self.assertEqual(through, [])
        other.close()
        self.wait(0.1)
        self.assertEqual((through, self.takedown.taken, self.takedown.abandoned), ([None], 2, 0))

    def test_abandons_threads_that_do_not_end(self) -> None:
        """Threads that do not end are given a moment, then abandoned; what is still open is closed."""
        clients = [self.threaded()[0] for _ in range(3)]
        through, _ = self.start()
        self.wait(LAST_MOMENT - 0.1)
        self.assertEqual(through, [])
        self.wait(0.2)
        self.assertEqual((through, self.takedown.taken, self.takedown.abandoned), ([None], 3, 3))
        self.assertEqual(self.engine.open, 0)
        for client in clients:
            self.assertEqual([answer.status for answer in parse_answers(client.take())], [503])
            self.assertFalse(client.socket.reset, "a reset could destroy the answer that was just sent")

    def test_a_pause_of_the_reactor_is_not_held_against_threads(self) -> None:
        """A thread that ends as soon as the reactor can look again has come down."""
        client, exchange = self.threaded()
        through, _ = self.start()
        client.close()
        self.clock.advance(3 * LAST_MOMENT)
        self.engine.turn()
        self.assertEqual(through, [])
        self.ends(exchange)
        self.wait(0.1)
        self.assertEqual((through, self.takedown.taken, self.takedown.abandoned), ([None], 1, 0))

    def test_counts_a_thread_without_client_once(self) -> None:
        """A thread that goes on for a client that has left counts as well, once."""
        client, exchange = self.threaded()
        client.close()
        through, lines = self.start()
        self.assertEqual((self.takedown.taken, len(lines), self.engine.in_flight), (1, 1, []))
        self.ends(exchange)
        self.wait(0.1)
        self.assertEqual((through, self.takedown.abandoned), ([None], 0))

    def test_does_not_count_a_delivered_answer(self) -> None:
        """An answer that its client has, and only has not closed after, was not interrupted."""
        client, exchange = self.ask(CLOSE)
        self.answer(exchange)
        self.assertEqual(self.bodies(client), [b"/"])
        self.start()
        self.assertEqual(self.takedown.taken, 0)

    def download(self) -> Client:
        """A client with a download, for which a thread happens to work, and a request that waits behind it."""
        client, exchange = self.threaded(get(1) + get(2))
        exchange.download = True
        return client

    def test_spares_download_and_what_waits_behind(self) -> None:
        """A download, and what waits behind it, has more time: it is neither named, nor ended, nor waited for."""
        client = self.download()
        other, second = self.threaded(get(3))
        through, lines = self.start(everything=False)
        self.assertEqual(len(lines), 1)
        self.assertIn("GET /3 ", lines[0])
        self.ends(second)
        other.close()
        self.wait(0.1)
        self.assertEqual((through, self.takedown.taken, self.takedown.abandoned), ([None], 1, 0))
        self.answer(*self.engine.asked[:1])
        self.answer(*self.engine.asked[2:])
        self.assertEqual(self.bodies(client), [b"/1", b"/2"])

    def test_second_deadline_takes_downloads_down(self) -> None:
        """At its own deadline it is taken down with all others."""
        client = self.download()
        self.start(everything=False)
        self.assertEqual(self.takedown.taken, 0)
        self.start()
        self.assertEqual((self.takedown.taken, self.engine.in_flight), (2, []))
        self.assertEqual([answer.status for answer in parse_answers(client.take())], [503])

    def test_closes_others_and_keeps_the_download(self) -> None:
        """Connections that do not end in time are closed; the download's is not."""
        client, other = self.download(), self.threaded(get(3))[0]
        through, _ = self.start(everything=False)
        self.wait(LAST_MOMENT + 0.1)
        self.assertEqual((through, self.takedown.taken, self.takedown.abandoned), ([None], 1, 1))
        self.assertEqual((client.socket.closed, other.socket.closed), (False, True))

    def test_failure_does_not_keep_others_from_takedown(self) -> None:
        """A connection that cannot be taken down in order is closed, and the others are taken down."""
        bad, good = self.ask()[0], self.ask()[0]

        def fail(connection: Connection) -> list[Exchange]:
            if connection is bad.connection:
                raise ZeroDivisionError
            return take_down(connection)

        self.patch(deadline_module, "take_down", fail)
        self.start()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual([answer.status for answer in parse_answers(good.take())], [503])
        self.assertTrue(bad.socket.closed)


class StackTests(Case):
    """The stack of a thread."""

    def test_stack_ends_with_the_current_call(self) -> None:
        """The stack of a thread ends with what it is doing right now."""
        lines = stack_of(threading.get_ident()).splitlines()
        self.assertIn("in test_stack_ends_with_the_current_call", "".join(lines[-6:]))
        self.assertIn("in stack_of", lines[-2])

    def test_no_thread_has_no_stack(self) -> None:
        """A thread that does not exist, or has ended, has no stack."""
        self.assertEqual((stack_of(0), stack_of(1)), ("", ""))
