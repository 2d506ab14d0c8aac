"""Many connections in one epoll: worked through in batches, and at the end all of them."""

from __future__ import annotations

import socket
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

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
