"""Requests that wait for news: who may answer them, when, how often, and what becomes of ten thousand of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from itertools import pairwise
from time import monotonic
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.downloads.parked import NO_NEWS, Parked, ParkedAnswer
from graceful.downloads.parking_lot import COME_BACK_AFTER, DRAIN_SPREAD, MAX_UNSENT, ParkedRequest, ParkingLot
from graceful.takedown.last_answer import take_down
from graceful.web.exchange import PARKED, Exchange
from tests.fast.doubles import GET, HOST, MIB, Answer, Client, get, parse_answers
from tests.fast.downloads.downloading import DownloadCase

STREAM = ("Content-Type", "text/event-stream")
LONG = 5.0


class Case(DownloadCase):
    """Clients whose requests are parked."""

    def ticket(self, exchange: Exchange, **options: Any) -> Parked:
        """A ticket for an exchange, whose `gone` is noted."""
        ticket = Parked(**options)
        ticket.exchange = exchange
        self.gone: list[Parked] = []
        ticket.gone.addCallback(lambda ignored: self.gone.append(ticket))
        return ticket

    def park(
        self,
        *fields: tuple[str, str],
        data: bytes = GET,
        stream: bool = False,
        buffer: int | None = None,
        **options: Any,
    ) -> tuple[Client, Parked]:
        """A client, and the ticket by which its request is parked."""
        client, exchange = self.ask(data, buffer=buffer)
        ticket = self.ticket(exchange, **options)
        self.hand_over(exchange, ticket, *fields, stream=stream)
        return client, ticket

    def hand_over(self, exchange: Exchange, ticket: Parked, *fields: tuple[str, str], stream: bool = False) -> None:
        """Hand the request over, as when its view has returned."""
        exchange.start("200 OK", [*fields, STREAM] if stream else [*fields])
        ParkedRequest(exchange, ticket, self.parking_lot, stream).begin()
        self.engine.turn()

    def got(self, client: Client, method: str = "GET") -> Answer:
        """The one answer that a client has got."""
        self.engine.turn()
        (answer,) = parse_answers(client.take(), method)
        return answer

    def tick(self, seconds: float, step: float = 0.1) -> None:
        """Let time go by."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.parking_lot.tick(self.clock.seconds())
            self.engine.turn()

    def run_threads(self) -> None:
        """Call all functions that were to be called in a thread."""
        while self.in_thread:
            function, *arguments = self.in_thread.pop(0)
            function(*arguments)
        self.engine.turn()


class AnswerTests(Case):
    """Answers to parked requests."""

    def test_answers_when_there_is_news(self) -> None:
        """A parked request has only its place in the parking lot, and is answered when there is news."""
        client, ticket = self.park()
        (exchange,) = self.engine.in_flight
        self.assertEqual((exchange.phase, len(self.parking_lot), client.take()), (PARKED, 1, b""))
        self.assertTrue(ticket.answer(201, [("X-A", "b")], b"news"))
        answer = self.got(client)
        self.assertEqual((answer.status, answer.reason, answer.body), (201, "Created", b"news"))
        self.assertEqual((answer.fields["x-a"], answer.fields["content-length"], client.eof), ("b", "4", False))
        self.assertEqual((len(self.parking_lot), self.engine.in_flight, self.gone), (0, [], []))
        self.leave(client)

    def test_keeps_the_views_fields(self) -> None:
        """Fields of the view and its middlewares are kept, unless the answer sets them, or has no body."""
        said = (
            ("Content-Type", "text/html"),
            ("Set-Cookie", "a=b"),
            ("Content-Encoding", "identity"),
            ("X-A", "view"),
        )
        for body, kind in ((b"news", "text/html"), (b"", None)):
            client, ticket = self.park(*said)
            ticket.answer(200, [("X-a", "answer")], body)
            fields = self.got(client).fields
            self.assertEqual(
                (fields["set-cookie"], fields["x-a"], fields.get("content-type")), ("a=b", "answer", kind)
            )
            self.assertNotIn("content-encoding", fields)
            self.leave(client)

    def test_answers_at_once_when_news_came_first(self) -> None:
        """The news may be there before the view has returned."""
        client, exchange = self.ask()
        ticket = self.ticket(exchange)
        self.assertTrue(ticket.answer("200 Fine", (), b"early"))
        self.hand_over(exchange, ticket)
        answer = self.got(client)
        self.assertEqual((answer.reason, answer.body, len(self.parking_lot)), ("Fine", b"early", 0))
        self.leave(client)

    def test_second_answer_is_too_late(self) -> None:
        """A second answer is too late, and says so; the first one is the client's."""
        for early in (True, False):
            client, exchange = self.ask()
            ticket = self.ticket(exchange)
            if not early:
                self.hand_over(exchange, ticket)
            self.assertTrue(ticket.answer(200, (), b"first"))
            self.assertFalse(ticket.answer(200, (), b"second"))
            self.assertFalse(ticket.send(b"third"))
            self.assertFalse(ticket.finish())
            if early:
                self.hand_over(exchange, ticket)
            self.assertEqual(self.got(client).body, b"first")
            self.assertFalse(ticket.answer(200, (), b"fourth"))
            self.leave(client)

    def test_takes_one_answer_from_any_thread(self) -> None:
        """An answer may come from any thread, and the reactor sends it; of many at once exactly one is taken."""
        client, ticket = self.park()
        taken: list[int] = []
        begin = threading.Barrier(8)

        def answer(number: int) -> None:
            begin.wait(LONG)
            if ticket.answer(200, (), b"%d" % number):
                taken.append(number)

        threads = [threading.Thread(target=answer, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        self.assertEqual((len(taken), len(self.engine.reactor.calls)), (1, 1))
        self.assertEqual(self.got(client).body, b"%d" % taken[0])
        self.leave(client)

    def test_bodiless_answers_have_no_body(self) -> None:
        """HEAD gets no body; a status without one has none."""
        client, ticket = self.park(data=self.request(method="HEAD"))
        ticket.answer(200, (), b"news")
        self.assertEqual(self.got(client, "HEAD").fields["content-length"], "4")
        client, ticket = self.park()
        ticket.answer(204, (), b"news")
        self.assertEqual(self.got(client).status, 204)

    def test_answers_pipelined_request_behind_it(self) -> None:
        """A pipelined request is answered behind the parked one."""
        client, ticket = self.park(data=get(0) + get(1))
        self.assertEqual(len(self.engine.asked), 1)
        ticket.answer(200, (), b"news")
        self.engine.turn()
        self.answer(self.engine.asked[1], body=b"next")
        self.assertEqual(self.bodies(client), [b"news", b"next"])
        self.leave(client)

    def test_bad_answers_raise_or_are_500(self) -> None:
        """A body that is not bytes raises at once; other bad values are a 500 with a line in the log."""
        client, ticket = self.park()
        self.assertRaises(TypeError, ticket.answer, 200, (), "text")
        self.assertRaises(TypeError, ticket.answer, 200, None)
        self.assertRaises(TypeError, ticket.send, "text")
        self.assertRaises(TypeError, ticket.send, bytearray(b"x"))
        self.assertTrue(ticket.answer(200, (), b"still good"))
        self.assertEqual(self.got(client).body, b"still good")
        self.leave(client)
        for status, fields in ((100, ()), ("x", ()), (200, [("X", "a\r\nb")]), (200, [(b"X", b"b")]), (200, ["ab:"])):
            client, ticket = self.park()
            self.assertTrue(ticket.answer(status, fields))  # type: ignore[arg-type]
            self.assertEqual((self.got(client).status, client.eof), (500, True))
            self.assertEqual(len(self.flushLoggedErrors(ValueError, TypeError)), 1)
            self.assertEqual(len(self.parking_lot), 0)
            self.leave(client)

    def test_closed_ticket_is_answered_at_once(self) -> None:
        """A ticket that was closed before it was parked is answered at once, and not kept for ever."""
        for stream in (False, True):
            client, exchange = self.ask()
            ticket = self.ticket(exchange)
            ticket.close()
            self.assertFalse(ticket.answer(200))
            self.hand_over(exchange, ticket, stream=stream)
            self.assertEqual((self.got(client).status, len(self.parking_lot)), (200 if stream else 204, 0))
            self.leave(client)

    def test_close_after_handover_does_not_end_it(self) -> None:
        """The close of an answer that was handed over does not end the waiting."""
        client, ticket = self.park()
        ticket.claimed = True
        ticket.close()
        self.assertTrue(ticket.answer(200, (), b"news"))
        self.assertEqual(self.got(client).body, b"news")


class StreamTests(Case):
    """Server-sent events."""

    def test_sends_each_event_at_once(self) -> None:
        """The head goes out at once, every event when it is there, and the end ends it."""
        client, ticket = self.park(stream=True)
        self.assertTrue(client.take().startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"))
        for event in (b"data: 1\n\n", b"data: 2\n\n"):
            self.assertTrue(ticket.send(event))
            self.engine.turn()
            self.assertIn(event, client.take())
        self.assertEqual(len(self.parking_lot), 1)
        self.assertTrue(ticket.finish())
        self.assertFalse(ticket.finish())
        self.assertFalse(ticket.send(b"late"))
        self.engine.turn()
        self.assertEqual((client.take(), client.eof, len(self.parking_lot)), (b"0\r\n\r\n", False, 0))
        self.leave(client)

    def test_sends_earlier_events_first_in_order(self) -> None:
        """Events that are there before the view has returned come first, in order, also with the end."""
        for end in (False, True):
            client, exchange = self.ask()
            ticket = self.ticket(exchange)
            ticket.send(b"one")
            ticket.send(b"two")
            if end:
                ticket.finish()
            self.hand_over(exchange, ticket, stream=True)
            if not end:
                ticket.send(b"three")
                ticket.finish()
            self.assertEqual(self.got(client).body, b"onetwo" if end else b"onetwothree")
            self.leave(client)

    def test_head_ends_at_once(self) -> None:
        """HEAD has all that it asks for, and does not wait."""
        client, ticket = self.park(data=b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n", stream=True)
        answer = self.got(client, "HEAD")
        self.assertEqual(
            (answer.fields["content-type"], len(self.parking_lot), ticket.send(b"x")), (STREAM[1], 0, False)
        )
        self.leave(client)

    def test_answer_is_the_last_piece(self) -> None:
        """An answer to a stream is its last piece: its status has been said."""
        client, ticket = self.park(stream=True)
        ticket.send(b"one")
        ticket.answer(404, [("X-A", "b")], b"two")
        answer = self.got(client)
        self.assertEqual((answer.status, answer.body, "x-a" in answer.fields), (200, b"onetwo", False))
        self.leave(client)

    def test_keeps_the_order_of_several_threads(self) -> None:
        """Pieces of several threads, one after the other, arrive in that order, and the end last."""
        client, ticket = self.park(stream=True)
        lock, number = threading.Lock(), [0]

        def send() -> None:
            for _ in range(200):
                with lock:
                    ticket.send(b"%d\n" % number[0])
                    number[0] += 1

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        ticket.finish()
        self.assertEqual(self.got(client).body.split(), [b"%d" % count for count in range(800)])

    def test_end_follows_every_taken_piece(self) -> None:
        """A piece that was taken is sent, also if the end comes in the same moment from another thread."""
        client, ticket = self.park(stream=True)
        real = ParkedRequest.give

        def slow(waiting: ParkedRequest, what: Any, last: bool) -> None:
            if not last:
                # Another thread wants to end it now: it can do so before or behind, but not in between.
                thread = threading.Thread(target=ticket.finish)
                thread.start()
                thread.join(0.05)
                self.addCleanup(thread.join, LONG)
            real(waiting, what, last)

        self.patch(ParkedRequest, "give", slow)
        self.assertTrue(ticket.send(b"taken"))
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and thread.name.endswith("(finish)"):
                thread.join(LONG)
        self.assertEqual(self.got(client).body, b"taken")

    def test_slow_client_is_cut(self) -> None:
        """A client that does not take its events is cut when too many wait for it; one big event is no crime."""
        client, ticket = self.park(stream=True, buffer=5000)
        self.assertTrue(ticket.send(b"x" * MIB))
        self.engine.turn()
        self.assertEqual(self.engine.open, 1)
        self.assertGreater(client.connection.write_token.held, MAX_UNSENT)
        data = client.take()
        self.assertGreater(len(data), MIB)
        most, sent = 0, 0
        while self.engine.open:
            self.assertTrue(ticket.send(b"x" * 10_000))
            lines = self.logged(self.engine.turn)
            most = max(most, client.connection.write_token.held)
            sent += 1
            self.assertLess(sent, 100)
        self.assertTrue(any("does not take its events" in line for line in lines))
        self.assertLess(most, MAX_UNSENT + 10_100)
        self.assertEqual(self.gone, [ticket])
        self.assertFalse(ticket.send(b"late"))
        self.nothing_left()

    def test_http_1_0_stream_ends_with_the_connection(self) -> None:
        """To HTTP/1.0 a stream ends with the connection."""
        client, ticket = self.park(stream=True, data=b"GET / HTTP/1.0\r\n\r\n")
        ticket.send(b"one")
        ticket.finish()
        self.assertEqual((self.got(client).body, client.eof), (b"one", True))
        self.leave(client)


class GoneTests(Case):
    """Clients that leave."""

    def gone_by(self, leave: Any, stream: bool = False) -> None:
        """Check that the application is told once, and that it is too late then."""
        client, ticket = self.park(stream=stream)
        leave(client)
        self.engine.turn()
        self.assertEqual(self.gone, [ticket])
        self.assertFalse(ticket.answer(200))
        self.assertFalse(ticket.send(b"x"))
        self.engine.turn()
        self.nothing_left()
        self.assertEqual(self.gone, [ticket])

    def test_tells_the_application_that_the_client_left(self) -> None:
        """A client that closes, or only says that it will send nothing more, as a closed browser tab does."""
        for stream in (False, True):
            self.gone_by(lambda client: client.close(), stream)
            self.gone_by(lambda client: client.finish(), stream)
            self.gone_by(lambda client: client.connection.close(), stream)

    def test_tells_of_a_client_that_left_before(self) -> None:
        """A client that left before it was parked is told of; but it gets news that came earlier."""
        for early in (False, True):
            client, exchange = self.ask()
            client.finish()
            ticket = self.ticket(exchange)
            if early:
                ticket.answer(200, (), b"news")
            self.hand_over(exchange, ticket)
            self.assertEqual(self.gone, [] if early else [ticket])
            self.assertEqual(client.take().endswith(b"news"), early)
            client.close()
            self.nothing_left()

    def test_client_leaves_while_the_head_is_sent(self) -> None:
        """A client is found to have left when the head of its stream is sent."""
        client, exchange = self.ask()
        client.socket.script.append(BrokenPipeError())
        ticket = self.ticket(exchange)
        self.hand_over(exchange, ticket, stream=True)
        self.assertEqual(self.gone, [ticket])
        self.nothing_left()

    def test_client_leaves_while_an_event_is_sent(self) -> None:
        """A client is found to have left when an event is sent, before the event loop has seen it."""
        client, ticket = self.park(stream=True)
        client.socket.script.append(BrokenPipeError())
        self.assertTrue(ticket.send(b"data: 1\n\n"))
        self.engine.turn()
        self.assertEqual(self.gone, [ticket])
        self.assertFalse(ticket.send(b"data: 2\n\n"))
        self.nothing_left()

    def test_client_leaves_after_the_answer_was_taken(self) -> None:
        """A client leaves between the answer and the reactor: the answer was taken, so `gone` does not fire."""
        client, ticket = self.park()
        self.assertTrue(ticket.answer(200, (), b"news"))
        client.connection.close()
        self.engine.turn()
        self.assertEqual(self.gone, [])
        self.nothing_left()

    def test_client_leaves_while_the_answer_is_sent(self) -> None:
        """A client is found to have left when its answer is sent."""
        client, ticket = self.park()
        client.socket.script.append(BrokenPipeError())
        ticket.answer(200, (), b"news")
        self.engine.turn()
        self.nothing_left()

    def test_takedown_tells_the_application(self) -> None:
        """The deadline answers the request, and `gone` tells the application."""
        client, ticket = self.park()
        self.assertEqual(len(take_down(client.connection)), 1)
        self.assertEqual((self.got(client).status, self.gone), (503, [ticket]))
        self.leave(client)

    def test_leaving_is_constant_time(self) -> None:
        """Ten thousand that leave cost ten thousand small steps."""
        parking_lot = ParkingLot(self.clock, self.engine.hub.call, lambda *what: None)
        (exchange,) = {self.ask()[1]}
        waiting = []
        for number in range(10_000):
            one = ParkedRequest(exchange, Parked(), parking_lot, False)
            parking_lot._wait_until(one, 1000.0 + number % 7)
            waiting.append(one)
        steps = [0]

        class Tracker(set[ParkedRequest]):
            def discard(counted, one: ParkedRequest) -> None:
                steps[0] += 1
                super().discard(one)

            def __iter__(counted) -> Any:
                steps[0] += len(counted)
                return super().__iter__()

        parking_lot._due = {second: Tracker(others) for second, others in parking_lot._due.items()}
        for one in waiting:
            parking_lot.leave(one)
            parking_lot.leave(one)
        self.assertEqual(len(parking_lot), 0)
        self.assertEqual(parking_lot._due, {})
        self.assertLess(steps[0], 20_001)


class TimeTests(Case):
    """When its time is over."""

    def test_answers_204_after_the_time_out(self) -> None:
        """After the time-out the request is answered with 204, within a second; then the application is too late."""
        client, ticket = self.park(timeout=270)
        self.tick(269, 1)
        self.assertEqual(client.take(), b"")
        self.tick(2, 1)
        self.assertEqual((self.got(client).status, client.eof), (204, False))
        self.assertFalse(ticket.answer(200))
        self.assertEqual(self.gone, [])
        self.leave(client)

    def test_stream_ends_after_the_time_out(self) -> None:
        """A stream ends."""
        client, ticket = self.park(stream=True, timeout=10)
        ticket.send(b"one")
        self.tick(11, 1)
        answer = self.got(client)
        self.assertEqual((answer.body, answer.whole, ticket.send(b"x")), (b"one", True, False))
        self.leave(client)

    def test_each_times_out_in_its_second(self) -> None:
        """Each request has its own time; none is answered too early, none is forgotten when ticks were missed."""
        clients = [self.park(timeout=timeout)[0] for timeout in (0, -5, 0.4, 1.5, 2, 30, 31)]
        done: list[list[bool]] = []
        for seconds in (0, 0.5, 1, 0.5, 100):
            self.clock.advance(seconds)
            self.parking_lot.tick(self.clock.seconds())
            self.engine.turn()
            done.append([client.connection.write_token.current is None for client in clients])
        self.assertEqual([sum(each) for each in done], [2, 3, 4, 5, 7])

    def test_answer_just_before_the_time_out_wins(self) -> None:
        """An answer that was taken just before is what the client gets."""
        client, ticket = self.park(timeout=10)
        self.clock.advance(11)
        self.assertTrue(ticket.answer(200, (), b"news"))
        self.parking_lot.tick(self.clock.seconds())
        self.parking_lot.tick(self.clock.seconds())
        self.assertEqual(self.got(client).body, b"news")
        self.leave(client)

    def test_no_other_time_out_applies(self) -> None:
        """No other time-out ends a parked request: its client is not one that takes nothing."""
        client, _ = self.park(timeout=10_000)
        stream, _ = self.park(timeout=10_000, stream=True)
        self.clock.advance(5_000)
        self.engine.sweep(self.clock.seconds())
        self.engine.turn()
        self.assertEqual((self.engine.open, len(self.parking_lot)), (2, 2))
        client.close()
        self.leave(stream)


class DrainTests(Case):
    """When the server stops."""

    def drain(self) -> None:
        """The sockets are closed."""
        self.engine.site.draining = True
        self.parking_lot.drain()

    def test_answers_204_and_closes(self) -> None:
        """A drain answers a parked request with 204, and closes its connection."""
        client, ticket = self.park()
        self.drain()
        self.tick(DRAIN_SPREAD + 0.1)
        answer = self.got(client)
        self.assertEqual((answer.status, answer.fields["connection"], client.eof), (204, "close", True))
        self.assertFalse(ticket.answer(200))
        self.leave(client)

    def test_spreads_answers_over_a_second(self) -> None:
        """Many requests are told over a second, not at once, and none later, for any time-out of theirs."""
        clients = [self.park(timeout=timeout)[0] for timeout in range(10, 210)]
        self.drain()
        answered = []
        for _ in range(11):
            answered.append(len(self.parking_lot))
            self.tick(0.1)
        self.assertEqual((answered[0], len(self.parking_lot)), (200, 0))
        steps = [before - after for before, after in pairwise(answered)]
        self.assertLess(max(steps), 80)
        for client in clients:
            client.close()
        self.nothing_left()

    def test_at_drain_answers_from_a_thread(self) -> None:
        """The application makes its answer in a thread, not in the reactor's."""
        made: list[int] = []

        def at_drain() -> Any:
            made.append(threading.get_ident())
            return 409, [("X-A", "b")], b"come again"

        client, ticket = self.park(at_drain=at_drain)
        self.drain()
        self.tick(DRAIN_SPREAD + 0.1)
        self.assertEqual((made, len(self.in_thread), client.take()), ([], 1, b""))
        self.assertFalse(ticket.answer(200))
        self.tick(1)
        self.assertEqual(len(self.in_thread), 1)
        self.run_threads()
        answer = self.got(client)
        self.assertEqual((answer.status, answer.fields["x-a"], answer.body), (409, "b", b"come again"))
        self.assertEqual(answer.fields["connection"], "close")
        self.leave(client)

    def at_drain(self, made: Any, *, stream: bool = False) -> Answer:
        """Return the answer that a client gets if `at_drain` returns this, or raises it."""

        def at_drain() -> Any:
            if isinstance(made, BaseException):
                raise made
            return made

        draining = self.engine.site.draining
        client, _ = self.park(at_drain=at_drain, stream=stream)
        self.drain()
        self.tick(DRAIN_SPREAD + 0.1)
        try:
            self.run_threads()
        except SystemExit:
            self.engine.turn()
        answer = self.got(client)
        self.assertEqual(client.eof, draining or not stream)  # the head of a stream has gone out long ago
        self.leave(client)
        return answer

    def test_at_drain_without_answer_is_204(self) -> None:
        """`at_drain` that returns None is answered with 204."""
        self.assertEqual(self.at_drain(None).status, 204)

    def test_at_drain_that_raises_is_204(self) -> None:
        """`at_drain` that raises is answered with 204, with a line in the log."""
        self.assertEqual(self.at_drain(RuntimeError("oops")).status, 204)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.at_drain(SystemExit()).status, 204)

    def test_at_drain_with_a_bad_answer_is_204_or_500(self) -> None:
        """`at_drain` that returns no answer is 204; one whose error shows only when it is sent is 500."""
        for made in (5, (200,), (200, []), (200, [], "text"), (200, None, b"")):
            self.assertEqual(self.at_drain(made).status, 204, made)
            self.assertEqual(len(self.flushLoggedErrors(TypeError, ValueError)), 1)
        for made in ((100, [], b""), (200, [("X", "a\nb")], b"")):
            self.assertEqual(self.at_drain(made).status, 500, made)
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_stream_ends_with_retry(self) -> None:
        """An event stream sends the application's last piece, then `retry:` for the browser, and ends."""
        for made, begin in ((None, b""), ((200, [], b"data: bye\n\n"), b"data: bye\n\n")):
            answer = self.at_drain(made, stream=True)
            self.assertTrue(answer.whole)
            begun, retry, rest = answer.body.partition(b"retry: ")
            self.assertEqual((begun, retry), (begin, b"retry: "))
            self.assertTrue(rest.endswith(b"\n\n"))
            self.assertTrue(COME_BACK_AFTER[0] * 1000 <= int(rest) <= COME_BACK_AFTER[1] * 1000, rest)

    def test_client_leaves_while_at_drain_runs(self) -> None:
        """A client that leaves while its answer is made leaves nothing behind."""
        client, _ = self.park(at_drain=lambda: (200, [], b"x"))
        self.drain()
        self.tick(DRAIN_SPREAD + 0.1)
        client.close()
        self.nothing_left()
        self.run_threads()
        self.nothing_left()

    def test_answer_before_the_drain_wins(self) -> None:
        """News that comes before it is told are what the client gets."""
        client, ticket = self.park(at_drain=lambda: (200, [], b"no"))
        self.drain()
        self.assertTrue(ticket.answer(200, (), b"news"))
        self.tick(DRAIN_SPREAD + 0.1)
        self.assertEqual((self.got(client).body, self.in_thread), (b"news", []))
        self.leave(client)

    def test_keeps_late_requests_for_a_moment(self) -> None:
        """A request that is parked in a drain is kept for a second or two: its client would come straight back."""
        self.drain()
        clients = [self.park(timeout=270)[0] for _ in range(20)]
        self.tick(0.9)
        self.assertEqual(len(self.parking_lot), 20)
        self.tick(1.2)
        self.assertEqual(len(self.parking_lot), 0)
        for client in clients:
            self.assertEqual(self.got(client).status, 204)
            client.close()
        self.nothing_left()


class BlockingTests(SynchronousTestCase):
    """On any other server: it works by blocking its thread."""

    def setUp(self) -> None:
        """Nothing has been said yet."""
        self.said: list[Any] = []

    def start_response(self, status: str, headers: Iterable[tuple[str, str]]) -> None:
        """Note what is said."""
        self.said.extend((status, list(headers)))

    def soon(self, *calls: Any) -> None:
        """Have another thread do this, as soon as this one waits."""

        def run() -> None:
            for function, *arguments in calls:
                function(*arguments)

        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join, LONG)

    def test_blocks_until_the_answer(self) -> None:
        """The answer, whenever it comes, from another thread or before."""
        for early in (False, True):
            ticket = Parked(timeout=LONG)
            self.assertEqual(ticket.headers, [])
            if early:
                ticket.answer(201, [("X-A", "b")], b"news")
            else:
                self.soon((ticket.answer, 201, [("X-A", "b")], b"news"))
            self.said.clear()
            body = b"".join(ticket({}, self.start_response))  # type: ignore[arg-type]
            self.assertEqual(self.said, ["201 Created", [("X-A", "b"), ("Content-Length", "4")]])
            self.assertEqual(body, b"news")
            self.assertFalse(ticket.answer(200))

    def test_blocks_until_the_time_out(self) -> None:
        """When its time is over there is nothing new, and it is too late for an answer."""
        ticket = Parked(timeout=0)
        self.assertEqual(ticket.wait(), NO_NEWS)
        self.assertFalse(ticket.answer(200))
        self.assertEqual(list(Parked(timeout=0)), [])
        ticket = Parked(timeout=0)
        self.assertEqual(b"".join(ticket({}, self.start_response)), b"")  # type: ignore[arg-type]
        self.assertEqual(self.said[0], "204 No Content")

    def test_iterates_over_events(self) -> None:
        """Events, as they come, behind the head of a stream."""
        ticket = Parked(timeout=LONG)
        self.soon((ticket.send, b"one"), (ticket.send, b"two"), (ticket.finish,))
        body = ticket({}, self.start_response)  # type: ignore[arg-type]
        self.assertEqual(self.said, ["200 OK", [STREAM]])
        self.assertEqual(b"".join(body), b"onetwo")
        self.assertFalse(ticket.send(b"late"))

    def test_answer_is_the_last_piece_of_a_begun_body(self) -> None:
        """As the body of an answer that the view has begun, an answer is its last piece."""
        ticket = Parked(timeout=LONG)
        self.soon((ticket.send, b"one"), (ticket.answer, 200, (), b"two"))
        self.assertEqual(b"".join(ticket), b"onetwo")

    def test_time_out_is_for_the_whole_stream(self) -> None:
        """The time-out is for the whole stream, not for each piece."""
        ticket = Parked(timeout=0.05)

        def send() -> None:
            while ticket.send(b"x"):
                pass

        self.soon((send,))
        until = monotonic() + LONG
        for piece in ticket:
            self.assertEqual(piece, b"x")
            if monotonic() > until:
                ticket.close()
                self.fail("it has no end")
        self.assertFalse(ticket.finish())

    def test_close_wakes_the_waiting_thread(self) -> None:
        """The close of its answer ends a ticket, and wakes the thread that waits."""
        ticket = Parked(timeout=LONG)
        ticket.send(b"one")
        pieces = iter(ticket)
        self.assertEqual(next(pieces), b"one")
        ticket.close()
        self.assertFalse(ticket.send(b"two"))
        self.assertEqual(list(pieces), [])
        ticket = Parked(timeout=60)
        self.soon((ticket.close,))
        self.assertEqual(ticket.wait(), NO_NEWS)

    def test_wait_returns_the_answer(self) -> None:
        """`wait` returns the answer in its parts."""
        ticket = Parked()
        ticket.answer(404, iter([("X", "y")]), b"z")
        self.assertEqual(ticket.wait(), ParkedAnswer("404 Not Found", [("X", "y")], b"z"))
