"""A connection from its first byte to its last: order, slow readers, half-closes, and closings that lose nothing."""

from __future__ import annotations

import errno
import gc
import socket
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.takedown.last_answer import take_down
from graceful.web.body_spool import HIGH, MEMORY
from graceful.web.connection import accept_connection
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import LINGERING, Exchange
from graceful.web.proxies import TrustedProxies
from graceful.web.receiver import PIPELINE
from graceful.web.sending_half import HELD, JOIN, ROOM
from graceful.web.site import Budget
from graceful.web.write_token import REACTOR, SENDER, WriteToken
from tests.fast.doubles import (
    CLOSE,
    CONTINUE,
    EXPECT,
    GET,
    MIB,
    Case,
    Client,
    Engine,
    get,
    parse_answers,
    post,
    virtual_time,
)


class KeepAliveTests(Case):
    """Several exchanges on a connection."""

    def test_one_after_another(self) -> None:
        """A connection carries one exchange after another, each listed for as long as it lasts."""
        client = self.engine.connect()
        for number in range(3):
            client.send(get(number))
            exchange = self.engine.asked[number]
            self.assertEqual(self.engine.in_flight, [exchange])
            self.answer(exchange)
            self.assertEqual(self.engine.in_flight, [])
            self.assertEqual(self.bodies(client), [b"/%d" % number])
        self.assertEqual(self.engine.open, 1)

    def test_the_connection_ends_after_an_answer_that_says_close(self) -> None:
        """After an answer that says close the client gets the end, and its own end ends the connection."""
        client, exchange = self.ask(CLOSE)
        self.answer(exchange)
        self.assertEqual((self.bodies(client), client.eof), ([b"/"], True))
        self.assertEqual((self.engine.in_flight, exchange.phase), ([exchange], LINGERING))
        client.close()
        self.nothing_left()
        self.assertTrue(client.socket.closed)

    def test_an_idle_client_that_closes_is_gone_at_once(self) -> None:
        """An idle client that closes is gone at once."""
        client, exchange = self.ask()
        self.answer(exchange)
        client.close()
        self.nothing_left()

    def test_fresh_client_leaves(self) -> None:
        """A client that closes without a byte, or after half a head, leaves nothing behind."""
        for data in (b"", b"GET / HT", GET[:-2], post(100)[:-1], post(MEMORY + 10)[:-1]):
            self.engine.connect().send(data).close()
            self.nothing_left()
            self.engine.disk.work()
        self.assertEqual(self.engine.asked, [])
        self.assertTrue(all(file.closed for file in self.engine.disk.files))

    def test_the_collector_finds_nothing_of_an_ended_connection(self) -> None:
        """All that belongs to a connection is freed with its last reference: nothing refers to itself in a circle."""

        def idle() -> None:
            client, exchange = self.ask()
            self.answer(exchange)
            client.close()

        def told_to_close() -> None:
            client, exchange = self.ask(CLOSE)
            self.answer(exchange)
            client.close()

        def unfinished(data: bytes) -> None:
            self.engine.connect().send(data).close()
            self.engine.disk.work()

        for turn in (idle, told_to_close, *(partial(unfinished, data) for data in (b"", GET[:-2], post(100)[:-1]))):
            turn()  # what is kept for all connections is made by the first
            self.engine.asked.clear()
            gc.collect()
            gc.disable()
            self.addCleanup(gc.enable)
            turn()
            self.engine.asked.clear()
            gc.set_debug(gc.DEBUG_SAVEALL)
            self.addCleanup(gc.garbage.clear)
            try:
                gc.collect()
            finally:
                gc.set_debug(0)
            self.assertEqual([type(one).__name__ for one in gc.garbage], [], turn)

    def test_told_when_gone(self) -> None:
        """A caller that waits for the end of a connection is told of it, once."""
        client = self.engine.connect()
        told: list[int] = []
        for number in range(2):
            client.connection.when_gone().addCallback(lambda ignored, number=number: told.append(number))
        self.assertEqual(told, [])
        client.close()
        self.assertEqual(told, [0, 1])
        client.connection.close()
        self.assertEqual(told, [0, 1])

    def test_an_exchange_knows_its_client(self) -> None:
        """An exchange knows its client, who has no address on a Unix socket."""
        self.assertEqual(self.ask()[1].peer, "192.0.2.1")
        self.assertEqual(self.ask(peer=None)[1].peer, "")

    def test_only_a_trusted_proxy_is_believed_about_the_client(self) -> None:
        """What a trusted proxy says of the client is taken over, what another one says is not."""
        self.engine = Engine(self, proxies=TrustedProxies(["192.0.2.0/24"]))
        fields = b"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-Id: r-1\r\n\r\n"
        data = GET[:-2] + fields
        exchange = self.ask(data)[1]
        self.assertEqual((exchange.peer, exchange.scheme, exchange.request_id), ("203.0.113.9", "https", "r-1"))
        exchange = self.ask(data, peer=("198.51.100.7", 5))[1]
        self.assertEqual((exchange.peer, exchange.scheme), ("198.51.100.7", "http"))
        self.assertNotEqual(exchange.request_id, "r-1")


class PipelineTests(Case):
    """Requests that come before the answers."""

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        """One is answered at a time, and the answers come in the order of the requests."""
        client, _ = self.ask(get(0) + get(1) + get(2))
        for number in range(3):
            self.assertEqual([e.target for e in self.engine.asked], [b"/%d" % n for n in range(number + 1)])
            self.answer(self.engine.asked[number])
        self.assertEqual(self.bodies(client), [b"/0", b"/1", b"/2"])

    def all_answered(self, client: Client, count: int, at_once: int) -> None:
        """Answer everything, some at once before the reactor notices; check that all are answered in order."""
        done = 0
        bodies = []
        while done < len(self.engine.asked):
            self.assertLessEqual(len(self.engine.in_flight), PIPELINE + 2)
            for _ in range(at_once):
                if done < len(self.engine.asked):
                    self.engine.answer(self.engine.asked[done], self.engine.asked[done].target)
                    done += 1
            bodies += self.bodies(client)
        self.assertEqual(bodies, [b"/%d" % number for number in range(count)])
        self.assertEqual(self.engine.in_flight, [])

    def test_two_thousand_in_one_packet(self) -> None:
        """Of any number of requests a few are taken in ahead; all are answered, however quickly that goes."""
        for at_once in (1, 2, 3, PIPELINE, PIPELINE + 1, PIPELINE + 5):
            self.engine = Engine(self)
            client = self.engine.connect()
            client.send(b"".join(get(number) for number in range(2000)))
            self.all_answered(client, 2000, at_once)

    def test_a_packet_each(self) -> None:
        """The same holds when each has a packet of its own: the rest waits in the kernel."""
        client = self.engine.connect()
        for number in range(100):
            client.send(get(number))
            self.assertLessEqual(len(self.engine.in_flight), PIPELINE + 2)
        self.assertFalse(client.connection.reading)
        self.all_answered(client, 100, 2)
        self.assertTrue(client.connection.reading)

    def test_answered_at_once(self) -> None:
        """A handler that answers in the reactor thread can have all of them, too."""
        self.engine.handler.answer = lambda exchange: self.engine.answer(exchange, exchange.target)
        client = self.engine.connect()
        client.send(b"".join(get(number) for number in range(1000)))
        self.assertEqual(self.bodies(client), [b"/%d" % number for number in range(1000)])

    def test_while_the_client_is_slow(self) -> None:
        """Pipelined requests are answered also when the client begins to read after them all."""
        client = self.engine.connect(buffer=5000)
        client.send(b"".join(get(number) for number in range(50)))
        done = 0
        got = b""
        while done < 50:
            while done < len(self.engine.asked):
                self.answer(self.engine.asked[done], body=b"x" * 3000)
                done += 1
            got += client.take(1000)
        got += client.take()
        self.assertEqual([len(answer.body) for answer in parse_answers(got)], [3000] * 50)
        self.assertEqual(self.engine.in_flight, [])

    def test_error_behind_good_ones(self) -> None:
        """Good requests before a bad one are answered first, then the bad one is, and the connection ends."""
        client, _ = self.ask(get(0) + get(1) + b"GET / HTTP/1.1\r\n\r\n" + get(2))
        for number in range(2):
            self.answer(self.engine.asked[number])
        answers = parse_answers(client.take())
        self.assertEqual([answer.status for answer in answers], [200, 200, 400])
        self.assertTrue(client.eof)
        self.assertEqual(len(self.engine.asked), 2)
        client.close()
        self.nothing_left()

    def test_behind_the_last(self) -> None:
        """What is read behind a last request is thrown away."""
        client, exchange = self.ask(CLOSE + get(1))
        client.send(get(2) * 100)
        self.answer(exchange)
        client.send(get(3) * 100)
        self.assertEqual((self.bodies(client), client.eof, len(self.engine.asked)), ([b"/"], True, 1))

    def test_requests_behind_a_closing_answer_end_with_the_connection(self) -> None:
        """Requests behind an answer with which the application closes end with the connection."""
        client, exchange = self.ask(get(0) + get(1) + get(2))
        exchange.start("200 OK", [("Connection", "close")])
        self.end(exchange)
        self.assertEqual((len(parse_answers(client.take())), client.eof), (1, True))
        client.close()
        self.nothing_left()

    def test_thrown_away_when_the_application_closes(self) -> None:
        """Bytes behind a closing answer are thrown away: unread requests, and a body for a slow disk."""
        client, exchange = self.ask(b"".join(get(number) for number in range(50)))
        exchange.start("200 OK", [("Connection", "close")])
        self.end(exchange)
        known = self.engine.in_flight
        self.assertEqual(client.connection.parser.unparsed, b"")
        client.send(get(1) * 5000)
        self.assertEqual((client.connection.parser.unparsed, self.engine.in_flight), (b"", known))
        client.close()
        client, exchange = self.ask(get(0) + post(0)[:-4].replace(b": 0", b": %d" % (10 * HIGH)) + b"\r\n\r\n")
        exchange.start("200 OK", [("Connection", "close")])
        self.end(exchange)
        client.send(b"u" * 10 * HIGH)
        self.assertLess(self.engine.in_flight[-1].received, 2 * HIGH)
        client.close()
        self.engine.settle()
        self.nothing_left()

    def test_refused_is_recorded(self) -> None:
        """A refused request leaves the register and enters the log like any other."""
        records: list[tuple[int, bytes]] = []
        self.engine = Engine(self, record=lambda exchange: records.append((exchange.status, exchange.target)))
        client = self.engine.connect()
        client.send(b"GET /a HTTP/1.1\r\n\r\n").close()
        self.nothing_left()
        self.assertEqual(records, [(400, b"/a")])


class HalfCloseTests(Case):
    """A client that says all it has to say, and listens."""

    def test_after_its_request(self) -> None:
        """Its answer is still sent, and the connection ends after it."""
        for data, count in ((GET, 1), (get(0) + get(1) + get(2), 3), (CLOSE, 1), (post(10), 1)):
            self.engine = Engine(self)
            client = self.engine.connect()
            client.send(data).finish()
            for number in range(count):
                self.answer(self.engine.asked[number], body=b"x")
            self.assertEqual((self.bodies(client), client.eof), ([b"x"] * count, True))
            self.nothing_left()

    def test_all_pipelined_requests_are_answered_before_the_half_close_counts(self) -> None:
        """All of many pipelined requests are answered before the end is noticed."""
        client = self.engine.connect()
        client.send(b"".join(get(number) for number in range(100))).finish()
        done = 0
        while done < len(self.engine.asked):
            self.answer(self.engine.asked[done])
            done += 1
        self.assertEqual(self.bodies(client), [b"/%d" % number for number in range(100)])
        self.nothing_left()

    def test_before_the_end_of_the_next(self) -> None:
        """A request cut short by the end is forgotten; the one before it is answered."""
        for rest in (b"GET /2", get(2)[:-1], post(10)[:-1], post(MEMORY + 10)[:-1], EXPECT):
            self.engine = Engine(self)
            client, exchange = self.ask(get(1) + rest)
            client.finish()
            self.assertEqual(self.engine.in_flight, [exchange])
            self.answer(exchange)
            self.assertEqual((self.bodies(client), client.eof), ([b"/1"], True))
            self.engine.settle()
            self.nothing_left()
            self.assertTrue(all(file.closed for file in self.engine.disk.files))

    def test_behind_a_large_body(self) -> None:
        """An upload that is still on its way to the disk is answered like any other."""
        client = self.engine.connect()
        client.send(post(MEMORY + 10)).finish()
        self.assertEqual(len(self.engine.in_flight), 1)
        self.engine.disk.work()
        self.engine.turn()
        self.answer(self.engine.asked[0], body=b"taken")
        self.assertEqual((self.bodies(client), client.eof), ([b"taken"], True))
        self.nothing_left()

    def test_a_parked_client_that_half_closes_is_gone(self) -> None:
        """A client whose exchange waits for something with no thread is taken to be gone."""
        self.engine.handler.parks = True
        client, exchange = self.ask()
        client.finish()
        self.assertEqual((self.engine.open, self.engine.handler.left), (0, [exchange]))
        exchange.release()
        self.nothing_left()

    def test_a_half_closed_slow_reader_gets_the_whole_answer(self) -> None:
        """It gets all of a long answer, and then the end."""
        client, exchange = self.ask(buffer=5000)
        client.finish()
        self.answer(exchange, body=b"x" * MIB)
        self.assertEqual((self.bodies(client), client.eof), ([b"x" * MIB], True))
        self.nothing_left()


class SlowReaderTests(Case):
    """What the kernel does not take at once."""

    def test_rest_is_sent_before_the_next_answer(self) -> None:
        """The reactor sends the rest; the exchange lasts until its last byte is taken, and the next one follows."""
        client, exchange = self.ask(GET + get(1), buffer=5000)
        self.answer(exchange, body=b"x" * MIB)
        self.assertEqual((self.engine.in_flight[0], len(self.engine.asked)), (exchange, 1))
        self.assertGreater(client.connection.write_token.held, MIB // 2)
        self.assertTrue(client.connection.writing)
        self.assertEqual(self.bodies(client), [b"x" * MIB])
        self.assertEqual((client.connection.write_token.held, client.connection.writing), (0, False))
        self.answer(self.engine.asked[1])
        self.assertEqual(self.bodies(client), [b"/1"])
        self.assertEqual(self.engine.in_flight, [])

    def test_last_answer_is_shut_after_its_rest(self) -> None:
        """A last answer is shut after its rest, not before."""
        client, exchange = self.ask(CLOSE, buffer=5000)
        self.answer(exchange, body=b"x" * MIB)
        self.assertEqual((self.bodies(client), client.eof), ([b"x" * MIB], True))
        client.close()
        self.nothing_left()

    def test_later_pieces_are_sent_behind_the_rest(self) -> None:
        """Pieces that come while there is a rest are sent behind it."""
        client, exchange = self.ask(buffer=5000)
        self.stream(exchange, *[bytes([65 + number]) * 40_000 for number in range(10)])
        self.end(exchange, b"end")
        self.assertEqual(
            self.bodies(client), [b"".join(bytes([65 + number]) * 40_000 for number in range(10)) + b"end"]
        )
        self.assertEqual(self.engine.in_flight, [])

    def test_kernel_takes_what_it_likes(self) -> None:
        """Whatever part the kernel takes, also none, every byte is sent once and in order."""
        for size in (10, JOIN, JOIN + 1, 3 * JOIN):
            body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            for count in (BlockingIOError(), 0, 1, 50, 300, size, size + 50):
                self.engine = Engine(self)
                client, exchange = self.ask()
                client.socket.script.append(count)
                client.socket.script.append(BlockingIOError())
                self.answer(exchange, body=body)
                self.assertEqual(self.bodies(client), [body], (size, count))
                self.assertEqual(self.engine.in_flight, [])

    def test_a_client_that_leaves_with_a_rest_unsent_ends_the_exchange(self) -> None:
        """A client that leaves with a rest unsent ends the exchange, and the sender is told."""
        client, exchange = self.ask(buffer=5000)
        self.stream(exchange, b"x" * MIB)
        client.close()
        self.assertEqual((self.engine.open, self.engine.handler.left), (0, [exchange]))
        self.assertRaises(Disconnected, exchange.write, b"x")
        exchange.release()
        self.nothing_left()

    def test_leaves_before_the_answer(self) -> None:
        """An answer to a client that is gone fails where it is sent, and everything is forgotten."""
        for error in (BrokenPipeError(), ConnectionResetError()):
            client, exchange = self.ask()
            client.socket.script.append(error)
            exchange.start("200 OK", [])
            self.assertRaises(Disconnected, exchange.finish, b"x")
            exchange.abandon()
            exchange.release()
            self.nothing_left()
            self.assertTrue(client.socket.closed)

    def test_interest_while_letting_go(self) -> None:
        """A rest that a thread leaves just when the reactor has sent the one before is sent as well."""
        client, exchange = self.ask(buffer=5000)
        self.stream(exchange, b"x" * 100_000)
        flushed = WriteToken.rest_flushed
        late = [b"y" * 100_000]

        def and_a_thread(write_token: WriteToken) -> Any:
            result = flushed(write_token)
            if late and write_token.holder is not REACTOR:
                exchange.write(late.pop())
            return result

        self.patch(WriteToken, "rest_flushed", and_a_thread)
        client.take()
        self.assertEqual((late, client.connection.write_token.held), ([], 0))
        self.end(exchange)

    def test_end_while_letting_go(self) -> None:
        """An answer that ends just when the reactor has sent its rest is noted as ended, whatever follows it."""
        for data, cut in ((GET, False), (CLOSE, False), (GET, True)):
            self.engine = Engine(self)
            client, exchange = self.ask(data, buffer=5000)
            self.stream(exchange, b"x" * 100_000, length=100_000 if not cut else 200_000)
            sent = WriteToken.piece_taken
            ends: list[Callable[[], object]] = [exchange.cut if cut else exchange.finish]

            def and_a_thread(write_token: WriteToken, count: int, ends: Any = ends, sent: Any = sent) -> None:
                sent(write_token, count)
                if not write_token.rest and ends:
                    ends.pop()()

            self.patch(WriteToken, "piece_taken", and_a_thread)
            got = client.take()
            exchange.release()
            self.assertEqual((len(parse_answers(got)[0].body), client.eof), (100_000, data == CLOSE or cut))
            if client.eof:
                client.close()
            self.assertEqual(self.engine.in_flight, [])


class WaitingTests(Case):
    """Threads that are held back by slow clients."""

    def in_thread(self, function: Callable[[], None]) -> tuple[threading.Thread, list[Exception]]:
        """Run something in a thread; it, and what it raises."""
        errors: list[Exception] = []

        def run() -> None:
            try:
                function()
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread, errors

    def held_back(self, client: Client, exchange: Exchange, size: int) -> tuple[threading.Thread, list[Exception]]:
        """Have a thread write so much that it waits; wait until it does."""
        waits = threading.Event()
        wait = WriteToken.wait

        def say(write_token: WriteToken, *args: Any) -> bool:
            waits.set()
            return wait(write_token, *args)

        self.patch(WriteToken, "wait", say)

        def answer() -> None:
            exchange.start("200 OK", [])
            exchange.write(b"x" * size)
            exchange.finish(b"end")

        thread, errors = self.in_thread(answer)
        self.assertTrue(waits.wait(5))
        self.assertTrue(thread.is_alive())
        return thread, errors

    def test_released_by_reading(self) -> None:
        """A thread whose client is far behind waits, and goes on when the client reads."""
        client, exchange = self.ask(buffer=5000)
        thread, errors = self.held_back(client, exchange, 3 * MIB)
        got = b""
        end = monotonic() + 10
        while thread.is_alive() or not client.connection.write_token.idle():
            self.assertLess(monotonic(), end, "the thread still waits")
            got += client.take()
            thread.join(0.001)
        got += client.take()
        self.assertEqual(([len(answer.body) for answer in parse_answers(got)], errors), ([3 * MIB + 3], []))

    def test_released_by_leaving(self) -> None:
        """The wait ends when the client leaves, and the thread is told."""
        client, exchange = self.ask(buffer=5000)
        thread, errors = self.held_back(client, exchange, 3 * MIB)
        client.close()
        thread.join(5)
        self.assertEqual([type(error) for error in errors], [Disconnected])

    def test_released_by_the_takedown(self) -> None:
        """The wait ends when the exchange is taken down."""
        client, exchange = self.ask(buffer=5000)
        thread, errors = self.held_back(client, exchange, 3 * MIB)
        self.assertEqual(take_down(client.connection), [exchange])
        thread.join(5)
        self.assertEqual([type(error) for error in errors], [Disconnected])

    def test_small_answers_hold_no_thread(self) -> None:
        """A thread is back at once with an answer of 1 MiB, if all slow clients together leave room."""
        client, exchange = self.ask(buffer=5000)
        thread, errors = self.in_thread(lambda: self.engine.answer(exchange, b"x" * MIB))
        thread.join(5)
        self.assertEqual((thread.is_alive(), errors), (False, []))
        self.assertEqual(self.bodies(client), [b"x" * MIB])

    def test_no_room_for_all(self) -> None:
        """Without room for all, a thread waits with a smaller answer."""
        self.engine.site.budget = Budget(limit=1000)
        first, one = self.ask(buffer=5000)
        self.engine.answer(one, b"x" * 100_000)
        second, two = self.ask(buffer=5000)
        thread, errors = self.in_thread(lambda: self.engine.answer(two, b"x" * 2 * ROOM))
        thread.join(0.05)
        self.assertTrue(thread.is_alive())
        end = monotonic() + 10
        while thread.is_alive():
            self.assertLess(monotonic(), end, "the thread still waits")
            second.take(10_000)
            thread.join(0.001)
        self.assertEqual(errors, [])
        self.assertLess(2 * ROOM, HELD)
        first.close()

    def test_reactor_never_waits(self) -> None:
        """What is written in the reactor thread is kept, however much it is."""
        client, exchange = self.ask(buffer=5000)
        self.answer(exchange, body=b"x" * 5 * MIB)
        self.assertEqual(self.bodies(client), [b"x" * 5 * MIB])

    def test_waiting_bytes_are_counted_only_while_they_wait(self) -> None:
        """What slow clients have waiting is counted while it waits, and not any more when they are gone."""
        budget = self.engine.site.budget = Budget(limit=100_000)
        self.assertTrue(budget.room())
        reader, one = self.ask(buffer=5000)
        leaver, two = self.ask(buffer=5000)
        for exchange in (one, two):
            self.answer(exchange, body=b"x" * 100_000)
        self.assertFalse(budget.room())
        reader.take()
        self.assertTrue(budget.room())
        self.engine.site.budget._limit = 1
        self.assertFalse(budget.room())
        leaver.close()
        self.assertTrue(budget.room())
        self.assertEqual(budget._slow, set(), "connections would be kept for ever")


class SenderTests(Case):
    """What happens while a thread is inside `send`."""

    def test_close_waits_for_the_sender(self) -> None:
        """A descriptor is closed only when the sender has let go of it: its number could be another's by then."""
        for last in (False, True):
            self.engine = Engine(self)
            client, exchange = self.ask()
            client.socket.meanwhile = client.connection.close
            exchange.start("200 OK", [])
            try:
                exchange.finish(b"x") if last else exchange.write(b"x")
            except Disconnected:
                pass
            self.assertFalse(client.socket.closed)
            self.engine.turn()
            self.assertTrue(client.socket.closed)
            self.assertRaises(Disconnected, exchange.write, b"x")
            exchange.release()
            self.nothing_left()

    def test_close_with_a_rest(self) -> None:
        """The same holds when the sender has to leave a rest."""
        client, exchange = self.ask()
        client.socket.meanwhile = client.connection.close
        client.socket.script.append(10)
        exchange.start("200 OK", [])
        self.assertRaises(Disconnected, exchange.write, b"x" * 100)
        self.engine.turn()
        self.assertTrue(client.socket.closed)
        self.assertTrue(self.engine.site.budget.room())
        exchange.release()
        self.nothing_left()

    def test_reset_is_remembered(self) -> None:
        """A connection that is to be reset is reset also if a sender has to let go first."""
        client, exchange = self.ask()
        client.socket.meanwhile = lambda: client.connection.close(reset=True)
        exchange.start("200 OK", [])
        try:
            exchange.write(b"x")
        except Disconnected:
            pass
        self.engine.turn()
        self.assertTrue(client.socket.closed and client.socket.reset)

    def test_the_reactor_does_not_send_while_a_sender_holds_the_token(self) -> None:
        """A socket that takes more in that moment is no business of the reactor: the sender holds the token."""
        client, exchange = self.ask()
        holders: list[object] = []

        def look() -> None:
            client.connection.writable()
            holders.append(client.connection.write_token.holder)

        client.socket.meanwhile = look
        self.answer(exchange)
        self.assertEqual((holders, self.bodies(client)), ([SENDER], [b"/"]))

    def test_next_request_meanwhile(self) -> None:
        """A request that is read before the sender has noted that it is done is answered, too."""
        client, exchange = self.ask()

        def read_on() -> None:
            client.end.send(get(1))
            client.connection.readable()

        client.socket.meanwhile = read_on
        self.engine.answer(exchange, b"x")
        self.assertEqual([e.target for e in self.engine.asked], [b"/", b"/1"])
        self.answer(self.engine.asked[1])
        self.assertEqual(self.bodies(client), [b"x", b"/1"])

    def test_a_client_that_ends_during_its_answer_is_closed_after_it(self) -> None:
        """A client whose end comes while its answer is being sent is closed after it."""
        client, exchange = self.ask()

        def end() -> None:
            client.finish()

        client.socket.meanwhile = end
        self.answer(exchange)
        self.assertEqual((self.bodies(client), client.eof), ([b"/"], True))
        self.nothing_left()


class ContinueTests(Case):
    """100 Continue (RFC 9110 §10.1.1)."""

    def test_100_continue_is_sent_before_the_body_comes(self) -> None:
        """A client that waits for it gets it before its body is sent, and the answer after."""
        client = self.engine.connect()
        client.send(EXPECT)
        self.assertEqual(client.take(), CONTINUE)
        client.send(b"hello")
        self.answer(self.engine.asked[0])
        self.assertEqual(self.bodies(client), [b"/"])

    def test_100_continue_comes_after_the_answer_before_it(self) -> None:
        """Behind an exchange that still runs it comes after that one's answer."""
        client, exchange = self.ask(get(1) + get(2) + EXPECT)
        self.assertEqual(client.take(), b"")
        self.answer(exchange)
        self.assertEqual(self.bodies(client), [b"/1"])
        self.answer(self.engine.asked[1])
        got = client.take()
        self.assertTrue(got.endswith(CONTINUE))
        self.assertEqual([answer.status for answer in parse_answers(got)], [200, 100])
        client.send(b"hello")
        self.answer(self.engine.asked[2])
        self.assertEqual(self.bodies(client), [b"/"])

    def test_behind_a_slow_reader(self) -> None:
        """It is sent behind the rest of an answer."""
        client, exchange = self.ask(get(1) + EXPECT, buffer=5000)
        self.answer(exchange, body=b"x" * 100_000)
        got = client.take()
        self.assertEqual([answer.status for answer in parse_answers(got)], [200, 100])

    def test_not_any_more(self) -> None:
        """A client that has not waited for it does not get it later."""
        client = self.ask(get(1) + EXPECT + b"hello" + get(3))[0]
        for number in range(3):
            self.answer(self.engine.asked[number])
            self.engine.turn()
        self.assertEqual([answer.status for answer in parse_answers(client.take())], [200, 200, 200])
        client.send(GET)
        self.answer(self.engine.asked[3])
        self.assertEqual([answer.status for answer in parse_answers(client.take())], [200])

    def test_the_reactor_sends_the_rest_of_100_continue_first(self) -> None:
        """What the kernel does not take of it is sent by the reactor, before everything else."""
        client = self.engine.connect()
        client.socket.script.append(5)
        client.socket.script.append(BlockingIOError())
        client.send(EXPECT)
        self.assertEqual(client.take(), CONTINUE)
        client.send(b"hello")
        self.answer(self.engine.asked[0])
        self.assertEqual(self.bodies(client), [b"/"])

    def test_in_pieces_to_one_that_leaves(self) -> None:
        """A client that has not taken all of it, and will send nothing more, is owed nothing."""
        client = self.engine.connect()
        client.socket.script.append(5)
        client.socket.script.append(BlockingIOError())
        client.end.send(EXPECT)
        client.finish()
        self.nothing_left()

    def test_client_that_left_gets_no_continue(self) -> None:
        """A client that has left without waiting for it leaves nothing behind."""
        for error in (BrokenPipeError(), ConnectionResetError()):
            client = self.engine.connect()
            client.socket.script.append(error)
            client.send(EXPECT)
            self.nothing_left()
            self.assertTrue(client.socket.closed)

    def test_a_body_that_is_too_large_is_refused_instead_of_100_continue(self) -> None:
        """A body that is too large is refused before it is sent."""
        self.engine = Engine(self, max_body=4)
        client = self.engine.connect()
        client.send(EXPECT)
        answers = parse_answers(client.take())
        self.assertEqual(([answer.status for answer in answers], client.eof), ([413], True))


class LingerTests(Case):
    """After the last answer."""

    def test_a_client_that_still_sends_gets_the_whole_answer(self) -> None:
        """A client that still sends when its answer is complete gets the whole answer, not a reset."""
        self.engine = Engine(self, max_body=10)
        client = self.engine.connect()
        client.send(post(1000)[:-900])
        client.send(b"u" * 500_000)
        answers = parse_answers(client.take())
        self.assertEqual(([answer.status for answer in answers], client.eof, client.broken), ([413], True, False))
        client.close()
        self.nothing_left()

    def test_input_is_read_again(self) -> None:
        """A connection that had paused reading reads again after its last answer, to see the client's end."""
        client, exchange = self.ask(b"".join(get(number) for number in range(100)))
        self.assertFalse(client.connection.reading)
        exchange.start("200 OK", [("Connection", "close")])
        self.end(exchange)
        self.assertTrue(client.connection.reading)
        client.close()
        self.nothing_left()

    def test_idle_connection_is_shut_then_closed(self) -> None:
        """An idle connection is shut, and closed with the client."""
        client, exchange = self.ask()
        self.answer(exchange)
        client.take()
        client.connection.half_close()
        self.assertEqual((client.take(), client.eof, self.engine.open), (b"", True, 1))
        client.send(GET)
        self.assertEqual(len(self.engine.asked), 1)
        client.close()
        self.nothing_left()

    def test_idle_but_not_quite(self) -> None:
        """What has come by the time an idle connection is to be closed is still a request."""
        for data in (GET, GET[:10]):
            client = self.engine.connect()
            client.end.send(data)
            client.connection.half_close()
            self.engine.turn()
            client.send(GET[10:] if data != GET else b"")
            self.answer(self.engine.asked[-1])
            self.assertEqual((self.bodies(client), client.eof), ([b"/"], False))

    def test_idle_but_gone(self) -> None:
        """An idle connection whose client has closed by then is closed at once."""
        client = self.engine.connect()
        client.end.close()
        client.connection.half_close()
        self.nothing_left()

    def test_connection_that_owes_an_answer_is_kept(self) -> None:
        """A connection that owes an answer is not closed as idle."""
        client, exchange = self.ask()
        self.assertFalse(client.connection.idle())
        client.connection.half_close()
        self.answer(exchange)
        self.assertEqual((self.bodies(client), client.eof), ([b"/"], False))


class DrainTests(Case):
    """Connections of a server that is about to stop."""

    def drain(self) -> None:
        """Have every answer be its connection's last."""
        self.engine.site.draining = True

    def test_close_is_said(self) -> None:
        """Answers say close, and the client gets the end."""
        client, exchange = self.ask()
        self.drain()
        self.answer(exchange)
        (answer,) = parse_answers(client.take())
        self.assertEqual((answer.fields["connection"], client.eof), ("close", True))

    def test_what_was_read_is_answered(self) -> None:
        """Requests that were read already are all answered; the last answer says close."""
        for data, count in (
            (get(1) + get(2) + get(3), 3),
            (b"".join(get(number) for number in range(50)), 50),
            (get(1) + post(MEMORY + 10), 2),
        ):
            self.engine = Engine(self)
            client = self.engine.connect()
            client.send(data)
            self.drain()
            done = 0
            while done < count:
                self.answer(self.engine.asked[done])
                self.engine.disk.work()
                self.engine.turn()
                done += 1
            answers = parse_answers(client.take())
            self.assertEqual(
                [answer.fields["connection"] for answer in answers], ["keep-alive"] * (count - 1) + ["close"]
            )
            self.assertTrue(client.eof)
            client.close()
            self.nothing_left()

    def test_half_a_request(self) -> None:
        """A request of which only the beginning was read is waited for."""
        client, exchange = self.ask(get(1) + get(2)[:10])
        self.drain()
        self.answer(exchange)
        client.send(get(2)[10:])
        self.answer(self.engine.asked[1])
        self.assertEqual(
            [answer.fields["connection"] for answer in parse_answers(client.take())], ["keep-alive", "close"]
        )


class ActiveTests(Case):
    """When something last happened, by which the time-outs are measured."""

    def test_bytes_and_answers_count_as_activity_and_the_application_does_not(self) -> None:
        """What comes, what goes, and an answer's end are something; what the application does is not."""
        clock = virtual_time(self)
        self.engine = Engine(self)
        client = self.engine.connect(buffer=5000)
        connection = client.connection
        moments = []

        def after(action: Callable[[], object]) -> None:
            clock.advance(10)
            action()
            moments.append(connection.active == clock.seconds())

        after(lambda: client.send(GET[:10]))
        after(lambda: client.send(GET[10:]))
        exchange = self.engine.asked[0]
        after(lambda: None)
        after(lambda: self.stream(exchange, b"x" * 100_000))
        after(lambda: client.take(10_000))
        client.take()
        after(lambda: self.end(exchange))
        self.assertEqual(moments, [True, True, False, True, True, True])


class HubTests(Case):
    """The epoll of all connections."""

    def test_a_connection_that_fails_is_closed_and_the_others_are_served(self) -> None:
        """A connection whose handling fails is closed, and the others of the batch are served."""
        victim, other = self.engine.connect(), self.engine.connect()

        def fail(data: bytes) -> None:
            raise ZeroDivisionError

        self.patch(victim.connection, "parser", SimpleNamespace(ignoring=False, feed=fail))
        victim.end.send(GET)
        other.end.send(GET)
        self.engine.turn()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((len(self.engine.asked), self.engine.open), (1, 1))

    def test_nothing_is_raised_out_of_a_batch(self) -> None:
        """The reactor would look at the epoll no more, and the server would be deaf."""

        class Unwilling:
            def hold(self) -> None:
                pass

            def kick(self) -> None:
                raise ZeroDivisionError

        class Broken:
            writing, reading = False, True

            def __init__(self, fd: int) -> None:
                self.fd = fd

            def readable(self) -> None:
                raise ZeroDivisionError

            close = writable = readable

        self.engine = Engine(self, batch=Unwilling())
        here, there = socket.socketpair()
        self.addCleanup(here.close)
        self.addCleanup(there.close)
        self.engine.hub.add(Broken(there.fileno()))
        here.send(b"x")
        client = self.engine.connect().send(GET)
        self.assertEqual(len(self.engine.asked), 1)
        self.assertNotIn(there.fileno(), self.engine.hub.descriptors())
        client.close()
        self.assertGreater(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_a_connection_that_the_epoll_refuses_is_closed(self) -> None:
        """Nothing is left of it that a later connection with its number would be taken for."""
        real, refused = self.engine.hub._epoll, []

        class Full:
            def register(self, fd: int, events: int) -> None:
                refused.append(fd)
                raise OSError(errno.ENOSPC, "full")

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

        self.engine.hub._epoll = Full()  # type: ignore[assignment]
        here, there = socket.socketpair()
        self.addCleanup(here.close)
        with self.assertRaises(OSError):
            accept_connection(self.engine.site, self.engine.hub, there, None, ("localhost", 80))
        self.engine.hub._epoll = real
        self.assertEqual((there.fileno(), self.engine.open, self.engine.hub._connections), (-1, 0, {}))

    def test_closed_in_the_same_batch(self) -> None:
        """A connection that was closed earlier in a batch is not read any more."""
        clients = [self.engine.connect() for _ in range(3)]
        for client in clients:
            client.end.send(GET)

        def close_all(exchange: Exchange) -> None:
            for client in clients:
                client.connection.close()

        self.engine.handler.answer = close_all
        self.engine.turn()
        self.assertEqual((len(self.engine.asked), self.engine.open), (1, 0))

    def test_around_each_batch(self) -> None:
        """What is to be done before and after a batch is done, also if a connection fails."""
        order: list[str] = []

        class Recorder:
            def hold(self) -> None:
                order.append("before")

            def kick(self) -> None:
                order.append("after")

        self.engine = Engine(self, batch=Recorder())
        self.engine.handler.answer = lambda exchange: order.append("read")
        clients = [self.engine.connect() for _ in range(3)]
        for client in clients:
            client.end.send(GET)
        self.engine.turn()
        self.assertEqual(order, ["before", "read", "read", "read", "after"])

    def test_broken_while_paused(self) -> None:
        """A connection that is not being read, and whose client is gone altogether, is noticed."""
        client, _ = self.ask(b"".join(get(number) for number in range(100)))
        self.assertFalse(client.connection.reading)
        client.close()
        self.assertEqual(self.engine.open, 0)

    def test_a_stop_closes_all_connections(self) -> None:
        """Stopping closes all connections, and the reactor watches nothing any more."""
        engine = Engine(SynchronousTestCase())
        clients = [Client(engine) for _ in range(3)]
        engine.hub.stop()
        self.assertEqual((engine.open, engine.reactor.readers), (0, []))
        self.assertTrue(all(client.socket.closed for client in clients))
