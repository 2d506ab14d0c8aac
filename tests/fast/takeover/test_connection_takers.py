"""Several processes that take connections: each has its share, and one that fails costs the others nothing."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from graceful.sockets.binding import BoundSocket
from graceful.takeover.connection_takers import ASKS_IN, SAID_MEANWHILE, ConnectionTakers
from graceful.takeover.socket_handover import TakeoverRefused
from graceful.takeover.successor_api import SuccessorApi
from tests.fast.doubles import GET, Case, parse_answers
from tests.fast.takeover.test_connection_moves import Listening

FIRST, SECOND = object(), object()


class Taker:
    """A connection to control, served."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.gone: Deferred[None] = Deferred()

    def when_gone(self) -> Deferred[None]:
        return self.gone


class TakerCase(Case):
    """A process whose connections are to move, on Unix sockets without a name."""

    def setUp(self) -> None:
        """Have nobody who takes them yet."""
        super().setUp()
        self.clock = Clock()
        self.served: list[Taker] = []
        self.takers = ConnectionTakers(self.engine.site, self.clock, self.serve)

    def serve(self, sock: socket.socket) -> Taker:
        """Keep the socket of a link."""
        self.addCleanup(sock.close)
        self.served.append(Taker(sock))
        return self.served[-1]

    def begin(self, *takers: object) -> None:
        """Have these take connections."""
        for taker in takers:
            self.takers.expect(taker)
        self.takers.begin([BoundSocket("unix:", Listening(""))])  # type: ignore[arg-type]
        self.engine.site.draining = True

    def batch(self, taker: object, taken: int = 0) -> list[int]:
        """Returns the descriptors that one of them gets."""
        return [descriptors[0] for _, descriptors in self.takers.next_batch(taker, taken, 1000)]


class TakerTests(TakerCase):
    """Who gets what, and what becomes of it."""

    def test_each_taker_has_its_share(self) -> None:
        """Together they have all."""
        self.begin(FIRST, SECOND)
        clients = [self.engine.connect() for _ in range(20)]
        first, second = self.batch(FIRST), self.batch(SECOND)
        self.assertEqual(sorted(first + second), sorted(client.connection.fd for client in clients))
        self.assertTrue(first and second)
        self.assertIs(self.engine.site.mover, self.takers)

    def test_the_share_of_a_lost_taker_goes_to_the_others(self) -> None:
        """Also what it had been sent and has not taken; when none is left, answers say close again."""
        self.begin(FIRST, SECOND)
        for _ in range(20):
            self.engine.connect()
        sent = self.batch(FIRST)
        self.takers.lost(FIRST)
        self.assertTrue(set(sent) <= set(self.batch(SECOND)))
        self.assertIs(self.engine.site.mover, self.takers)
        self.takers.lost(SECOND)
        self.assertIsNone(self.engine.site.mover)
        client, exchange = self.ask()
        self.answer(exchange)
        (answer,) = parse_answers(client.take())
        self.assertEqual(answer.fields["connection"], "close")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_taker_that_does_not_ask_is_struck_out(self) -> None:
        """What is on its way to it is served here, and what it says later is refused: it has taken nothing."""
        self.begin(FIRST)
        client = self.engine.connect()
        self.assertEqual(len(self.batch(FIRST)), 1)
        client.send(GET)
        with capturedLogs() as logged:
            self.clock.pump([ASKS_IN, SAID_MEANWHILE])
        self.assertIn("does not ask any more", str(formatEvent(logged[-1])))
        self.engine.turn()
        self.assertEqual(len(self.engine.asked), 1)
        self.assertRaises(TakeoverRefused, self.takers.next_batch, FIRST, 1, 10)
        self.assertEqual((self.engine.open, self.engine.site.moved), (1, 0))

    def test_a_taker_that_asks_stays(self) -> None:
        """Also at the last moment, when it is this process that was stopped."""
        self.begin(FIRST)
        for _ in range(3):
            self.clock.pump([ASKS_IN, SAID_MEANWHILE / 2])
            self.batch(FIRST)
        self.assertIs(self.engine.site.mover, self.takers)
        self.takers.lost(FIRST)

    def test_a_taker_may_come_when_others_have_begun(self) -> None:
        """The one from before is gone, or is not."""
        self.begin(FIRST)
        self.takers.lost(FIRST)
        self.engine.connect()
        self.takers.expect(SECOND)
        self.assertEqual(len(self.batch(SECOND)), 1)
        self.takers.lost(SECOND)

    def test_nothing_moves_before_it_begins(self) -> None:
        """A worker is told who takes its connections before it is told that another one accepts."""
        self.takers.expect(FIRST)
        self.engine.connect()
        self.assertEqual(self.batch(FIRST), [])
        self.assertIsNone(self.engine.site.mover)
        self.assertFalse(self.takers.active)
        self.begin()
        self.assertTrue(self.takers.active)
        self.takers.lost(FIRST)
        self.assertFalse(self.takers.active)

    def test_a_stranger_gets_nothing(self) -> None:
        """It is refused."""
        self.begin(FIRST)
        self.assertRaises(TakeoverRefused, self.takers.next_batch, object(), 0, 10)
        self.takers.lost(object())
        self.takers.lost(FIRST)

    def test_a_link_that_hangs_up_is_a_lost_taker(self) -> None:
        """The one at its other end has ended."""
        (link,) = self.takers.links(1)
        self.assertEqual(link.pid, os.getpid())
        self.begin()
        self.assertIs(self.engine.site.mover, self.takers)
        link.close()
        (taker,) = self.served
        self.assertEqual(taker.sock.recv(1), b"")
        taker.gone.callback(None)
        self.assertIsNone(self.engine.site.mover)


class Handover:
    """A hand-over of sockets that succeeds, or is refused."""

    refuses = False

    def accepts(self, token: object, kept: list[int]) -> None:
        if self.refuses:
            raise TakeoverRefused("too late")

    def lost(self, token: object) -> None:
        pass


class AcceptsTests(TakerCase):
    """A successor's word that it accepts, and what it gets for it."""

    def setUp(self) -> None:
        """Have a successor connected to control."""
        super().setUp()
        self.theirs, ours = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(self.theirs.close)
        self.control = Taker(ours)
        self.handover: Any = Handover()
        self.api: Any = SuccessorApi(self.handover, tuple, tuple, self.takers, self.takers.links)

    def accepts(self, **values: Any) -> Any:
        """Returns what the successor is told."""
        return self.api._let_go(SimpleNamespace(connection=self.control), self.handover, {"kept": [], **values})

    def test_a_successor_with_workers_gets_links(self) -> None:
        """One for each, with a descriptor of this process; this process keeps no copy."""
        said = self.accepts(links=3)
        self.assertEqual([one["pid"] for one in said["links"]], [os.getpid()] * 3)
        _, descriptors, _, _ = socket.recv_fds(self.theirs, 1000, 10)
        self.assertEqual((len(descriptors), len(self.served)), (6, 3))
        for descriptor in descriptors:
            os.close(descriptor)
        self.assertEqual([taker.sock.recv(1) for taker in self.served], [b""] * 3)

    def test_a_single_successor_takes_on_its_own_connection(self) -> None:
        """It gets no link, and one that is refused is not waited for."""
        self.assertEqual(self.accepts(moves=True, links=1)["links"], [])
        self.begin()
        self.assertIs(self.engine.site.mover, self.takers)
        self.handover.refuses = True
        self.assertRaises(TakeoverRefused, self.accepts, moves=True, links=1)
        self.assertIsNone(self.engine.site.mover)

    def test_a_refused_successor_has_no_links(self) -> None:
        """They are closed again."""
        self.handover.refuses = True
        self.assertRaises(TakeoverRefused, self.accepts, links=2)
        self.assertEqual([taker.sock.recv(1) for taker in self.served], [b""] * 2)

    def test_sockets_are_handed_over_without_links_too(self) -> None:
        """No descriptors are left: connections stay."""

        def none(count: int) -> Any:
            raise OSError(24, "Too many open files")

        self.api._links = none
        with capturedLogs():
            self.assertEqual(self.accepts(links=2)["links"], [])
