"""Answers of the event loop on their way from one process to the next: no byte twice, none missing, one line each."""

from __future__ import annotations

from typing import Any

from graceful import Parked
from graceful.downloads import relay, resuming
from graceful.downloads.handover import AnswerHandOver
from graceful.downloads.parking_lot import ParkingLot
from graceful.downloads.relay_pool import RelayPool
from graceful.downloads.resuming import Resuming
from graceful.sockets.binding import BoundSocket
from graceful.takeover.connection_moves import ConnectionMoves
from graceful.takeover.parcels import FORMAT
from graceful.web.exchange import Exchange
from graceful.wsgi import WSGIResource
from graceful.wsgi.runner import Runner
from tests.fast.doubles import GET, HOST, Client, Engine, get, parse_answers, post
from tests.fast.downloads.downloading import DownloadCase, PaperUpstream, SlowDisk
from tests.fast.takeover.test_connection_moves import TAKER, Listening
from tests.fast.takeover.test_request_moves import Successor

BIG = bytes(range(251)) * 5000
STRONG = (("ETag", '"strong"'), ("Accept-Ranges", "bytes"))
EVENTS = ("Content-Type", "text/event-stream")


class MoveCase(DownloadCase):
    """A predecessor and a successor that both hand answers over to their event loops."""

    def setUp(self) -> None:
        """Put both together."""
        super().setUp()
        self.recorded: list[Exchange] = []
        self.engine.site.record = self.recorded.append
        self.moves = ConnectionMoves(self.engine.site)
        self.successor = Successor(self, self.moves, self.recorded.append)
        self.there: Engine = self.successor.engine
        call = self.there.hub.call
        self.there_asked = PaperUpstream()
        upstream: Any = self.there_asked
        disk: Any = SlowDisk(call)
        relays = RelayPool(self.clock, lambda: upstream, 60.0)
        self.successor.resume = Resuming(disk, relays).kinds
        lot = ParkingLot(self.clock, call, lambda *what: None)
        self.there.site.hand_over = AnswerHandOver(call, disk, relays, lot, [])

    def begin(self) -> None:
        """The successor accepts."""
        self.moves.expect(TAKER, FORMAT)
        self.moves.begin([BoundSocket("unix:", Listening(""))])  # type: ignore[arg-type]
        self.engine.site.draining = True

    def turn(self) -> None:
        """Let both processes do what they can."""
        for _ in range(3):
            self.engine.turn()
            self.there.turn()

    def move(self) -> int:
        """Have all that can move now arrive; returns how many have."""
        before = self.there.site.arrived
        while self.successor.ask():
            pass
        self.turn()
        return self.there.site.arrived - before

    def rest(self, client: Client, data: bytes) -> bytes:
        """Returns all that a client has got when nothing more comes."""
        while True:
            self.turn()
            more = client.take()
            if not more:
                return data
            data += more

    def serve_there(self, application: Any) -> None:
        """Have an application answer in the successor."""
        resource, run = WSGIResource(None, None, application), Runner()

        def answer(exchange: Exchange) -> None:
            exchange.handler = resource
            run(exchange)

        self.there.handler.answer = answer


class FileTests(MoveCase):
    """A file on its way to a slow client."""

    def half(self) -> tuple[Client, bytes]:
        """A client that has got a part of a file, and has asked for something else behind it."""
        self.file(BIG)
        client = self.engine.connect(buffer=4096)
        client.send(self.request("/files/file.txt") + get(2))
        return client, client.end.recv(10_000)

    def whole(self, data: bytes) -> None:
        """Check what a client has got, and that one line says so."""
        (answer,) = parse_answers(data)
        self.assertEqual((answer.body, answer.whole), (BIG, True))
        self.assertEqual([(one.status, one.sent) for one in self.recorded], [(200, len(BIG))])

    def test_a_file_goes_on_where_it_was(self) -> None:
        """By its descriptor, with the request behind it."""
        client, data = self.half()
        self.begin()
        self.assertEqual(self.move(), 1)
        self.nothing_left_here()
        self.whole(self.rest(client, data))
        self.assertEqual([one.target for one in self.there.asked], [b"/2"])
        self.assertEqual(self.descriptors(), [])

    def nothing_left_here(self) -> None:
        """Check that the old process has nothing more to do."""
        self.assertEqual((self.engine.open, self.engine.in_flight), (0, []))

    def test_a_file_whose_next_block_is_on_a_disk_goes_on(self) -> None:
        """The thread that fetches the block closes the old descriptor when it returns."""
        client, data = self.half()
        for connection in self.engine.site.register.connections:
            sender: Any = connection.write_token.current.handler  # type: ignore[attr-defined]
        sender._fetched, sender._in_memory, self.disk.at_once = 0, lambda *ignored: False, False
        data += client.end.recv(100_000)
        self.engine.turn()
        self.assertEqual(len(self.disk), 1)
        self.begin()
        self.assertEqual(self.move(), 1)
        self.disk.work()
        self.turn()
        self.assertTrue(self.rest(client, data).endswith(BIG[-1000:]))
        self.assertEqual(self.descriptors(), [])

    def test_a_file_that_did_not_move_goes_on_here(self) -> None:
        """The successor dies with the connection in its hands, or refuses it."""
        for dies in (True, False):
            self.setUp()
            client, data = self.half()
            self.begin()
            self.assertEqual(self.successor.ask(), 1)
            self.engine.turn()
            if dies:
                self.successor.die()
            else:
                self.successor.refuses = {0}
                self.successor.ask()
            self.whole(self.rest(client, data))
            self.assertEqual(self.descriptors(), [])


class UrlTests(MoveCase):
    """What an upstream has, on its way to a slow client."""

    SIZE = 300_000
    BODY = bytes(range(250)) * (SIZE // 250)

    def half(self, *fields: tuple[str, str]) -> tuple[Client, Any, bytes]:
        """A client that has a part, a response that goes on, and that part."""
        client = self.engine.connect(buffer=4096)
        client.send(self.request("/remote/x", Range="bytes=0-") if not fields else self.request("/remote/x"))
        response = self.upstream.asked[0].answer(200, *(fields or STRONG), length=self.SIZE)
        response.data(self.BODY[:100_000])
        self.engine.turn()
        return client, response, client.end.recv(10_000)

    def test_the_rest_is_asked_for_from_the_next_byte_on(self) -> None:
        """What the old process has taken in goes along; the upstream's connection to it is closed."""
        client, response, data = self.half()
        self.begin()
        self.assertEqual(self.move(), 1)
        self.assertEqual((self.engine.open, response.closed), (0, True))
        (question,) = self.there_asked.asked
        self.assertEqual(question.fields["range"], f"bytes=100000-{self.SIZE - 1}")
        self.assertEqual((question.fields["if-range"], question.url), ('"strong"', "http://librarian:58000/base/x"))
        place = ("Content-Range", f"bytes 100000-{self.SIZE - 1}/{self.SIZE}")
        rest = question.answer(206, ("ETag", '"strong"'), place, length=self.SIZE - 100_000)
        data = self.rest(client, data)
        rest.data(self.BODY[100_000:])
        rest.end()
        (answer,) = parse_answers(self.rest(client, data))
        self.assertEqual((answer.body, answer.whole), (self.BODY, True))
        self.assertEqual([(one.status, one.sent) for one in self.recorded], [(200, self.SIZE)])

    def test_another_file_by_now_is_cut_visibly(self) -> None:
        """As after a restart of the upstream."""
        client, _, data = self.half()
        self.begin()
        self.move()
        self.there_asked.asked[0].answer(200, ("ETag", '"other"'), length=self.SIZE)
        (answer,) = parse_answers(self.rest(client, data))
        self.assertEqual((answer.whole, client.eof or client.broken), (False, True))

    def test_what_comes_while_it_is_on_its_way_is_sent_once(self) -> None:
        """By the old process if it did not move, else by the new one."""
        for moves in (False, True):
            self.setUp()
            client, response, data = self.half()
            self.begin()
            self.assertEqual(self.successor.ask(), 1)
            response.data(self.BODY[100_000:150_000])
            self.turn()
            if moves:
                self.assertEqual(self.move(), 1)
                self.assertEqual(self.there_asked.asked[0].fields["range"], f"bytes=100000-{self.SIZE - 1}")
                continue
            self.successor.die()
            response.data(self.BODY[150_000:])
            response.end()
            (answer,) = parse_answers(self.rest(client, data))
            self.assertEqual((answer.body, answer.whole), (self.BODY, True))

    def test_nothing_is_sent_while_it_is_on_its_way(self) -> None:
        """The client has taken all so far; what comes now is the new process's to send."""
        client, response, data = self.half()
        self.rest(client, data)
        self.begin()
        self.assertEqual(self.successor.ask(), 1)
        response.data(self.BODY[100_000:150_000])
        self.turn()
        self.assertEqual(client.take(), b"")
        self.assertEqual(self.move(), 1)
        self.assertEqual(self.there_asked.asked[0].fields["range"], f"bytes=100000-{self.SIZE - 1}")

    def test_without_a_strong_validator_it_stays(self) -> None:
        """Nothing guarantees that the rest is of the same file."""
        for fields in ((("ETag", 'W/"weak"'), STRONG[1]), (STRONG[1],), (STRONG[0],)):
            self.setUp()
            client, response, data = self.half(*fields)
            self.begin()
            self.assertEqual(self.move(), 0)
            response.data(self.BODY[100_000:])
            response.end()
            (answer,) = parse_answers(self.rest(client, data))
            self.assertEqual(answer.whole, True)

    def test_before_its_answer_has_begun_it_stays(self) -> None:
        """The upstream has not answered yet."""
        client = self.engine.connect()
        client.send(self.request("/remote/x"))
        self.begin()
        self.assertEqual(self.move(), 0)

    def test_its_kind_is_known_where_it_goes_on(self) -> None:
        """The module that carries it may not be imported there so early."""
        self.assertEqual(relay.URL, resuming.URL)


class ParkedTests(MoveCase):
    """Requests that wait."""

    def park(self, data: bytes = GET, stream: bool = False, **options: Any) -> tuple[Client, Parked]:
        """A client, and the ticket by which its request is parked."""
        tickets: list[Parked] = []
        self.gone: list[Parked] = []

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            ticket = Parked(**options)
            ticket.gone.addCallback(lambda ignored: self.gone.append(ticket))
            tickets.append(ticket)
            start_response("200 OK", [*([EVENTS] if stream else []), *ticket.headers])
            return ticket

        self.serve(application)
        client = self.engine.connect()
        client.send(data)
        self.engine.turn()
        return client, tickets[0]

    def test_a_view_that_says_so_is_called_again(self) -> None:
        """News for the old ticket are too late; the client waits on its connection."""
        client, ticket = self.park(move=True)
        self.clock.advance(100)
        self.begin()
        self.assertEqual(self.move(), 1)
        self.assertEqual((ticket.answer(200), self.gone, client.take()), (False, [ticket], b""))
        (exchange,) = self.there.asked
        self.assertEqual((exchange.arrived, exchange.started), (self.clock.seconds(), self.clock.seconds() - 100))
        self.there.answer(exchange, b"news")
        self.assertEqual([answer.body for answer in parse_answers(self.rest(client, b""))], [b"news"])
        self.assertEqual(len(self.recorded), 1)
        self.nothing_left()

    def test_other_views_are_not_called_again(self) -> None:
        """Those that have not said so, and those for a method that may have an effect, or with a body."""
        for data, options in ((GET, {}), (post(5), {"move": True}), (post(0), {"move": True})):
            self.setUp()
            client, ticket = self.park(data, **options)
            self.begin()
            self.assertEqual(self.move(), 0)
            self.assertTrue(ticket.answer(200, (), b"news"))
            self.assertEqual(parse_answers(self.rest(client, b""))[0].body, b"news")

    def test_news_that_came_first_are_sent_here(self) -> None:
        """The ticket was answered, in another thread, just before the request would have moved."""
        client, ticket = self.park(move=True)
        self.begin()
        self.assertTrue(ticket.answer(200, (), b"news"))
        self.assertEqual(self.successor.ask(), 0)
        self.assertEqual(parse_answers(self.rest(client, b""))[0].body, b"news")

    def test_a_request_that_did_not_move_is_told_to_come_back(self) -> None:
        """Its ticket takes no more news."""
        for stream in (False, True):
            self.setUp()
            client, ticket = self.park(move=True, stream=stream)
            self.begin()
            self.assertEqual(self.successor.ask(), 1)
            self.assertFalse(ticket.answer(200))
            self.successor.die()
            (answer,) = parse_answers(self.rest(client, b""))
            self.assertEqual((answer.status, answer.whole), (200 if stream else 204, True))
            self.assertEqual(b"retry:" in answer.body, stream)
            self.assertEqual(self.gone, [])

    def test_an_event_stream_goes_on_with_what_follows_its_last_event(self) -> None:
        """Its head is not said again; the view is asked from the last id on."""
        request = b"GET / HTTP/1.1\r\n" + HOST + b"last-event-id: 2\r\n\r\n"
        client, ticket = self.park(request, move=True, stream=True)
        ticket.send(b"id: 5\ndata: one\n\n")
        self.engine.turn()
        seen: list[Any] = []

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            seen.append((environ.get("HTTP_LAST_EVENT_ID"), Parked(move=True)))
            start_response("200 OK", [EVENTS, ("Set-Cookie", "a=b"), *seen[0][1].headers])
            return seen[0][1]

        self.serve_there(application)
        self.begin()
        self.assertEqual(self.move(), 1)
        ((last, there),) = seen
        self.assertEqual((last, self.gone), ("5", [ticket]))
        there.send(b"id: 6\ndata: two\n\n")
        there.finish()
        (answer,) = parse_answers(self.rest(client, b""))
        self.assertEqual((answer.body, answer.whole), (b"id: 5\ndata: one\n\nid: 6\ndata: two\n\n", True))
        self.assertEqual([(one.status, one.sent) for one in self.recorded], [(200, len(answer.body))])
        client.send(GET)
        self.turn()
        self.assertEqual(len(seen), 2)

    def test_a_stream_whose_view_answers_otherwise_ends(self) -> None:
        """Its client comes back for that, and gets no byte that is not of its stream."""

        def other(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("403 Forbidden", [("Content-Type", "text/html"), ("Content-Length", "4")])
            return [b"page"]

        def pieces(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [("Content-Type", "text/html")])
            return iter([b"pa", b"ge"])

        def long_poll(environ: dict[str, Any], start_response: Any) -> Any:
            ticket = Parked(move=True)
            start_response("200 OK", ticket.headers)
            return ticket

        for application in (other, pieces, long_poll):
            self.setUp()
            client, ticket = self.park(move=True, stream=True)
            ticket.send(b"data: one\n\n")
            self.engine.turn()
            self.serve_there(application)
            self.begin()
            self.move()
            self.clock.advance(300)
            (answer,) = parse_answers(self.rest(client, b""))
            self.assertEqual((answer.status, answer.whole), (200, True), application)
            self.assertRegex(answer.body, rb"\Adata: one\n\nretry: [0-9]+\n\n\Z")
            self.assertEqual([one.status for one in self.recorded], [200])

    def test_a_stream_whose_view_fails_ends_and_its_client_comes_back(self) -> None:
        """It gets no error page in its stream, and asks again by itself."""

        def fails(environ: dict[str, Any], start_response: Any) -> Any:
            raise RuntimeError("on purpose")

        client, _ = self.park(move=True, stream=True)
        self.serve_there(fails)
        self.begin()
        self.logged(self.move)
        self.flushLoggedErrors(RuntimeError)
        (answer,) = parse_answers(self.rest(client, b""))
        self.assertIn(b"retry", answer.body)

    def test_a_stream_in_the_middle_of_an_event_stays(self) -> None:
        """Until the rest of it was sent."""
        client, ticket = self.park(move=True, stream=True)
        ticket.send(b"data: on")
        self.engine.turn()
        self.begin()
        self.assertEqual(self.move(), 0)
        ticket.send(b"e\n\n")
        self.engine.turn()
        self.assertEqual(self.successor.ask(), 1)
        self.assertFalse(client.eof)

    def test_events_that_are_on_their_way_are_sent_before_a_stream_moves(self) -> None:
        """The application was told that they are in time."""
        client, ticket = self.park(move=True, stream=True)
        self.begin()
        self.assertTrue(ticket.send(b"data: one\n\n"))
        self.assertEqual(self.successor.ask(), 0)
        (answer,) = parse_answers(self.rest(client, b""))
        self.assertRegex(answer.body, rb"\Adata: one\n\nretry: [0-9]+\n\n\Z")
