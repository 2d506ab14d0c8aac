"""The offers of a predecessor, and how a successor finds and adopts its sockets."""

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
    """Returns an offer with default values for all but its address."""
    return Offer(role, address, index, name or address)


class MatchTests(SynchronousTestCase):
    """Offers are matched by address, in order."""

    def matched(self, wanted: list[str], *offered: Offer, role: str = LISTEN) -> list[int | None]:
        """Match `--listen` strings with offers."""
        return match(role, [parse(text) for text in wanted], offered)

    def test_matches_addresses_in_any_order_and_notation(self) -> None:
        """The order and the notation of the addresses do not matter."""
        offered = offer("tcp:0.0.0.0:8080"), offer("tcp6:[::1]:81"), offer("unix:/run/site.sock")
        wanted = ["unix:/run/../run/site.sock:mode=600", "tcp6:81:interface=\\:\\:1", "tcp:8080", "tcp:8081"]
        self.assertEqual(self.matched(wanted, *offered), [2, 1, 0, None])

    def test_port_of_one_interface_does_not_match_all_interfaces(self) -> None:
        """A port on one interface is not the port on all interfaces."""
        self.assertEqual(self.matched(["tcp:8080:interface=127.0.0.1"], offer("tcp:0.0.0.0:8080")), [None])

    def test_gives_each_socket_of_one_address_once(self) -> None:
        """Each of several sockets with one address is given once, in order."""
        offered = [offer("tcp:0.0.0.0:80", number) for number in range(2)]
        self.assertEqual(self.matched(["tcp:80"] * 3, *offered), [0, 1, None])

    def test_matches_port_chosen_by_kernel_as_requested(self) -> None:
        """A port that the kernel has chosen matches the address that requested it, and its number."""
        offered = offer("tcp:0", name="tcp:0.0.0.0:41234")
        self.assertEqual(self.matched(["tcp:0"], offered), [0])
        self.assertEqual(self.matched(["tcp:41234"], offered), [0])
        self.assertEqual(self.matched(["tcp:0:interface=127.0.0.1"], offered), [None])

    def test_matches_passed_descriptor_by_number_name_or_address(self) -> None:
        """A descriptor that was passed to the first process matches by its number, its name, or its address."""
        offered = offer("fd:3", name="tcp:0.0.0.0:80"), offer("systemd:domain=UNIX:index=0", name="unix:/run/a")
        self.assertEqual(self.matched(["systemd:domain=UNIX:index=0", "fd:3"], *offered), [1, 0])
        self.assertEqual(self.matched(["unix:/run/a", "tcp:80"], *offered), [1, 0])

    def test_prefers_address_that_is_written_the_same(self) -> None:
        """A socket is kept for the address that is written in the same way."""
        offered = offer("fd:3", name="tcp:0.0.0.0:80")
        self.assertEqual(self.matched(["tcp:80", "fd:3"], offered), [None, 0])

    def test_role_must_match(self) -> None:
        """A socket of the status page is not given to the application's clients."""
        offered = offer("tcp:0.0.0.0:80", role=STATUS)
        self.assertEqual(self.matched(["tcp:80"], offered), [None])
        self.assertEqual(self.matched(["tcp:80"], offered, role=STATUS), [0])

    def test_key_of_unknown_host_name_is_its_text(self) -> None:
        """An unknown host name is left for the binding to refuse."""
        text = "tcp:80:interface=no.such.host.invalid"
        self.assertEqual(key(parse(text)), text)


class SocketTests(SynchronousTestCase):
    """Real sockets are offered and adopted."""

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
        """Adopt a copy of a bound socket, as a successor does."""
        adopted = adopt(offered, os.dup(bound.socket.fileno()), parse(text))
        self.addCleanup(adopted.socket.close)
        return adopted

    def test_offer_survives_json(self) -> None:
        """An offer is the same after it was written and read as JSON."""
        path = os.path.join(self.directory, "a")
        unix, tcp = self.bound(f"unix:{path}"), self.bound("tcp:0:interface=127.0.0.1")
        control = BoundSocket("unix:/run/c", unix.socket)
        found = offers([(LISTEN, unix), (LISTEN, tcp), (LISTEN, tcp), (CONTROL, control)])
        self.assertEqual([one.address for one in found][:3], [f"unix:{path}", *["tcp:0:interface=127.0.0.1"] * 2])
        self.assertEqual([one.index for one in found], [0, 0, 1, 0])
        self.assertEqual((found[0].path, found[0].inode), (path, unix.inode))
        self.assertEqual([Offer.read(json.loads(json.dumps(one.describe()))) for one in found], found)

    def test_refuses_unknown_description(self) -> None:
        """A description that is not understood is refused in one line."""
        good = offer("tcp:0.0.0.0:80").describe()
        for said in (None, [], {}, {**good, "inode": [1]}, {**good, "index": "x"}, {**good, "inode": 5}):
            self.assertNotIn("\n", str(self.assertRaises(BadOffer, Offer.read, said)))

    def test_adopted_socket_is_shared_until_inherited(self) -> None:
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

    def test_holder_listens_after_successor_failed(self) -> None:
        """A successor that fails closes what it has adopted, and the holder goes on listening."""
        path = os.path.join(self.directory, "a")
        for text in ("tcp:0:interface=127.0.0.1", f"unix:{path}"):
            bound = self.bound(text)
            (offered,) = offers([(LISTEN, bound)])
            self.adopted(offered, bound, text).close()
            with socket.socket(bound.socket.family) as client:
                client.connect(bound.socket.getsockname())

    def test_adopted_socket_admits_new_connections(self) -> None:
        """A filter against new connections that the predecessor has set is removed."""
        bound = self.bound("tcp:0:interface=127.0.0.1")
        if not filter_new(bound.socket):
            bound.socket.setsockopt(socket.IPPROTO_IP, 21, 255)
        (offered,) = offers([(LISTEN, bound)])
        self.adopted(offered, bound, "tcp:0:interface=127.0.0.1")
        with socket.create_connection(bound.socket.getsockname(), timeout=2):
            pass

    def test_refuses_and_closes_what_does_not_listen(self) -> None:
        """A descriptor that does not listen, or is not a socket, is refused and closed."""
        address = parse("tcp:80")
        reading, writing = os.pipe()
        self.addCleanup(os.close, writing)
        with socket.socket() as mute:
            for descriptor in (reading, os.dup(mute.fileno())):
                refusal = self.assertRaises(BadOffer, adopt, offer("tcp:0.0.0.0:80"), descriptor, address)
                self.assertIn("tcp:0.0.0.0:80", str(refusal))
                self.assertRaises(OSError, os.fstat, descriptor)

    def test_removed_path_is_not_reachable(self) -> None:
        """New clients cannot reach a Unix socket whose path was removed."""
        path = os.path.join(self.directory, "a")
        (offered,) = offers([(LISTEN, self.bound(f"unix:{path}"))])
        self.assertTrue(reachable(offered))
        os.unlink(path)
        self.assertFalse(reachable(offered))
        self.assertTrue(reachable(offer("tcp:0.0.0.0:80")))
