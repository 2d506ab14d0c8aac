"""The listening sockets of each slot."""

from __future__ import annotations

import contextlib  # trial takes a module's `suppress` for warnings to suppress
import os
import socket
from collections.abc import Callable

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from graceful.sockets.address import Address, parse
from graceful.sockets.binding import BindError, BoundSocket, bind
from graceful.workers import slot_sockets
from graceful.workers.slot_sockets import HeldSocket, SlotSockets
from tests.fast.doubles import directory_for

ANY = "tcp:0:interface=127.0.0.1"


class SlotSocketsTests(SynchronousTestCase):
    """The sockets of three slots."""

    def setUp(self) -> None:
        """Make three slots without sockets."""
        self.path = os.path.join(directory_for(self), "site")
        self.slots = SlotSockets(3)
        self.undo: list[Callable[[], object]] = []
        self.addCleanup(self.close)

    def close(self) -> None:
        """Undo everything that was bound."""
        for function in self.undo:
            function()

    def bind(self, *texts: str, adopted: list[BoundSocket | None] | None = None) -> list[HeldSocket]:
        """Bind or adopt the sockets of addresses.  Returns all that are held."""
        addresses = [parse(text) for text in texts]
        wanted = self.slots.wanted(addresses)
        given = adopted if adopted is not None else [None] * len(wanted)
        self.slots.bind(addresses, given, {}, None, self.undo.append)
        return self.slots.kept

    def alone(self, text: str = ANY) -> BoundSocket:
        """Returns a socket that belongs to no slot."""
        bound = bind(parse(text), {})
        self.addCleanup(bound.close)
        return bound

    def test_tcp_needs_a_socket_per_slot_unix_one(self) -> None:
        """A TCP address needs one socket for each slot, a Unix address one in all."""
        addresses = [parse(text) for text in (ANY, "unix:/run/site", "tcp6:81", "fd:3")]
        wanted = [address.text for address in self.slots.wanted(addresses)]
        self.assertEqual(wanted, [ANY] * 3 + ["unix:/run/site"] + ["tcp6:81"] * 3 + ["fd:3"])

    def test_binds_tcp_per_slot_to_one_address(self) -> None:
        """The sockets of all slots have one TCP address, so that clients are spread; a Unix socket is shared."""
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

    def test_connections_come_to_all_sockets_of_an_address(self) -> None:
        """Connections come to all sockets of an address."""
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

    def test_one_more_slot_gets_a_socket_for_each_address(self) -> None:
        """One more slot gets a socket of its own for each TCP address, and shares what is shared."""
        self.bind(ANY, f"unix:{self.path}")
        self.slots.widen()
        self.addCleanup(self.slots.kept[-1].bound.close)
        self.assertEqual([(one.key, one.slot) for one in self.slots.own(4)], [(4, 4)])
        self.assertEqual(self.slots.own(4)[0].bound.name, self.slots.own(1)[0].bound.name)
        self.assertEqual([one.key for one in self.slots.of(4)], [3, 4])

    def test_sockets_of_a_removed_slot_are_everyones_until_it_is_back(self) -> None:
        """The sockets of a removed slot stay open for all others; the slot that comes back has them for itself."""
        self.bind(ANY)
        self.slots.narrow()
        self.assertEqual([one.key for one in self.slots.of(1)], [0, 2])
        self.slots.widen()
        self.assertEqual([one.key for one in self.slots.of(1)], [0])
        self.assertEqual([one.key for one in self.slots.of(3)], [2])
        self.assertEqual(len(self.slots.kept), 3)

    def test_reserved_sockets_get_connections_once_a_slot_has_them(self) -> None:
        """A reserved socket gets no connection; a slot that is added has one, and listens."""
        self.bind(ANY, f"unix:{self.path}")
        self.slots.reserve(self.undo.append)
        address = self.slots.kept[0].bound.socket.getsockname()
        self.assertEqual(len(self.slots.kept), 4)
        got = 0
        for _ in range(50):
            with socket.create_connection(address):
                for one in self.slots.kept[:3]:
                    with contextlib.suppress(BlockingIOError):
                        one.bound.socket.accept()[0].close()
                        got += 1
        self.assertEqual(got, 50)
        self.patch(slot_sockets, "_another", None)  # it could not bind one now
        self.slots.widen()
        (added,) = self.slots.own(4)
        self.assertTrue(added.bound.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        self.assertEqual(added.bound.socket.getsockname(), address)

    def test_no_more_slots_are_added_than_are_reserved(self) -> None:
        """A number beyond the reserved sockets is refused, and so is one more slot; one line says what to do."""
        self.patch(slot_sockets, "RESERVED", 5)
        self.bind(ANY)
        self.slots.reserve(self.undo.append)
        for _ in range(3):
            self.slots.widen()
        self.slots.check_room(6)
        error = self.assertRaises(BindError, self.slots.check_room, 7)
        self.assertEqual(str(error), "root has bound sockets for 6 workers; restart with --workers 7 for more")
        error = self.assertRaises(BindError, self.slots.widen)
        self.assertIn("all that root has bound are in use; restart with --workers 7 for more", str(error))
        self.assertEqual((self.slots.count, len(self.slots.kept)), (6, 6))

    def test_released_sockets_leave_the_address_free(self) -> None:
        """With the listening sockets and the reserved ones closed, another process can bind the address."""
        self.bind(ANY)
        self.slots.reserve(self.undo.append)
        port = self.slots.kept[0].bound.socket.getsockname()[1]
        self.slots.release_reserved()
        for one in self.slots.kept:
            one.let_go(unlink=True)
        alone = socket.socket()
        self.addCleanup(alone.close)
        alone.bind(("127.0.0.1", port))

    def test_no_slot_is_added_without_a_socket_for_it(self) -> None:
        """If one address cannot have another socket, no slot is added, and nothing stays open."""
        self.bind(ANY, "tcp:0:interface=127.0.0.2")
        made = [self.alone()]

        def another(first: BoundSocket, address: Address) -> BoundSocket:
            if not made:
                raise BindError("cannot listen")
            return made.pop()

        bound = made[0]
        self.patch(slot_sockets, "_another", another)
        self.assertRaises(BindError, self.slots.widen)
        self.assertEqual((self.slots.count, len(self.slots.kept)), (3, 6))
        self.assertEqual(bound.socket.fileno(), -1)

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
        """If one address cannot be bound, the others are closed again."""
        taken = self.alone()
        port = taken.socket.getsockname()[1]
        self.assertRaises(BindError, self.bind, ANY, f"unix:{self.path}", f"tcp:{port}:interface=127.0.0.1")
        self.close()
        self.assertEqual([one.open for one in self.slots.kept], [False] * 4)
        self.assertFalse(os.path.exists(self.path))

    def test_binds_what_a_predecessor_lacks(self) -> None:
        """Sockets of a predecessor are adopted; those that it lacks are bound beside them, and are ours alone."""
        theirs = evolve(self.alone(), shared=True)
        kept = self.bind(ANY, adopted=[theirs, None, None])
        self.assertIs(kept[0].bound, theirs)
        self.assertEqual([one.ours for one in kept], [False, True, True])
        self.assertEqual(len({one.bound.socket.getsockname() for one in kept}), 1)

    def test_rebind_updates_what_is_known_of_a_socket(self) -> None:
        """`rebind` updates what is known of a socket."""
        kept = self.bind(ANY)
        self.slots.rebind([evolve(kept[1].bound, shared=True)])
        self.assertEqual([one.ours for one in kept], [True, False, True])

    def test_let_go_closes_only_our_copy(self) -> None:
        """`let_go` closes our copy; another process that holds the socket still accepts."""
        first = self.bind(ANY)[0]
        copy = first.bound.socket.dup()
        self.addCleanup(copy.close)
        first.let_go(unlink=True)
        self.assertFalse(first.open)
        self.assertEqual([one.key for one in self.slots.of(1)], [])
        self.assertEqual([bound.socket.fileno() >= 0 for bound in self.slots.open_sockets()], [True, True])
        self.assertTrue(copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    def test_unlinks_a_path_only_if_it_is_ours(self) -> None:
        """A Unix socket's path is unlinked once, if no process is to accept there, and if it is still ours."""
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
