"""Connections on their way from one process to the next: both sides, and every way in which one of them fails."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from graceful.control.client import ClientError, ControlRefused, Vanished
from graceful.control.read_api import Problem
from graceful.sockets.binding import BoundSocket
from graceful.takeover.connection_arrivals import ConnectionArrivals
from graceful.takeover.connection_moves import BATCH, ConnectionMoves, Moving
from graceful.takeover.successor_api import INTERIM, SuccessorApi
from graceful.web.carrying import Carried
from graceful.web.moving import BadConnection, MovedConnection, take_in
from tests.fast.doubles import GET, Case, Client, get, parse_answers, post

TAKER = object()


class Listening:
    """A listening socket, of which only its name matters."""

    def __init__(self, name: Any) -> None:
        self._name = name

    def getsockname(self) -> Any:
        return self._name


class MoveCase(Case):
    """A predecessor and its clients, whose connections are on Unix sockets without a name."""

    def setUp(self) -> None:
        """Have a predecessor that may be taken over."""
        super().setUp()
        self.moves = ConnectionMoves(self.engine.site)

    def begin(self) -> None:
        """A successor accepts from where the clients have connected, and has room, but has not asked yet."""
        self.moves.expect(TAKER)
        self.moves.begin([BoundSocket("unix:", Listening(""))])  # type: ignore[arg-type]
        self.engine.site.draining = True
        self.moves._room = 1000

    def idle(self) -> Client:
        """Returns a client that has had an answer."""
        client, exchange = self.ask()
        self.answer(exchange)
        client.take()
        return client

    def batch(self, taken: int = 0, room: int = 1000) -> list[Moving]:
        """Returns what the successor gets next."""
        return self.moves.next_batch(TAKER, taken, room)


class PredecessorTests(MoveCase):
    """What moves, and what becomes of it."""

    def test_an_idle_connection_moves_and_is_closed_here_when_it_was_taken(self) -> None:
        """Not before; and then without a word to the client."""
        self.begin()
        client = self.engine.connect()
        ((moved, (fd,)),) = self.batch()
        self.assertEqual((fd, moved.answered, moved.peer), (client.connection.fd, False, ("192.0.2.1", 50000)))
        there = os.dup(fd)
        self.addCleanup(os.close, there)
        client.send(GET)
        self.assertEqual((self.engine.asked, self.engine.open), ([], 1))
        self.assertEqual(self.batch(taken=1), [])
        self.assertEqual((self.engine.open, self.engine.site.moved), (0, 1))
        self.assertEqual(os.read(there, 1000), GET)
        client.take()
        self.assertFalse(client.eof)

    def test_what_was_not_taken_is_served_here(self) -> None:
        """The successor had no room for it: its request, which came meanwhile, is answered here."""
        self.begin()
        first, second = self.engine.connect(), self.engine.connect()
        self.assertEqual(len(self.batch()), 2)
        for client in (first, second):
            client.send(GET)
        self.moves.next_batch(TAKER, 1, 0)
        self.engine.turn()
        self.assertEqual((self.engine.open, len(self.engine.asked)), (1, 1))

    def test_a_request_is_read_here_when_the_successor_has_no_room(self) -> None:
        """It must not wait for room that may never come; nor must one that has waited for the last room."""
        first, second = self.engine.connect(), self.engine.connect()
        self.begin()
        self.moves._room = 1
        first.send(GET)
        second.send(GET)
        self.assertEqual((len(self.engine.asked), first.connection.leaving), (1, True))
        self.batch(room=0)
        self.engine.turn()
        self.assertEqual(len(self.engine.asked), 2)

    def test_a_request_waits_for_a_successor_that_has_not_asked_yet(self) -> None:
        """It accepts already, and asks in a moment: no old code starts a new request."""
        client = self.engine.connect()
        self.moves.expect(TAKER)
        self.moves.begin([BoundSocket("unix:", Listening(""))])  # type: ignore[arg-type]
        client.send(GET)
        self.assertEqual((self.engine.asked, client.connection.leaving), ([], True))
        self.assertEqual(len(self.batch()), 1)

    def test_a_lost_successor_leaves_all_with_this_process(self) -> None:
        """Also what a request had come on; answers say close again."""
        self.begin()
        clients = [self.engine.connect() for _ in range(3)]
        self.batch(room=1)
        for client in clients:
            client.send(GET)
        self.moves.lost(TAKER)
        self.engine.turn()
        self.assertEqual(len(self.engine.asked), 3)
        for exchange in list(self.engine.asked):
            self.answer(exchange)
        for client in clients:
            (answer,) = parse_answers(client.take())
            self.assertEqual(answer.fields["connection"], "close")
        self.assertEqual(self.batch(), [])

    def test_a_connection_that_cannot_be_read_again_ends_for_its_client(self) -> None:
        """Although the successor still has a descriptor for it; and the others are served."""
        self.begin()
        broken, failing, whole = (self.engine.connect() for _ in range(3))
        for _, (fd,) in self.batch():
            self.addCleanup(os.close, os.dup(fd))
        hub = broken.connection._hub
        add = hub.add

        def fail(connection: Any) -> None:
            if connection is broken.connection:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if connection is failing.connection:
                raise KeyError(connection.fd)
            add(connection)

        self.patch(hub, "add", fail)
        for client in (broken, failing, whole):
            client.send(GET)
        self.moves.lost(TAKER)
        self.assertEqual(len(self.flushLoggedErrors(OSError, KeyError)), 2)
        self.engine.turn()
        for client in (broken, failing):
            client.take()
            self.assertTrue(client.eof)
        self.assertEqual((self.engine.open, len(self.engine.asked)), (1, 1))

    def test_an_answer_keeps_its_connection_which_moves_then(self) -> None:
        """The next request on it is not read here."""
        client, exchange = self.ask()
        self.begin()
        self.assertEqual(self.batch(), [])
        self.answer(exchange)
        (answer,) = parse_answers(client.take())
        self.assertEqual(answer.fields["connection"], "keep-alive")
        client.send(get(2))
        self.assertEqual(len(self.engine.asked), 1)
        self.assertEqual(len(self.batch()), 1)

    def test_what_is_not_all_in_the_kernel_stays(self) -> None:
        """A part of a head, a body on its way, a pipeline, a slow reader, half a close."""
        clients = [
            self.engine.connect().send(GET[:10]),
            self.engine.connect().send(post(10)[:-5]),
            self.engine.connect().send(get(1) + get(2)),
        ]
        reader, slow = self.ask(buffer=4096)
        slow.start("200 OK", [])
        slow.finish(b"x" * 500_000)
        slow.release()
        half, exchange = self.ask()
        half.finish()
        self.begin()
        self.assertEqual(self.batch(), [])
        self.answer(exchange)
        self.assertEqual(self.batch(), [])
        self.assertEqual([client.connection.leaving for client in (*clients, reader)], [False] * 4)

    def test_only_what_the_successor_serves_moves(self) -> None:
        """A connection to an address that it does not have stays."""
        self.begin()
        self.moves._addresses = {"/another"}
        self.engine.connect()
        self.assertEqual(self.batch(), [])

    def test_only_the_successor_gets_connections(self) -> None:
        """Another client of control gets none, nor does one before it has taken over."""
        self.begin()
        self.engine.connect()
        self.assertEqual(self.moves.next_batch(object(), 0, 10), [])
        self.assertEqual(ConnectionMoves(self.engine.site).next_batch(TAKER, 0, 10), [])

    def test_batches_are_bounded(self) -> None:
        """By the room there, and by what one message can carry."""
        self.begin()
        for _ in range(BATCH + 10):
            self.engine.connect()
        self.assertEqual(len(self.batch(room=5)), 5)
        self.assertEqual(len(self.batch(taken=5)), BATCH)
        self.assertEqual(len(self.batch(taken=BATCH)), 5)
        self.assertEqual(self.batch(taken=5), [])
        self.nothing_left()

    def test_a_connection_on_its_way_is_not_timed(self) -> None:
        """Its time-outs are the successor's."""
        client = self.idle()
        self.begin()
        self.batch()
        self.engine.sweep(1e9)
        client.take()
        self.assertEqual((client.socket.closed, client.eof), (False, False))


class ApiTests(MoveCase):
    """The order by which the successor asks."""

    def setUp(self) -> None:
        """Have a successor connected to control."""
        super().setUp()
        self.theirs, ours = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(self.theirs.close)
        self.control = SimpleNamespace(sock=ours)
        self.api: Any = SuccessorApi(None, list, list, self.moves)  # type: ignore[arg-type]
        self.moves.expect(self.control)
        self.moves.begin([BoundSocket("unix:", Listening(""))])  # type: ignore[arg-type]

    def ask_for(self, **values: Any) -> list[Any]:
        """Returns what the successor is told of connections."""
        said: list[Any] = self.api._move(SimpleNamespace(connection=self.control), self.moves, values)["connections"]
        return said

    def test_descriptors_ride_on_an_interim_answer(self) -> None:
        """As those of the listening sockets do."""
        self.engine.connect()
        self.assertEqual(len(self.ask_for(taken=0, room=5)), 1)
        data, descriptors, _, _ = socket.recv_fds(self.theirs, 1000, 5)
        self.addCleanup(os.close, descriptors[0])
        self.assertEqual((data, len(descriptors)), (INTERIM, 1))

    def test_a_successor_that_has_given_up_has_taken_nothing(self) -> None:
        """Its word that it has taken connections is from before: this process was stuck for too long."""
        client = self.engine.connect()
        self.ask_for(taken=0, room=5)
        self.theirs.close()
        self.assertEqual(self.ask_for(taken=1, room=5), [])
        client.send(GET)
        self.assertEqual(len(self.engine.asked), 1)

    def test_numbers_are_asked_for(self) -> None:
        """Anything else is refused."""
        for values in ({}, {"taken": -1, "room": 1}, {"taken": "1", "room": 1}, {"taken": 1}):
            with self.assertRaises(Problem):
                self.ask_for(**values)


class Source:
    """A predecessor, as its control answers.

    :param said: answers, or exceptions to be raised, in order; in a pair after so many descriptors.
    """

    def __init__(self, *said: Any) -> None:
        self._said = list(said)
        self.descriptors: list[int] = []
        self.asked: list[tuple[int, int]] = []
        self.clients: list[socket.socket] = []

    def post(self, target: str, *, timeout: float | None = None, **values: Any) -> Any:
        self.asked.append((values["taken"], values["room"]))
        said = self._said.pop(0)
        if isinstance(said, Exception):
            raise said
        count, answer = said if isinstance(said, tuple) else (len(said["connections"]), said)
        for _ in range(count):
            here, there = socket.socketpair()
            here.settimeout(0)
            self.clients.append(here)
            self.descriptors.append(there.detach())
        if isinstance(answer, Exception):
            raise answer
        return answer

    def take_descriptors(self) -> list[int]:
        taken, self.descriptors = self.descriptors, []
        return taken


class SuccessorTests(SynchronousTestCase):
    """What arrives, and what becomes of it when the predecessor fails."""

    ONE = MovedConnection(("192.0.2.1", 5), ("198.51.100.1", 80), 1.0, 2.0, True).describe()

    def run_with(self, *said: Any, dead: bool = False) -> tuple[Source, list[socket.socket]]:
        """Take in what a predecessor has; the sockets that are served."""
        source, served = Source(*said), []

        class Here:
            def room(self) -> int:
                return 10

            def take_in(self, sock: socket.socket, moved: MovedConnection, carried: Carried | None = None) -> None:
                served.append(sock)

        def call(function: Callable[..., object], *arguments: object) -> None:
            function(*arguments)

        arrivals = ConnectionArrivals(source, 7, lambda: dead, Here(), call)
        with capturedLogs():
            arrivals.run()
        for sock in (*served, *source.clients):
            self.addCleanup(sock.close)
        return source, served

    def test_a_connection_is_served_when_the_predecessor_has_closed_its_own(self) -> None:
        """That is when it has answered the message that this one was taken."""
        two = {"connections": [self.ONE, self.ONE]}
        source, served = self.run_with(two, {"connections": []}, Vanished("gone"), dead=True)
        self.assertEqual(len(served), 2)
        self.assertEqual(source.asked[:2], [(0, 10), (2, 8)])

    def test_what_a_dead_predecessor_has_sent_is_served(self) -> None:
        """No other process can read from it any more."""
        _, served = self.run_with({"connections": [self.ONE]}, Vanished("gone"), dead=True)
        self.assertEqual(len(served), 1)

    def test_what_a_living_predecessor_has_sent_is_its_own(self) -> None:
        """It has hung up, or has not answered: two processes must not read from one connection."""
        for error in (Vanished("hung up"), ClientError("silent")):
            source, served = self.run_with({"connections": [self.ONE]}, error)
            self.assertEqual(served, [])
            self.assertTrue(all(end.recv(1) == b"" for end in source.clients))

    def test_descriptors_without_a_description_are_closed(self) -> None:
        """The predecessor was killed between the two: no client waits for a process that does not read."""
        source, served = self.run_with((2, Vanished("killed")), dead=True)
        self.assertEqual((served, source.descriptors), ([], []))
        self.assertTrue(all(end.recv(1) == b"" for end in source.clients))

    def test_a_predecessor_that_moves_nothing_is_not_asked_again(self) -> None:
        """It is of an earlier version, or a supervisor."""
        source, served = self.run_with(ControlRefused(404, "no such order"))
        self.assertEqual((len(source.asked), served), (1, []))

    def test_what_does_not_match_is_closed(self) -> None:
        """A description that is none ends the taking in."""
        for said in ([{}], [{**self.ONE, "server": 5}], [self.ONE, None]):
            _, served = self.run_with({"connections": said})
            self.assertEqual(served, [])


class ArrivedTests(Case):
    """A connection that another process has accepted."""

    def test_it_is_served_as_one_of_ours(self) -> None:
        """With the client's address, and its age."""
        here, there = socket.socketpair()
        self.addCleanup(here.close)
        moved = MovedConnection(("192.0.2.9", 5), ("198.51.100.1", 80), 1.0, 2.0, True)
        take_in(self.engine.site, self.engine.hub, there, MovedConnection.read(moved.describe()))
        here.send(GET)
        self.engine.turn()
        (exchange,) = self.engine.asked
        connection: Any = exchange.connection
        self.assertEqual((exchange.peer, connection.opened, connection.answered), ("192.0.2.9", 1.0, True))
        self.assertRaises(BadConnection, MovedConnection.read, {"peer": None})
        here.close()
        self.engine.turn()
