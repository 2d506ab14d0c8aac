"""Many connections in one epoll: worked through in batches, and at the end all of them."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from graceful.web.hub import BATCH, Hub


class Reader:
    """A connection that notes what it reads."""

    reading, writing = True, False

    def __init__(self, test: SynchronousTestCase) -> None:
        self.sock, self.client = socket.socketpair()
        test.addCleanup(self.sock.close)
        test.addCleanup(self.client.close)
        self.fd = self.sock.fileno()
        self.read: list[bytes] = []

    def readable(self) -> None:
        """Read something, and leave the rest."""
        self.read.append(self.sock.recv(1))

    def writable(self) -> None: ...

    def close(self) -> None: ...


class BatchTests(SynchronousTestCase):
    """A hub with more connections than a batch has."""

    def setUp(self) -> None:
        """Connect, and have each client send more than is read at once."""
        reactor: Any = None
        self.hub = Hub(reactor)
        self.addCleanup(self.hub._epoll.close)
        self.readers = [Reader(self) for _ in range(3 * BATCH + 1)]
        for reader in self.readers:
            self.hub.add(reader)
            reader.client.send(b"x" * 100)

    def test_a_batch_leaves_room_for_others(self) -> None:
        """Timers and other descriptors have their turn before all connections have had theirs."""
        self.hub.doRead()
        self.assertEqual(sum(len(reader.read) for reader in self.readers), BATCH)

    def test_catching_up_leaves_no_connection_out(self) -> None:
        """Before the end each connection is read once at least, but not for ever."""
        self.hub.catch_up()
        self.assertEqual([reader for reader in self.readers if not reader.read], [])
        self.assertLess(sum(len(reader.read) for reader in self.readers), 2 * len(self.readers))


@implementer(IReadDescriptor)
class Socket:
    """A listening socket on which clients always wait.

    :ivar error: what accepting from it raises.
    """

    def __init__(self, test: SynchronousTestCase, hub: Hub) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.client = socket.create_connection(self.sock.getsockname())
        test.addCleanup(self.client.close)
        test.addCleanup(self.sock.close)
        self.hub = hub
        self.calls = 0
        self.error: Exception | None = None
        self.lost: list[Failure] = []

    def fileno(self) -> int:
        """Its descriptor."""
        return self.sock.fileno()

    def logPrefix(self) -> str:
        """What the log calls it."""
        return "tcp:here"

    def doRead(self) -> None:
        """Accept nothing."""
        self.calls += 1
        if self.error is not None:
            raise self.error

    def connectionLost(self, reason: Failure) -> None:
        """Close, as a listener does."""
        self.lost.append(reason)
        self.hub.removeReader(self)
        self.sock.close()


class ListeningTests(SynchronousTestCase):
    """A hub that watches listening sockets."""

    def setUp(self) -> None:
        """Make a socket, which is watched."""
        reactor: Any = None
        self.hub = Hub(reactor)
        self.addCleanup(self.hub._epoll.close)
        self.socket = Socket(self, self.hub)
        self.hub.addReader(self.socket)

    def test_a_socket_has_its_turn_as_often_as_a_connection(self) -> None:
        """However many connections are always ready."""
        readers = [Reader(self) for _ in range(3 * BATCH)]
        for reader in readers:
            self.hub.add(reader)
            reader.client.send(b"x" * 100)
        for _ in range(10):
            self.hub.doRead()
        self.assertGreaterEqual(self.socket.calls, 10 * BATCH // (len(readers) + 1))

    def test_what_is_watched_twice_is_watched_once(self) -> None:
        """A listener that is resumed asks again, as it may of a reactor; and to leave off twice is no error."""
        self.hub.addReader(self.socket)
        self.hub.doRead()
        self.assertEqual(self.socket.calls, 1)
        self.hub.removeReader(self.socket)
        self.hub.removeReader(self.socket)
        self.hub.doRead()
        self.assertEqual(self.socket.calls, 1)

    def test_a_socket_that_fails_is_closed_and_others_are_served(self) -> None:
        """The log says which one and why; it is never looked at again."""
        reader = Reader(self)
        self.hub.add(reader)
        reader.client.send(b"xx")
        self.socket.error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        with capturedLogs() as events:
            self.hub.doRead()
        self.hub.doRead()
        self.assertEqual((self.socket.calls, len(reader.read)), (1, 2))
        self.assertEqual([reason.value for reason in self.socket.lost], [self.socket.error])
        self.assertIs(events[0]["log_failure"].value, self.socket.error)
        self.assertEqual(events[0]["socket"], "tcp:here")
        self.assertEqual(self.flushLoggedErrors(OSError)[0].value, self.socket.error)

    def test_a_stop_closes_sockets_that_are_still_open(self) -> None:
        """As a reactor does that ends."""
        reactor: Any = type("Reactor", (), {"removeReader": lambda self, hub: None})()
        hub = Hub(reactor)
        late = Socket(self, hub)
        hub.addReader(late)
        hub.stop()
        self.assertEqual(len(late.lost), 1)
        self.assertTrue(late.lost[0].check(ConnectionDone))
        self.assertEqual(late.fileno(), -1)
