"""Requests on their way from one process to the next, wherever they are: answered once, and by the new code."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from graceful.sockets.binding import BoundSocket
from graceful.takeover import connection_arrivals
from graceful.takeover.connection_arrivals import Arrived
from graceful.takeover.connection_moves import ConnectionMoves
from graceful.takeover.parcels import FORMAT, unpack
from graceful.takeover.request_moves import HELD_FOR
from graceful.web import body_spool
from graceful.web.body_spool import MEMORY
from graceful.web.carrying import Resume
from graceful.web.exchange import APPLICATION, QUEUED, Exchange
from graceful.web.moving import BadConnection, take_in
from graceful.web.resource_tree import ResourceTree
from tests.fast.doubles import (
    CLOSE,
    CONTINUE,
    EXPECT,
    GET,
    HOST,
    Case,
    Client,
    Engine,
    get,
    parse_answers,
    post,
    virtual_time,
)
from tests.fast.takeover.test_connection_moves import TAKER, Listening

CHUNKED = b"POST /chunks HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


class Successor:
    """The other process: it takes connections in, and may die.

    :param test: whose cleanup closes what is left.
    :param moves: of the predecessor.
    :param record: called with each exchange that ends there.
    :ivar engine: what it serves with.
    :ivar resume: goes on with answers.
    :ivar refuses: the numbers of those in the next batch that it will not take.
    """

    def __init__(self, test: SynchronousTestCase, moves: ConnectionMoves, record: Any) -> None:
        self.engine = Engine(test, record=record)
        self.resume: dict[str, Resume] = {}
        self._moves = moves
        self._batch: list[Arrived] = []
        self.refuses: set[int] = set()
        test.addCleanup(self.hang_up)

    def ask(self, room: int = 1000) -> int:
        """Say that the last batch was taken, and get the next one; returns how many are in it."""
        last, refused, self.refuses = self._batch, self.refuses, set()
        batch = self._moves.next_batch(TAKER, len(last), room, sorted(refused))
        said = json.loads(json.dumps([moved.describe() for moved, _ in batch]))
        descriptors = [os.dup(descriptor) for _, numbers in batch for descriptor in numbers]
        for number, one in enumerate(last):
            if number in refused or one.refused:
                one.close()
            else:
                take_in(self.engine.site, self.engine.hub, one.sock, one.moved, one.carried, self.resume)
        self._batch = connection_arrivals._read(said, descriptors)
        return len(batch)

    def hang_up(self) -> None:
        """Take nothing more."""
        for one in self._batch:
            one.close()
        self._batch = []
        self._moves.lost(TAKER)

    def die(self) -> None:
        """End, with all connections."""
        self.hang_up()
        for connection in list(self.engine.site.register.connections):
            connection.close()  # type: ignore[attr-defined]


class Waiting(Resource):
    """Answers nothing yet."""

    isLeaf = True

    def render(self, request: object) -> int:
        """Wait."""
        return NOT_DONE_YET


class RequestCase(Case):
    """A predecessor with a queue in front of its threads, and a successor."""

    def setUp(self) -> None:
        """Have a predecessor that may be taken over."""
        self.recorded: list[Exchange] = []
        self.engine = Engine(self, record=self.recorded.append)
        self.moves = ConnectionMoves(self.engine.site)
        self.successor = Successor(self, self.moves, self.recorded.append)
        self.there = self.successor.engine
        for engine in (self.engine, self.there):
            engine.site.withdraw = lambda exchange, engine=engine: self.withdraw(engine, exchange)  # type: ignore[misc]
        self.patch(body_spool, "tempfile", tempfile)

    @staticmethod
    def withdraw(engine: Engine, exchange: Exchange) -> bool:
        """As a pool does: what has a thread is not in the queue."""
        if exchange not in engine.asked or exchange.phase != QUEUED:
            return False
        engine.asked.remove(exchange)
        return True

    def begin(self, carries: object = FORMAT) -> None:
        """The successor accepts from where the clients have connected."""
        self.moves.expect(TAKER, carries)
        self.moves.begin([BoundSocket("unix:", Listening(""))])  # type: ignore[arg-type]
        self.engine.site.draining = True
        self.turn()

    def turn(self) -> None:
        """Let both processes, and their disks, do what they can."""
        for _ in range(3):
            for engine in (self.engine, self.there):
                engine.turn()
                engine.settle()

    def move(self) -> int:
        """Have all that can move now arrive; returns how many have."""
        before = self.there.site.arrived
        self.turn()
        while self.successor.ask():
            pass
        self.turn()
        return self.there.site.arrived - before

    def answer_there(self, client: Client) -> list[tuple[bytes, bytes]]:
        """Answer all that is asked in the successor; returns targets and bodies that it has seen."""
        seen = []
        while self.there.asked:
            exchange = self.there.asked.pop(0)
            seen.append((exchange.target, body_of(exchange)))
            self.there.answer(exchange, exchange.target)
            self.turn()
        return seen


def body_of(exchange: Exchange) -> bytes:
    """The body as an application reads it."""
    body = exchange.body
    return b"" if body is None else b"".join(body) if isinstance(body, list) else body.read()


class MovedRequestTests(RequestCase):
    """A request in each place where it can be before an application sees it."""

    def test_a_request_that_waits_for_a_thread_is_answered_by_the_successor(self) -> None:
        """It was read by the old process, which has no thread free."""
        client, exchange = self.ask(get(1))
        started, name = exchange.started, exchange.request_id
        self.begin()
        self.assertEqual(self.engine.asked, [])
        self.assertEqual(self.move(), 1)
        (there,) = self.there.asked
        self.assertEqual((there.target, there.started, there.request_id), (b"/1", started, name))
        self.assertEqual(self.answer_there(client), [(b"/1", b"")])
        self.assertEqual([answer.body for answer in parse_answers(client.take())], [b"/1"])
        self.assertEqual([one.request_id for one in self.recorded], [name])
        self.nothing_left()
        self.assertEqual((self.engine.site.register.finished, self.engine.site.register.moved), (0, 1))

    def leave_behind(self, behind: bytes) -> None:
        """Have requests move whose client has half-closed, to a resource that has no answer for the first."""
        client, first = self.ask(get(1))
        first.phase = APPLICATION
        self.engine.asked.remove(first)
        client.send(get(2)).send(behind)
        client.finish()
        self.begin()
        self.engine.answer(first)
        self.engine.turn()
        self.there.serve(ResourceTree(Waiting(), self.there.hub))
        self.assertEqual(self.move(), 1)

    def test_what_a_client_that_has_left_has_asked_ends_with_its_connection(self) -> None:
        """Nothing stays on the register, and nothing is read of a connection that its resource has closed."""
        self.leave_behind(get(3))
        self.assertEqual((self.there.open, self.there.in_flight), (0, []))

    def test_requests_behind_one_that_closes_the_connection_end_with_it(self) -> None:
        """They are made when it is closed already, and have a body in a file."""

        def leave(exchange: Exchange) -> None:
            exchange.connection.close()
            exchange.release()

        self.ask(get(1) + get(2) + post(MEMORY + 10), buffer=MEMORY * 2)
        self.begin()
        self.patch(self.there.site, "dispatch", leave)
        self.assertEqual(self.move(), 1)
        self.assertEqual((self.there.open, self.there.in_flight), (0, []))

    def test_a_client_that_has_left_waits_for_no_100_continue(self) -> None:
        """It was to get one, and has half-closed instead of waiting for it."""
        self.leave_behind(EXPECT)
        self.assertEqual((self.there.open, self.there.in_flight), (0, []))

    def test_a_request_in_the_application_stays_and_what_is_behind_it_moves(self) -> None:
        """Pipelined requests that were read already are answered by the new code, in order."""
        client, first = self.ask(get(1) + post(5) + get(3) + GET[:9])
        first.phase = 2
        self.engine.asked.remove(first)
        self.begin()
        self.assertEqual(self.move(), 0)
        self.engine.answer(first, b"old")
        self.assertEqual(self.move(), 1)
        self.assertEqual(self.engine.asked, [])
        client.send(GET[9:])
        self.turn()
        self.assertEqual(self.answer_there(client), [(b"/upload", b"uuuuu"), (b"/3", b""), (b"/", b"")])
        self.assertEqual([answer.body for answer in parse_answers(client.take())], [b"old", b"/upload", b"/3", b"/"])
        self.assertEqual(len(self.recorded), 4)

    def test_a_request_is_answered_once_wherever_it_is_cut(self) -> None:
        """In its head, in a body with a length, in chunks; what the old process has read is not asked for again."""
        for data in (get(1), post(20), CHUNKED + b"5\r\nhello\r\n3;x=y\r\nyou\r\n0\r\nX-T: 1\r\n\r\n"):
            whole = None
            for at in range(1, len(data)):
                with self.subTest(at=at):
                    self.setUp()
                    client = self.engine.connect()
                    client.send(data[:at])
                    self.begin()
                    self.assertEqual(self.move(), 1)
                    client.send(data[at:] + get(2))
                    self.turn()
                    (exchange,) = self.there.asked
                    seen = (exchange.method, exchange.headers, exchange.trailers, body_of(exchange))
                    whole = whole or seen
                    self.assertEqual(seen, whole)
                    self.answer_there(client)
                    self.assertEqual(len(parse_answers(client.take())), 2)

    def test_a_body_in_a_file_goes_by_its_descriptor(self) -> None:
        """Whether it is complete, or will be written on by the other process."""
        size = MEMORY * 5
        data = post(size)
        for at in (len(data) - size // 2, len(data) - 1, len(data)):
            with self.subTest(at=at):
                self.setUp()
                client = self.engine.connect()
                client.send(data[:at])
                self.turn()
                self.begin()
                self.assertEqual(self.move(), 1)
                client.send(data[at:])
                self.turn()
                self.assertEqual(self.answer_there(client), [(b"/upload", b"u" * size)])
                self.nothing_left()

    def test_continue_is_said_once(self) -> None:
        """By the old process before it moves, or by the new one if the old one could not say it."""
        client = self.engine.connect()
        client.send(EXPECT)
        self.assertEqual(client.take(), CONTINUE)
        self.begin()
        self.move()
        client.send(b"uu")
        self.turn()
        self.assertEqual(client.take(), b"")
        client.send(b"uuu")
        self.turn()
        self.assertEqual(len(self.answer_there(client)), 1)
        self.setUp()
        client, _ = self.ask(GET + EXPECT)
        self.assertEqual(client.take(), b"")
        self.begin()
        self.move()
        self.assertEqual(len(self.answer_there(client)), 1)
        self.assertTrue(client.take().endswith(CONTINUE))

    def test_a_half_closed_client_gets_its_answer(self) -> None:
        """The old process has read its end; the new one closes when it has answered."""
        client, _ = self.ask(get(1))
        client.finish()
        self.begin()
        self.assertEqual(self.move(), 1)
        self.answer_there(client)
        self.assertEqual([answer.body for answer in parse_answers(client.take())], [b"/1"])
        self.turn()
        client.take()
        self.assertTrue(client.eof)
        self.assertEqual(self.there.open, 0)

    def test_a_last_request_is_the_last_one(self) -> None:
        """What comes behind `Connection: close` is no request in the other process either."""
        client, _ = self.ask(CLOSE)
        self.begin()
        self.move()
        client.send(GET)
        self.turn()
        self.assertEqual(len(self.answer_there(client)), 1)
        (answer,) = parse_answers(client.take())
        self.assertEqual((answer.fields["connection"], client.eof), ("close", True))
        client.close()
        self.turn()
        self.assertEqual(len(self.recorded), 1)

    def test_an_answer_that_its_client_takes_slowly_moves_with_what_is_left(self) -> None:
        """Its thread is free; the client gets every byte, and the log one line with all of them."""
        client, exchange = self.ask(get(1), buffer=4096)
        exchange.phase = 2
        self.engine.answer(exchange, b"x" * 500_000)
        self.engine.asked.remove(exchange)
        self.begin()
        self.assertEqual(self.move(), 1)
        self.nothing_left()
        data = client.take()
        while len(more := self._both(client)):
            data += more
        (answer,) = parse_answers(data)
        self.assertEqual((answer.whole, len(answer.body)), (True, 500_000))
        self.assertEqual([one.sent for one in self.recorded], [500_000])

    def _both(self, client: Client) -> bytes:
        self.there.turn()
        return client.take()

    def test_header_time_goes_on(self) -> None:
        """A head that began long ago is refused by the new process when its time is over."""
        clock = virtual_time(self)
        client = self.engine.connect()
        client.send(GET[:9])
        clock.advance(8)
        self.begin()
        self.move()
        (exchange,) = self.there.in_flight
        self.assertEqual(exchange.started, clock.seconds() - 8)
        self.there.sweep(clock.seconds() + self.there.site.settings.header_timeout - 7)
        self.assertIn(b" 408 ", client.take())


class KeptRequestTests(RequestCase):
    """Requests that the successor does not take are answered here."""

    def test_no_request_is_held_for_a_successor_that_cannot_take_it(self) -> None:
        """One of another version says another number, or none."""
        for carries in (None, FORMAT + 1, "1"):
            self.setUp()
            client, _ = self.ask(get(1))
            half = self.engine.connect()
            half.send(GET[:9])
            idle = self.engine.connect()
            self.begin(carries)
            self.assertEqual((len(self.engine.asked), self.move()), (1, 1))
            self.answer(self.engine.asked.pop())
            self.assertEqual(self.bodies(client), [b"/1"])
            self.assertFalse(idle.eof)

    def test_a_lost_successor_leaves_requests_with_this_process(self) -> None:
        """Those that it had been sent, and those that were held for it; each is answered once."""
        clients = [self.ask(get(number))[0] for number in range(3)]
        upload = self.engine.connect()
        upload.send(post(MEMORY * 4)[:-5])
        self.turn()
        self.begin()
        self.successor.ask(room=2)
        clients[0].send(get(7))
        self.successor.hang_up()
        self.turn()
        upload.send(b"uuuuu")
        self.turn()
        seen = sorted(exchange.target for exchange in self.engine.asked)
        self.assertEqual(seen, [b"/0", b"/1", b"/2", b"/upload"])
        for exchange in list(self.engine.asked):
            if exchange.target == b"/upload":
                self.assertEqual(len(body_of(exchange)), MEMORY * 4)
            self.answer(exchange)
        self.assertEqual(self.bodies(clients[1]), [b"/1"])

    def test_a_refused_connection_is_served_here(self) -> None:
        """The successor could not read what it carries: it is not sent a second time."""
        client, _ = self.ask(get(1))
        self.ask(get(2))
        self.begin()
        self.assertEqual(self.successor.ask(), 2)
        self.successor.refuses = {0}
        self.assertEqual(self.successor.ask(), 0)
        self.turn()
        self.assertEqual([one.target for one in self.engine.asked], [b"/1"])
        self.assertEqual([one.target for one in self.there.asked], [b"/2"])
        self.answer(self.engine.asked[0])
        client.send(get(3))
        self.assertEqual(self.move(), 0)
        self.assertEqual(len(self.engine.asked), 2)

    def test_without_room_requests_are_answered_here(self) -> None:
        """They must not wait for room that may never come."""
        self.ask(get(1))
        self.begin()
        self.assertEqual(self.engine.asked, [])
        self.successor.ask(room=0)
        self.assertEqual(len(self.engine.asked), 1)

    def test_a_successor_that_does_not_come_for_them_is_not_waited_for(self) -> None:
        """It may be stuck: what is held is answered here after some seconds."""
        self.ask(get(1))
        self.begin()
        (held,) = self.engine.in_flight
        since = self.moves._requests._held[held]
        self.moves.tick(since + HELD_FOR - 0.1)
        self.assertEqual(self.engine.asked, [])
        self.moves.tick(since + HELD_FOR + 0.1)
        self.assertEqual(self.engine.asked, [held])

    def test_a_client_that_leaves_while_its_request_is_held_is_forgotten(self) -> None:
        """Nothing is left of it."""
        client, _ = self.ask(get(1))
        self.begin()
        client.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        (held,) = self.engine.in_flight
        self.assertTrue(self.moves._requests.works_for(held))
        held.connection.close()
        self.nothing_left()
        self.assertEqual(len(self.recorded), 1)

    def test_a_system_without_room_for_it_keeps_the_connection(self) -> None:
        """No descriptor, no memory: the request is answered here."""

        def fails(*ignored: object) -> int:
            raise OSError(24, "Too many open files")

        self.patch(os, "memfd_create", fails)
        self.ask(get(1))
        self.ask(get(2))
        self.begin()
        self.assertEqual(self.successor.ask(), 0)
        self.assertCountEqual([one.target for one in self.engine.asked], [b"/1", b"/2"])
        self.assertEqual(self.moves.next_batch(TAKER, 0, 1000, (), FORMAT), [])
        self.assertCountEqual([one.target for one in self.engine.asked], [b"/1", b"/2"])


class ParcelTests(RequestCase):
    """What another process has sent may be of any version."""

    def parcel(self, change: Any) -> list[int]:
        """Returns a parcel with its first line changed."""
        self.ask(post(5) + GET[:9])
        self.begin()
        ((_, descriptors),) = self.moves.next_batch(TAKER, 0, 10)
        data = os.pread(descriptors[1], 1 << 20, 0)
        head, _, rest = data.partition(b"\n")
        made = os.memfd_create("test")
        os.write(made, change(head) + b"\n" + rest)
        return [made]

    def test_another_format_is_refused(self) -> None:
        """So is what is not valid; nothing stays open."""

        def format(head: bytes) -> bytes:
            return json.dumps({**json.loads(head), "format": FORMAT + 1}).encode()

        def longer(head: bytes) -> bytes:
            return json.dumps({**json.loads(head), "unparsed": 1 << 30}).encode()

        for change in (format, longer, lambda head: b"[]", lambda head: b"{", lambda head: b'{"format": 1}'):
            self.setUp()
            (made,) = self.parcel(change)
            with self.assertRaises(BadConnection):
                unpack([made])
            with self.assertRaises(OSError):
                os.fstat(made)

    def test_what_was_sent_is_what_arrives(self) -> None:
        """With every byte value in its fields and its body."""
        strange = bytes(range(128, 256))
        client = self.engine.connect()
        body = bytes(range(256))
        client.send(b"PATCH / HTTP/1.1\r\n" + HOST + b"X: %s\r\nContent-Length: 256\r\n\r\n" % strange + body)
        self.begin()
        self.move()
        (exchange,) = self.there.asked
        self.assertEqual((exchange.headers[1], body_of(exchange)), ((b"X", strange), body))


PIECES = (get(1) + post(9)[:-6], b"uuuuuu" + CHUNKED + b"6\r\nhel", b"lo!\r\n0\r\n\r\n" + get(4))
EXPECTED = [(b"/1", b""), (b"/upload", b"u" * 9), (b"/chunks", b"hello!"), (b"/4", b"")]


def orders() -> Iterator[Sequence[str]]:
    """Every order of what can happen, and a death of the successor at every place in it, or none."""
    for order in sorted(set(permutations(["send"] * 3 + ["ask"] * 3 + ["answer"]))):
        for place in range(len(order) + 1):
            yield (*order[:place], "die", *order[place:])
        yield order


class ModelTests(RequestCase):
    """The protocol in every order of its steps."""

    def test_each_request_is_answered_once_in_every_order(self) -> None:
        """A request arrives in three pieces, batches are sent and acknowledged, a thread is free, the successor dies.

        Each request reaches one application once, whole and in order, and its client gets each answer once.  Only a
        connection that the successor has taken dies with it.  The old process starts nothing while the successor
        lives.
        """
        count = 0
        for order in orders():
            count += 1
            self.in_order(order)
            self.doCleanups()
        self.assertGreater(count, 1000)

    def in_order(self, order: Sequence[str]) -> None:
        """Do these steps, and then what is left; check what has become of the requests."""
        self.setUp()
        client = self.engine.connect()
        pieces = list(PIECES)
        seen: list[tuple[bytes, bytes]] = []
        self.begin()
        dead = False
        received = b""

        def serve(engine: Engine) -> None:
            if engine.asked and not (dead and engine is self.there):
                exchange = engine.asked.pop(0)
                self.assertTrue(engine is self.there or dead, order)
                exchange.phase = 2
                seen.append((exchange.target, body_of(exchange)))
                engine.answer(exchange, exchange.target)

        def step(what: str) -> None:
            nonlocal dead
            if what == "send":
                with contextlib.suppress(BrokenPipeError):  # the successor has died with the connection
                    client.end.send(pieces.pop(0))
            elif what == "ask" and not dead:
                self.successor.ask()
            elif what == "answer":
                serve(self.engine)
                serve(self.there)
            elif what == "die":
                dead = True
                self.successor.die()
            self.engine.turn()
            self.there.turn()

        for what in order:
            step(what)
            received += client.take()
        taken = self.there.site.arrived > 0
        for _ in range(10):
            step("ask")
            step("answer")
            received += client.take()
        client.close()
        self.there.turn()
        if dead and taken:
            self.assertEqual(seen, EXPECTED[: len(seen)], order)
            return
        self.assertEqual(seen, EXPECTED, order)
        self.assertEqual(
            [answer.body for answer in parse_answers(received)], [target for target, _ in EXPECTED], order
        )
        self.assertEqual([one.target for one in self.recorded], [target for target, _ in EXPECTED], order)
        self.assertEqual(len({one.request_id for one in self.recorded}), 4, order)
