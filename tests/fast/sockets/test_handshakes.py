"""The kernel's half-open handshakes: counted, and no new ones let in.

A handshake stays half-open for as long as a test needs it by TCP_DEFER_ACCEPT: the kernel then completes it only
when the client has sent its first bytes.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from graceful.sockets import handshakes
from graceful.sockets.handshakes import admit_new, drop_new, filter_new, half_open, refuse_new, release

ESTABLISHED, SYN_SENT, CLOSED = 1, 2, 7
CAP_NET_ADMIN, CAP_NET_RAW = 12, 13

Address = tuple[str, int]


def may(capability: int) -> bool:
    """Whether this process has a capability, capabilities(7)."""
    with open("/proc/self/status") as status:
        effective = next(line for line in status if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> capability & 1)


def state(client: socket.socket) -> int:
    """How far the kernel has come with a client's connection, tcp(7)."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def readable(waiting: socket.socket) -> bool:
    """Wait until a socket is readable."""
    return bool(select.select([waiting], [], [], 10)[0])


class HandshakeTests(SynchronousTestCase):
    """With real sockets; only the kernel can say what it does."""

    def listening(self, where: Address = ("127.0.0.1", 0), deferred: bool = False) -> socket.socket:
        """A listening socket; if deferred, handshakes with it stay half-open until the client sends."""
        made = socket.socket(socket.AF_INET6 if ":" in where[0] else socket.AF_INET)
        self.addCleanup(made.close)
        if deferred:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)
        made.bind(where)
        made.listen(1024)
        return made

    def client(self, where: Address, ttl: int = 64) -> socket.socket:
        """A client that has begun to connect."""
        made = socket.socket(socket.AF_INET6 if ":" in where[0] else socket.AF_INET)
        self.addCleanup(made.close)
        made.setblocking(False)
        if made.family == socket.AF_INET:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        made.connect_ex(where)
        return made

    def connected(self, where: Address) -> socket.socket:
        """A client that believes itself connected."""
        made = self.client(where)
        select.select([], [made], [], 10)
        self.assertEqual(state(made), ESTABLISHED)
        return made

    def each_family(self, test: Callable[[socket.socket, Address], None]) -> None:
        """Test over IPv4, over IPv6, and over IPv4 with an IPv6 socket."""
        for bind, connect in (("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")):
            made = self.listening((bind, 0), deferred=True)
            test(made, (connect, made.getsockname()[1]))

    def test_counts_half_open_handshakes_of_each_family(self) -> None:
        """Handshakes count from the client's SYN until they are complete, over each family."""

        def count(made: socket.socket, where: Address) -> None:
            self.assertEqual(half_open(where[1]), 0)
            clients = [self.connected(where) for _ in range(3)]
            self.assertEqual(half_open(where[1]), 3)
            for left, client in enumerate(clients):
                self.assertEqual(half_open(where[1]), 3 - left)
                client.send(b"x")
                self.assertTrue(readable(made))
                made.accept()[0].close()
            self.assertEqual(half_open(where[1]), 0)

        self.each_family(count)

    def test_counts_more_than_one_answer_holds(self) -> None:
        """More of them than fit into one answer of the kernel's are counted, and those of other ports are not."""
        made = self.listening(deferred=True)
        other = self.listening(deferred=True)
        for _ in range(400):
            self.connected(made.getsockname())
        self.connected(other.getsockname())
        self.assertEqual(half_open(made.getsockname()[1]), 400)

    def test_counts_none_without_sock_diag(self) -> None:
        """Without sock_diag no half-open connection is counted."""

        class Refusing(socket.socket):
            def __init__(self, family: int, *more: int) -> None:
                raise OSError("not here")

        self.patch(socket, "socket", Refusing)
        self.assertEqual(half_open(80), 0)

    def test_new_handshakes_are_refused_only(self) -> None:
        """A new handshake is refused at once, and one that had begun is completed, and makes a usual connection."""

        def refused(made: socket.socket, where: Address) -> None:
            early = self.connected(where)
            self.assertTrue(refuse_new(made))
            for _ in range(2):
                late = self.client(where)
                self.assertEqual(state(late), CLOSED)
                self.assertEqual(late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ECONNREFUSED)
            self.assertEqual(half_open(where[1]), 1)
            early.send(b"hello")
            self.assertTrue(readable(made))
            accepted, _ = made.accept()
            self.addCleanup(accepted.close)
            self.assertTrue(readable(accepted))
            self.assertEqual(accepted.recv(10), b"hello")
            early.send(b"more")
            self.assertTrue(readable(accepted))
            self.assertEqual(accepted.recv(10), b"more")
            accepted.send(b"good bye")
            self.assertTrue(readable(early))

        self.each_family(refused)

    def test_clients_with_the_highest_ttl_are_refused(self) -> None:
        """A client whose segments have the highest TTL there is, which is not dropped, is refused like all others."""
        made = self.listening()
        where = made.getsockname()
        self.patch(handshakes, "filter_new", lambda listening: False)
        self.assertTrue(drop_new(made))
        near = self.client(where, ttl=255)
        self.assertEqual(state(near), ESTABLISHED)
        self.assertTrue(refuse_new(made))
        self.assertEqual(state(self.client(where, ttl=255)), CLOSED)

    def test_filter_drops_new_handshakes_only(self) -> None:
        """With the filter on, no new handshake begins, and one that had begun is completed."""

        def filtered(made: socket.socket, where: Address) -> None:
            early = self.connected(where)
            filters = may(CAP_NET_ADMIN)
            self.assertEqual(filter_new(made), filters)
            late = self.client(where)
            self.assertEqual(state(late), SYN_SENT if filters else ESTABLISHED)
            self.assertEqual(half_open(where[1]), 1 if filters else 2)
            early.send(b"hello")
            self.assertTrue(readable(made))
            accepted, _ = made.accept()
            self.addCleanup(accepted.close)
            self.assertTrue(readable(accepted))
            self.assertEqual(accepted.recv(10), b"hello")
            accepted.send(b"good bye")
            self.assertTrue(readable(early))

        self.each_family(filtered)

    def test_ttl_drops_new_handshakes_only(self) -> None:
        """Where no filter may be put on, no new handshake begins either, and one that had begun is completed."""
        self.patch(handshakes, "filter_new", lambda listening: False)

        def kept_away(made: socket.socket, where: Address) -> None:
            early = self.connected(where)
            self.assertTrue(drop_new(made))
            late = self.client(where)
            self.assertEqual(state(late), SYN_SENT)
            self.assertEqual(half_open(where[1]), 1)
            early.send(b"hello")
            self.assertTrue(readable(made))
            accepted, _ = made.accept()
            self.addCleanup(accepted.close)
            release(accepted)
            self.assertTrue(readable(accepted))
            self.assertEqual(accepted.recv(10), b"hello")
            early.send(b"more")
            self.assertTrue(readable(accepted))
            self.assertEqual(accepted.recv(10), b"more")
            accepted.send(b"good bye")
            self.assertTrue(readable(early))

        self.each_family(kept_away)

    def test_changes_nothing_without_the_right(self) -> None:
        """Where the process may not, it is told so, and nothing has changed."""

        class Refusing(socket.socket):
            def setsockopt(self, *option: object) -> None:
                raise PermissionError

        with Refusing() as made:
            self.assertFalse(drop_new(made))
            self.assertFalse(refuse_new(made))

    def test_admit_new_undoes_each_way(self) -> None:
        """Whatever kept clients out, they get in again; where nothing did, nothing happens."""
        made = self.listening()
        admit_new(made)
        filter_new(made)
        admit_new(made)
        self.connected(made.getsockname())
        self.patch(handshakes, "filter_new", lambda listening: False)
        drop_new(made)
        admit_new(made)
        self.connected(made.getsockname())
        refuse_new(made)
        admit_new(made)
        if may(CAP_NET_RAW):
            self.connected(made.getsockname())
