"""Which listening sockets belong to which worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from graceful.sockets.address import parse
from graceful.sockets.binding import BindError, BoundSocket, bind
from graceful.workers.slot_sockets import HeldSocket, SlotSockets
from tests.fast.doubles import directory_for

ANY = "tcp:0:interface=127.0.0.1"


class SlotSocketsTests(SynchronousTestCase):
    """Three slots."""

    def setUp(self) -> None:
        """Have nothing yet."""
        self.path = os.path.join(directory_for(self), "site")
        self.slots = SlotSockets(3)
        self.undo: list[Callable[[], object]] = []
        self.addCleanup(self.close)

    def close(self) -> None:
        """Close everything."""
        for function in self.undo:
            function()

    def bind(self, *texts: str, adopted: list[BoundSocket | None] | None = None) -> list[HeldSocket]:
        """Have every socket."""
        addresses = [parse(text) for text in texts]
        wanted = self.slots.wanted(addresses)
        given = adopted if adopted is not None else [None] * len(wanted)
        self.slots.bind(addresses, given, {}, None, self.undo.append)
        return self.slots.kept

    def alone(self, text: str = ANY) -> BoundSocket:
        """A socket of somebody else's."""
        bound = bind(parse(text), {})
        self.addCleanup(bound.close)
        return bound

    def test_tcp_needs_a_socket_per_slot_unix_one(self) -> None:
        """A TCP address as often as there are slots, a Unix socket once."""
        addresses = [parse(text) for text in (ANY, "unix:/run/site", "tcp6:81", "fd:3")]
        wanted = [address.text for address in self.slots.wanted(addresses)]
        self.assertEqual(wanted, [ANY] * 3 + ["unix:/run/site"] + ["tcp6:81"] * 3 + ["fd:3"])

    def test_binds_tcp_per_slot_to_one_address(self) -> None:
        """One for each slot, all of the same address, so that clients are spread; one Unix socket for all."""
        kept = self.bind(ANY, f"unix:{self.path}")
        self.assertEqual([(one.key, one.slot) for one in kept], [(0, 1), (1, 2), (2, 3), (3, 0)])
        self.assertEqual(len({one.bound.socket.getsockname() for one in kept[:3]}), 1)
        self.assertEqual(self.slots.names(), [kept[0].bound.name, kept[3].bound.name])
        self.assertEqual([one.key for one in self.slots.of(2)], [1, 3])
        self.assertEqual([one.key for one in self.slots.own(2)], [1])
        for one in kept:
            self.assertTrue(one.ours)
            self.assertTrue(one.bound.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            self.assertFalse(one.bound.socket.getblocking())
            self.assertFalse(one.bound.socket.get_inheritable())

    def test_all_accept(self) -> None:
        """Connections come to all of them."""
        kept = self.bind(ANY)[:3]
        got = set()
        for _ in range(200):
            client = socket.create_connection(kept[0].bound.socket.getsockname())
            for one in kept:
                try:
                    one.bound.socket.accept()[0].close()
                    got.add(one.key)
                except BlockingIOError:
                    pass
            client.close()
        self.assertEqual(got, {0, 1, 2})

    def test_address_in_use_is_refused(self) -> None:
        """An address that another process has bound is not shared, even if that process allows it."""
        for option in (0, 1):
            taken = socket.socket()
            self.addCleanup(taken.close)
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, option)
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            self.assertRaises(BindError, self.bind, f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1")
            self.assertEqual(self.slots.kept, [])

    def test_failed_bind_gives_back_the_others(self) -> None:
        """If one cannot be had, those before it are given back."""
        taken = self.alone()
        port = taken.socket.getsockname()[1]
        self.assertRaises(BindError, self.bind, ANY, f"unix:{self.path}", f"tcp:{port}:interface=127.0.0.1")
        self.close()
        self.assertEqual([one.open for one in self.slots.kept], [False] * 4)
        self.assertFalse(os.path.exists(self.path))

    def test_binds_what_a_predecessor_lacks(self) -> None:
        """What a predecessor hands over is taken, and what is missing bound beside it; that is ours alone."""
        theirs = evolve(self.alone(), shared=True)
        kept = self.bind(ANY, adopted=[theirs, None, None])
        self.assertIs(kept[0].bound, theirs)
        self.assertEqual([one.ours for one in kept], [False, True, True])
        self.assertEqual(len({one.bound.socket.getsockname() for one in kept}), 1)

    def test_rebind(self) -> None:
        """What becomes known of a socket is known by the socket."""
        kept = self.bind(ANY)
        self.slots.rebind([evolve(kept[1].bound, shared=True)])
        self.assertEqual([one.ours for one in kept], [True, False, True])

    def test_let_go(self) -> None:
        """Our copy is closed, and whoever else has one accepts."""
        first = self.bind(ANY)[0]
        copy = first.bound.socket.dup()
        self.addCleanup(copy.close)
        first.let_go(unlink=True)
        self.assertFalse(first.open)
        self.assertEqual([one.key for one in self.slots.of(1)], [])
        self.assertEqual([bound.socket.fileno() >= 0 for bound in self.slots.open_sockets()], [True, True])
        self.assertTrue(copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    def test_unlinks_a_path_only_if_it_is_ours(self) -> None:
        """A Unix socket's path goes with it if nobody is to come any more, and if it is still ours; and once."""
        (kept,) = self.bind(f"unix:{self.path}")
        kept.let_go(unlink=False)
        self.assertTrue(os.path.exists(self.path))
        kept.let_go(unlink=True)  # a successor may have been given the same inode number
        self.assertTrue(os.path.exists(self.path))
        (_, kept) = self.bind(f"unix:{self.path}")
        kept.let_go(unlink=True)
        self.assertFalse(os.path.exists(self.path))
        (_, _, kept) = self.bind(f"unix:{self.path}")
        os.rename(self.path, self.path + ".old")
        with open(self.path, "w"):
            pass
        kept.let_go(unlink=True)
        self.assertTrue(os.path.exists(self.path))
