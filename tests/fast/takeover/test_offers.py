"""Which socket of a predecessor is which of a successor's."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from graceful.sockets.address import parse
from graceful.sockets.binding import CONTROL, LISTEN, STATUS, BoundSocket, bind
from graceful.sockets.handshakes import filter_new
from graceful.takeover.offers import BadOffer, Offer, adopt, inherit, key, match, offers, reachable


def offer(address: str, index: int = 0, name: str = "", role: str = LISTEN) -> Offer:
    """An offer of which only the address matters."""
    return Offer(role, address, index, name or address)


class MatchTests(SynchronousTestCase):
    """By address, in order."""

    def matched(self, wanted: list[str], *offered: Offer, role: str = LISTEN) -> list[int | None]:
        """Match `--listen` strings with offers."""
        return match(role, [parse(text) for text in wanted], offered)

    def test_same(self) -> None:
        """In whatever order, and however it is written."""
        offered = offer("tcp:0.0.0.0:8080"), offer("tcp6:[::1]:81"), offer("unix:/run/site.sock")
        wanted = ["unix:/run/../run/site.sock:mode=600", "tcp6:81:interface=\\:\\:1", "tcp:8080", "tcp:8081"]
        self.assertEqual(self.matched(wanted, *offered), [2, 1, 0, None])

    def test_interfaces(self) -> None:
        """A port of one interface is not that of all."""
        self.assertEqual(self.matched(["tcp:8080:interface=127.0.0.1"], offer("tcp:0.0.0.0:8080")), [None])

    def test_several(self) -> None:
        """Of several with one address, each is given once, in order."""
        offered = [offer("tcp:0.0.0.0:80", number) for number in range(2)]
        self.assertEqual(self.matched(["tcp:80"] * 3, *offered), [0, 1, None])

    def test_chosen_by_the_kernel(self) -> None:
        """A port that the kernel has chosen is known by how it was asked for."""
        offered = offer("tcp:0", name="tcp:0.0.0.0:41234")
        self.assertEqual(self.matched(["tcp:0"], offered), [0])
        self.assertEqual(self.matched(["tcp:41234"], offered), [0])
        self.assertEqual(self.matched(["tcp:0:interface=127.0.0.1"], offered), [None])

    def test_descriptors(self) -> None:
        """What was passed to the first process is known by its number, or its name, or by where it leads."""
        offered = offer("fd:3", name="tcp:0.0.0.0:80"), offer("systemd:domain=UNIX:index=0", name="unix:/run/a")
        self.assertEqual(self.matched(["systemd:domain=UNIX:index=0", "fd:3"], *offered), [1, 0])
        self.assertEqual(self.matched(["unix:/run/a", "tcp:80"], *offered), [1, 0])

    def test_as_written_first(self) -> None:
        """One that is written in the same way is not given to another that leads there."""
        offered = offer("fd:3", name="tcp:0.0.0.0:80")
        self.assertEqual(self.matched(["tcp:80", "fd:3"], offered), [None, 0])

    def test_roles(self) -> None:
        """What is for those who look is not for the application's clients."""
        offered = offer("tcp:0.0.0.0:80", role=STATUS)
        self.assertEqual(self.matched(["tcp:80"], offered), [None])
        self.assertEqual(self.matched(["tcp:80"], offered, role=STATUS), [0])

    def test_unknown_name(self) -> None:
        """A host name that is none is for the binding to refuse."""
        text = "tcp:80:interface=no.such.host.invalid"
        self.assertEqual(key(parse(text)), text)


class SocketTests(SynchronousTestCase):
    """With sockets."""

    def setUp(self) -> None:
        """Make a directory."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)

    def bound(self, text: str) -> BoundSocket:
        """Bind, and close at the end of the test."""
        bound = bind(parse(text), {})
        self.addCleanup(bound.close)
        return bound

    def adopted(self, offered: Offer, bound: BoundSocket, text: str) -> BoundSocket:
        """Adopt a copy of what is bound, as a successor does."""
        adopted = adopt(offered, os.dup(bound.socket.fileno()), parse(text))
        self.addCleanup(adopted.socket.close)
        return adopted

    def test_described(self) -> None:
        """What is offered comes through JSON as it was."""
        path = os.path.join(self.directory, "a")
        unix, tcp = self.bound(f"unix:{path}"), self.bound("tcp:0:interface=127.0.0.1")
        control = BoundSocket("unix:/run/c", unix.socket)
        found = offers([(LISTEN, unix), (LISTEN, tcp), (LISTEN, tcp), (CONTROL, control)])
        self.assertEqual([one.address for one in found][:3], [f"unix:{path}", *["tcp:0:interface=127.0.0.1"] * 2])
        self.assertEqual([one.index for one in found], [0, 0, 1, 0])
        self.assertEqual((found[0].path, found[0].inode), (path, unix.inode))
        self.assertEqual([Offer.read(json.loads(json.dumps(one.describe()))) for one in found], found)

    def test_described_by_another_version(self) -> None:
        """What is not understood is refused in one line."""
        good = offer("tcp:0.0.0.0:80").describe()
        for said in (None, [], {}, {**good, "inode": [1]}, {**good, "index": "x"}, {**good, "inode": 5}):
            self.assertNotIn("\n", str(self.assertRaises(BadOffer, Offer.read, said)))

    def test_adopted(self) -> None:
        """Until its holder has let go, nothing may be done to it that outlives the descriptor; then all may."""
        path = os.path.join(self.directory, "a")
        bound = self.bound(f"unix:{path}")
        (offered,) = offers([(LISTEN, bound)])
        adopted = self.adopted(offered, bound, f"unix:{path}:mode=600")
        self.assertEqual((adopted.name, adopted.shared, adopted.path), (bound.name, True, None))
        self.assertFalse(adopted.socket.get_inheritable())
        self.assertFalse(adopted.socket.getblocking())
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        ours = inherit(adopted, offered)
        self.assertEqual(
            (ours.shared, ours.path, ours.inode, ours.socket), (False, path, bound.inode, adopted.socket)
        )

    def test_closed_by_a_failed_successor(self) -> None:
        """A successor that fails closes what it has adopted, and the holder goes on listening."""
        path = os.path.join(self.directory, "a")
        for text in ("tcp:0:interface=127.0.0.1", f"unix:{path}"):
            bound = self.bound(text)
            (offered,) = offers([(LISTEN, bound)])
            self.adopted(offered, bound, text).close()
            with socket.socket(bound.socket.family) as client:
                client.connect(bound.socket.getsockname())

    def test_door_left_shut(self) -> None:
        """What a predecessor has done to let nobody in is undone."""
        bound = self.bound("tcp:0:interface=127.0.0.1")
        if not filter_new(bound.socket):
            bound.socket.setsockopt(socket.IPPROTO_IP, 21, 255)
        (offered,) = offers([(LISTEN, bound)])
        self.adopted(offered, bound, "tcp:0:interface=127.0.0.1")
        with socket.create_connection(bound.socket.getsockname(), timeout=2):
            pass

    def test_no_listening_socket(self) -> None:
        """What does not listen, or is no socket, is refused and closed."""
        address = parse("tcp:80")
        reading, writing = os.pipe()
        self.addCleanup(os.close, writing)
        with socket.socket() as mute:
            for descriptor in (reading, os.dup(mute.fileno())):
                refusal = self.assertRaises(BadOffer, adopt, offer("tcp:0.0.0.0:80"), descriptor, address)
                self.assertIn("tcp:0.0.0.0:80", str(refusal))
                self.assertRaises(OSError, os.fstat, descriptor)

    def test_path_that_is_lost(self) -> None:
        """A Unix socket whose file somebody has removed cannot be reached by anybody new."""
        path = os.path.join(self.directory, "a")
        (offered,) = offers([(LISTEN, self.bound(f"unix:{path}"))])
        self.assertTrue(reachable(offered))
        os.unlink(path)
        self.assertFalse(reachable(offered))
        self.assertTrue(reachable(offer("tcp:0.0.0.0:80")))
