"""What a fork would break, found in this very process."""

from __future__ import annotations

import os
import random
import select
import shutil
import socket
import sqlite3
import tempfile
import threading
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

from graceful.process.fork_hazards import fork_caveats, fork_hazards, open_descriptors


class ForkHazardTests(SynchronousTestCase):
    """Threads, and what two processes must not share."""

    def setUp(self) -> None:
        """Note what is there already: the test runner's."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.before = open_descriptors()
        self.there = fork_hazards(self.before)

    def new(self) -> list[str]:
        """Returns what a fork would break since the test began."""
        return [one for one in fork_hazards(self.before) if one not in self.there]

    def test_nothing_new_is_no_hazard(self) -> None:
        """Neither a file, nor a pipe, nor a datagram socket."""
        with open(os.path.join(self.directory, "new"), "w"), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM):
            ends = os.pipe()
            self.assertEqual(self.new(), [])
            for end in ends:
                os.close(end)

    def test_threads_are_told_by_name(self) -> None:
        """A few of them."""
        go = threading.Event()
        threads = [threading.Thread(target=go.wait, name=f"poller {number}") for number in range(7)]
        for thread in threads:
            thread.start()
        (told,) = self.new()
        go.set()
        for thread in threads:
            thread.join()
        self.assertRegex(told, r"^\d+ threads \(.*\.\.\.\)$")

    def test_connections_are_told_with_their_peers(self) -> None:
        """On TCP, on Unix sockets, and without a peer."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            host, port = listening.getsockname()
            with socket.create_connection((host, port)):
                self.assertEqual(self.new(), ["an open socket", f"a connection to {host}, port {port}"])
        path = os.path.join(self.directory, "new")
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
            listening.bind(path)
            listening.listen()
            client.connect(path)
            self.assertEqual(self.new(), ["an open socket", f"a connection to {path}"])
        one, other = socket.socketpair()
        with one, other:
            self.assertEqual(self.new(), ["a pair of sockets"] * 2)

    def test_event_loops_and_databases_are_told(self) -> None:
        """An epoll descriptor is one event loop's; SQLite forbids to carry a connection over a fork."""
        with select.epoll():
            self.assertEqual(self.new(), ["an event loop (epoll)"])
        path = os.path.join(self.directory, "database")
        database = sqlite3.connect(path)
        database.execute("create table a(b)")
        self.assertEqual(self.new(), [f"an open SQLite database ({path})"])
        database.close()

    def test_a_reactor_is_a_hazard(self) -> None:
        """Its descriptors would be shared."""
        import sys

        self.patch(sys, "modules", {"twisted.internet.reactor": ModuleType("reactor")})
        self.assertIn("Twisted's reactor", fork_hazards(self.before))


class ForkCaveatTests(SynchronousTestCase):
    """What goes on, and not as intended."""

    def test_own_generators_are_told(self) -> None:
        """But for that of the module, which each fork seeds."""
        before = fork_caveats()
        dice = [random.Random() for _ in range(200)]
        (told,) = [one for one in fork_caveats() if one not in before]
        self.assertRegex(told, r"^2\d\d random.Random made at import gives the same numbers in each worker: ")
        self.assertEqual(len(dice), 200)

    def test_numpy_is_told(self) -> None:
        """Its global generator is not seeded by a fork."""
        import sys

        self.patch(sys, "modules", {"numpy.random": ModuleType("numpy.random")})
        self.assertTrue(any("numpy.random" in one for one in fork_caveats()))
