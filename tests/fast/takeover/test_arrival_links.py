"""Links on which connections come, from any number of processes."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from graceful.control.client import Vanished
from graceful.takeover import arrival_links as module
from graceful.takeover.arrival_links import ArrivalLinks
from graceful.takeover.connection_links import BadLinks, Link, describe, make_link, make_links, read_links
from graceful.threads.start import NoThread
from graceful.web.carrying import Carried
from graceful.web.moving import MovedConnection

ONE = MovedConnection(("192.0.2.1", 5), ("198.51.100.1", 80), 1.0, 2.0, True).describe()


class Giver:
    """A process that gives connections, as its control answers.

    :ivar rooms: what it was told of the room here.
    """

    def __init__(self, *batches: int) -> None:
        self._batches = list(batches)
        self.descriptors: list[int] = []
        self.rooms: list[int] = []
        self.clients: list[socket.socket] = []

    def post(self, target: str, *, timeout: float | None = None, **values: Any) -> Any:
        self.rooms.append(values["room"])
        if not self._batches:
            raise Vanished("it has ended")
        count = self._batches.pop(0)
        for _ in range(count):
            here, there = socket.socketpair()
            self.clients.append(here)
            self.descriptors.append(there.detach())
        return {"connections": [ONE] * count}

    def take_descriptors(self) -> list[int]:
        taken, self.descriptors = self.descriptors, []
        return taken


class ArrivalTests(SynchronousTestCase):
    """A process with room for ten connections."""

    def setUp(self) -> None:
        """Have a reactor that calls when the test wants it."""
        self.pending: list[Callable[[], object]] = []
        self.served: list[socket.socket] = []
        self.links = ArrivalLinks(self, lambda function, *args: self.pending.append(lambda: function(*args)))

    def room(self) -> int:
        """Returns how many connections there may be."""
        return 10 - len(self.served)

    def take_in(self, sock: socket.socket, moved: MovedConnection, carried: Carried | None = None) -> None:
        """Serve."""
        self.addCleanup(sock.close)
        self.served.append(sock)

    def take_from(self, *givers: Giver) -> None:
        """Take in from these, and wait until that is over."""
        ended = threading.Semaphore(0)
        for giver in givers:
            self.links.take_from(giver, 7, lambda: True, ended.release)
        for giver in givers:
            self.assertTrue(ended.acquire(timeout=10))
            for client in giver.clients:
                self.addCleanup(client.close)

    def turn(self) -> None:
        """Let the reactor call."""
        while self.pending:
            self.pending.pop(0)()

    def test_what_comes_is_served(self) -> None:
        """Until then this process is not through."""
        with capturedLogs():
            self.take_from(Giver(2, 0))
        self.assertTrue(self.links.busy)
        self.turn()
        self.assertEqual(len(self.served), 2)
        for thread in threading.enumerate():
            if thread.name == "graceful arrivals":
                thread.join(10)
        self.assertFalse(self.links.busy)

    def test_what_is_on_its_way_takes_room(self) -> None:
        """The reactor has not come to it yet, and the next batch must not exceed the limit."""
        giver = Giver(4, 3, 0)
        with capturedLogs():
            self.take_from(giver)
        self.assertEqual(giver.rooms[:3], [10, 6, 3])
        self.turn()

    def test_links_share_the_room(self) -> None:
        """Together they bring no more than there may be."""
        self.links._running = {object(), object(), object()}  # type: ignore[arg-type]
        self.assertEqual(self.links.room(), 3)

    def test_a_process_that_stops_takes_nothing_in(self) -> None:
        """A link that comes too late is closed."""
        self.links.stop()
        giver = Giver(1)
        self.take_from(giver)
        self.assertEqual(giver.rooms, [])
        self.assertFalse(self.links.busy)

    def test_without_a_thread_nothing_moves(self) -> None:
        """The link is closed, and what leaves drains its connections itself."""

        def refuse(target: object, name: str, what: str) -> None:
            raise NoThread(what, RuntimeError("no"))

        self.patch(module, "start_thread", refuse)
        with capturedLogs():
            self.take_from(Giver(1))
        self.assertFalse(self.links.busy)

    def test_a_link_is_closed_at_its_end(self) -> None:
        """The process at its other end hangs up, and is dead."""
        process = os.open("/dev/null", os.O_RDONLY)
        given: list[socket.socket] = []
        link = make_link(process, 7, given.append)
        os.close(process)
        given[0].close()
        with capturedLogs():
            self.links.take([link])
            for thread in threading.enumerate():
                if thread.name == "graceful arrivals":
                    thread.join(10)
        self.assertEqual(link.sock.fileno(), -1)
        self.assertRaises(OSError, os.fstat, link.process)


class LinkTests(SynchronousTestCase):
    """The ends of a link, on their way to the two processes."""

    def setUp(self) -> None:
        """Have a process that gives."""
        self.process = os.open("/dev/null", os.O_RDONLY)
        self.addCleanup(os.close, self.process)
        self.given: list[socket.socket] = []

    def make(self) -> Link:
        """Returns a link, and keeps its other end."""
        link = make_link(self.process, 7, self.given.append)
        self.addCleanup(self.given[-1].close)
        return link

    def test_a_link_is_read_as_it_was_described(self) -> None:
        """With two descriptors each."""
        first, second = self.make(), self.make()
        descriptors = [os.dup(one) for link in (first, second) for one in link.descriptors()]
        read = read_links(describe([first, second]), descriptors)
        self.assertEqual(
            [(one.pid, *one.descriptors()) for one in read], [(7, *descriptors[:2]), (7, *descriptors[2:])]
        )
        for link in (first, second, *read):
            link.close()

    def test_what_is_no_description_is_closed(self) -> None:
        """Too few descriptors, or something else."""
        for said in ([{"pid": 5}, {"pid": 6}], [{}], 5, [None]):
            descriptors = [os.dup(self.process), os.dup(self.process)]
            self.assertRaises(BadLinks, read_links, said, descriptors)
            self.assertRaises(OSError, os.fstat, descriptors[0])

    def test_no_link_is_left_when_one_cannot_be_made(self) -> None:
        """Neither the one, nor those before it."""

        def fail(sock: socket.socket) -> None:
            sock.close()
            raise OSError("no room")

        self.assertRaises(OSError, make_links, [self.make, lambda: make_link(self.process, 7, fail)])
        self.assertEqual(self.given[0].recv(1), b"")
