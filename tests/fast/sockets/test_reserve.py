"""Descriptors in reserve: connections take their places when there are no others, and leave them there again."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.sockets.binding import BoundSocket
from graceful.sockets.listener import NO_ROOM_PAUSE, Listener
from graceful.sockets.reserve import Reserve
from tests.fast.sockets.test_listener import Readers


class Full(socket.socket):
    """A listening socket in a process that has no descriptor left, while it says so."""

    full = True

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept, if there is a descriptor."""
        if self.full:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


class ReserveTests(SynchronousTestCase):
    """Two connections may take places; the test has the sockets of their clients in its hands."""

    def setUp(self) -> None:
        """Listen, and lay descriptors aside."""
        self.listening = Full(socket.AF_UNIX)
        self.addCleanup(self.listening.close)
        self.listening.bind("")  # a name of the kernel's choice
        self.listening.listen()
        self.listening.setblocking(False)
        self.room = True
        self.thieves: list[int] = []
        self.replaced: list[int] = []
        self.reserve = Reserve(2, self.make, self.accept_in_place, self.replace)
        self.addCleanup(self.reserve.close)
        self.reserve.refill()
        self.room = False

    def make(self) -> int:
        """Make a descriptor, if there is room."""
        if not self.room:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return os.eventfd(0)

    def accept_in_place(self, descriptor: int, listening: int) -> int:
        """Accept, unless a thief takes the place first."""
        os.close(descriptor)
        if self.thieves:
            self.thieves.pop()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        accepted, _ = socket.socket.accept(self.listening)
        return accepted.detach()

    def replace(self, descriptor: int, by: int) -> None:
        """Replace a descriptor, and note it."""
        os.dup2(by, descriptor)
        self.replaced.append(descriptor)

    def client(self) -> socket.socket:
        """Connect."""
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.connect(self.listening.getsockname())
        return client

    def accept(self) -> socket.socket:
        """Accept by the reserve."""
        connection, _ = self.reserve.accept(self.listening)
        self.addCleanup(connection.close)
        return connection

    def test_a_connection_is_accepted_without_descriptors(self) -> None:
        """As many are accepted as there are places, then EMFILE is raised; each that closes leaves its place."""
        clients = [self.client() for _ in range(4)]
        first, second = self.accept(), self.accept()
        with self.assertRaises(OSError) as raised:
            self.accept()
        self.assertEqual(raised.exception.errno, errno.EMFILE)
        place = first.fileno()
        first.sendall(b"x")
        first.close()
        first.close()
        self.assertEqual((self.replaced, clients[0].recv(2), clients[0].recv(2)), ([place], b"x", b""))
        third = self.accept()
        third.sendall(b"y")
        self.assertEqual((clients[2].recv(1), second.fileno() >= 0), (b"y", True))

    def test_a_connection_accepted_before_leaves_its_place(self) -> None:
        """What was accepted while there were descriptors fills the reserve when it closes, if that lacks one."""
        self.client(), self.client()
        self.listening.full = False
        before = self.accept()
        self.listening.full = True
        during = self.accept()
        before.close()
        during.close()
        self.assertEqual(len(self.replaced), 1)

    def test_a_connection_closes_whatever_the_reserve_can_do(self) -> None:
        """If the system refuses to replace a connection, that is closed all the same."""

        def refuse(descriptor: int, by: int) -> None:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

        client = self.client()
        connection = self.accept()
        self.reserve._replace = refuse
        connection.close()
        self.assertEqual((client.recv(1), connection.fileno()), (b"", -1))

    def test_a_lost_place_is_not_the_last(self) -> None:
        """If something else gets a place that was free for a moment, the connection gets the next one."""
        self.client(), self.client()
        self.thieves = [1]
        self.accept()
        with self.assertRaises(OSError):
            self.accept()
        self.room = True
        self.reserve.refill()
        self.accept()

    def test_a_client_that_has_gone_costs_no_place(self) -> None:
        """With nobody in the queue no place is given; what fails with another error is taken back."""
        with self.assertRaises(OSError) as raised:
            self.accept()
        self.assertEqual(raised.exception.errno, errno.EMFILE)
        self.client()
        self.room = True

        def gone(descriptor: int, listening: int) -> int:
            os.close(descriptor)
            raise OSError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))

        self.reserve._accept_in_place = gone
        for _ in range(5):
            self.assertRaises(ConnectionAbortedError, self.accept)
        self.reserve._accept_in_place = self.accept_in_place
        self.accept()

    def test_a_listener_accepts_by_its_reserve(self) -> None:
        """A listener accepts as long as places are left, says that none is, and goes on when one comes back."""
        logs = capturedLogs()
        events = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        taken: list[socket.socket] = []
        clock = Clock()
        bound = BoundSocket("unix:control", self.listening)
        listener = Listener(
            Readers(), clock, bound, lambda sock, peer: taken.append(sock), silent=True, reserve=self.reserve
        )
        self.addCleanup(listener.connectionLost, None)
        listener.start()
        for _ in range(2):
            self.client()
        listener.doRead()
        self.assertEqual((len(taken), events), (2, []))
        self.client()
        listener.doRead()
        self.assertEqual(len(taken), 2)
        self.assertIn("cannot accept", formatEvent(events[0]))
        for one in taken:
            one.close()
        clock.advance(NO_ROOM_PAUSE)
        listener.doRead()
        self.assertEqual(len(taken), 3)
        taken[-1].close()


class AcceptInPlaceTests(SynchronousTestCase):
    """By the system's own calls."""

    def test_the_connection_gets_the_number(self) -> None:
        """The connection has the reserved descriptor's number, does not block, and an empty queue is an OSError."""
        listening = Full(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind("")
        listening.listen()
        listening.setblocking(False)
        reserve = Reserve()
        self.addCleanup(reserve.close)
        reserve.refill()
        kept = list(reserve._descriptors)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(listening.getsockname())
            connection, _ = reserve.accept(listening)
            self.assertIn(connection.fileno(), kept)
            self.assertRaises(BlockingIOError, connection.recv, 1)
            self.assertFalse(connection.get_inheritable())
            connection.close()
            self.assertEqual(client.recv(1), b"")
        self.assertEqual(sorted(reserve._descriptors), sorted(kept))
        self.assertFalse(any(map(os.get_inheritable, kept)))
