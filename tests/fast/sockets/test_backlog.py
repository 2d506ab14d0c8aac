"""The queue of a listening socket, as the kernel tells it."""

from __future__ import annotations

import socket

from twisted.trial.unittest import SynchronousTestCase

from graceful.sockets.backlog import backlog, clients_waiting


class BacklogTests(SynchronousTestCase):
    """Real sockets at loopback, which nothing accepts from."""

    def listening(self, family: int, address: object) -> socket.socket:
        """Returns a listening socket."""
        sock = socket.socket(family)
        self.addCleanup(sock.close)
        sock.bind(address)
        sock.listen(10)
        return sock

    def test_the_clients_that_wait_are_counted(self) -> None:
        """Each client that the kernel has connected counts until it is accepted."""
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            listening = self.listening(family, (host, 0))
            for count in (1, 2, 3):
                self.addCleanup(socket.create_connection(listening.getsockname()[:2]).close)
                told = backlog("tcp:a", listening)
                assert told is not None
                self.assertEqual((told[0], told[2]), ("tcp:a", count))
            listening.accept()[0].close()
            self.assertEqual(clients_waiting([backlog("tcp:a", listening) or ()]), {"tcp:a": 2})

    def test_what_the_kernel_does_not_tell_is_left_out(self) -> None:
        """A Unix socket has no number, and the queue of one that is closed is empty."""
        unix = self.listening(socket.AF_UNIX, "")  # which the kernel gives a name
        self.assertIsNone(backlog("unix:a", unix))
        closed = self.listening(socket.AF_INET, ("127.0.0.1", 0))
        closed.close()
        self.assertEqual(backlog("tcp:a", closed), ("tcp:a", 0, 0))
