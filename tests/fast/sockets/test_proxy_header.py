"""The PROXY protocol's header: what is told, what is refused, and how much is read."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from graceful.sockets.proxy_header import LONGEST, LONGEST_LINE, BadHeader, ProxyHeader, Told
from tests.support.examples import examples

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 80\r\n"
CLIENT = ("192.0.2.1", 50000)
THERE = ("198.51.100.1", 80)
INET = socket.inet_aton(CLIENT[0]) + socket.inet_aton(THERE[0]) + struct.pack(">HH", CLIENT[1], THERE[1])


def vector(kind: int, value: bytes) -> bytes:
    """A type, a length and a value."""
    return struct.pack(">BH", kind, len(value)) + value


def binary(block: bytes = INET, family: int = 0x11, command: int = 0x21) -> bytes:
    """A header of version 2."""
    return SIGNATURE + struct.pack(">BBH", command, family, len(block)) + block


def by_tls(client: int, verify: int = 0, *more: bytes) -> bytes:
    """What is told of a client's TLS."""
    return vector(0x20, struct.pack(">BI", client, verify) + b"".join(more))


def read(header: bytes, behind: bytes = b"GET / ") -> Told | None:
    """What a whole header tells, whose end is found."""
    reader = ProxyHeader()
    assert reader.feed(header + behind) == len(header)
    assert reader.done
    return reader.told


class LineTests(SynchronousTestCase):
    """Version 1."""

    def test_the_client_of_a_line_is_told(self) -> None:
        """For both families; the unknown client is not."""
        self.assertEqual(read(LINE), Told(CLIENT, THERE))
        self.assertEqual(
            read(b"PROXY TCP6 2001:db8::1 2001:db8:0::2 1 65535\r\n"),
            Told(("2001:db8::1", 1), ("2001:db8::2", 65535)),
        )
        self.assertIsNone(read(b"PROXY UNKNOWN\r\n"))
        self.assertIsNone(read(b"PROXY UNKNOWN ffff:f... what ever\r\n"))

    def test_a_line_that_is_no_header_is_refused(self) -> None:
        """Also one that other receivers would take."""
        for line in (
            b"GET / HTTP/1.1\r\n",
            b"PROXY\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 80\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 50000\r\n",
            b"PROXY TCP4 192.0.2.1  198.51.100.1 50000 80\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 65536\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 -1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 \xb2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 05000 80\r\n",
            b"PROXY TCP4 192.0.2.256 198.51.100.1 50000 80\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 50000 80\r\n",
            b"PROXY TCP6 192.0.2.1 198.51.100.1 50000 80\r\n",
            b"PROXY TCP6 fe80::1%eth0 2001:db8::2 50000 80\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.1 50000 80\r\n",
            b"PROXY TCP4 " + b"1" * LONGEST_LINE,
            b"PROXY UNKNOWN " + b"x" * LONGEST_LINE + b"\r\n",
        ):
            with self.assertRaises(BadHeader, msg=line):
                ProxyHeader().feed(line)


class BinaryTests(SynchronousTestCase):
    """Version 2."""

    def test_each_family_of_addresses_is_told(self) -> None:
        """IPv4, IPv6, and Unix sockets, which have none."""
        self.assertEqual(read(binary()), Told(CLIENT, THERE))
        six = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "::1")
        self.assertEqual(read(binary(six + b"\0\1\0\2", 0x21)), Told(("2001:db8::1", 1), ("::1", 2)))
        self.assertEqual(read(binary(b"/run/x".ljust(216, b"\0"), 0x31)), Told(None, None))

    def test_a_connection_of_the_proxys_own_tells_nothing(self) -> None:
        """A health check (LOCAL), whatever else it says, and a client that the proxy does not know."""
        for header in (
            binary(b"", 0, 0x20),
            binary(INET, 0x11, 0x20),
            binary(b"rubbish", 0xFF, 0x20),
            binary(b"", 0),
            binary(b"any", 0),
        ):
            self.assertIsNone(read(header), header)

    def test_unknown_values_are_passed_over(self) -> None:
        """What is behind the addresses may be anything that has a type and a length."""
        more = vector(0x04, b"\0" * 30) + vector(0xEA, b"vpce-1") + vector(0x05, b"")
        self.assertEqual(read(binary(INET + more)), Told(CLIENT, THERE))

    def test_the_clients_tls_is_told(self) -> None:
        """With the names that mod_ssl has; a subject only if it is verified."""
        version, subject, cipher = vector(0x21, b"TLSv1.3"), vector(0x22, b"J\xc3\xb6rg"), vector(0x23, b"AES")
        told = read(binary(INET + vector(0x04, b"") + by_tls(1, 0, version, cipher)))
        facts = {"SSL_PROTOCOL": "TLSv1.3", "SSL_CIPHER": "AES"}
        self.assertEqual(told, Told(CLIENT, THERE, True, {**facts, "SSL_CLIENT_VERIFY": "NONE"}))
        told = read(binary(INET + by_tls(3, 0, subject)))
        verified = {"SSL_CLIENT_VERIFY": "SUCCESS", "SSL_CLIENT_S_DN_CN": "J\xc3\xb6rg"}
        self.assertEqual(told, Told(CLIENT, THERE, True, verified))
        for header in (by_tls(3, 1, subject), by_tls(5, 2**32 - 1, subject)):
            self.assertEqual(read(binary(INET + header)), Told(CLIENT, THERE, True, {"SSL_CLIENT_VERIFY": "FAILED"}))
        self.assertEqual(read(binary(INET + by_tls(1, 1, subject))).facts, {"SSL_CLIENT_VERIFY": "NONE"})  # type: ignore[union-attr]
        self.assertEqual(read(binary(INET + by_tls(0, 0, version))), Told(CLIENT, THERE))

    def test_what_is_no_header_is_refused(self) -> None:
        """Another version, command, family or transport; values that do not fit."""
        for header in (
            SIGNATURE[:-1] + b"X",
            binary(command=0x11),
            binary(command=0x22),
            binary(family=0x12),
            binary(family=0x10),
            binary(family=0x41),
            binary(INET[:-1]),
            binary(INET, 0x21),
            binary(INET + b"\x04\0"),
            binary(INET + b"\x04\0\2x"),
            binary(INET + vector(0x20, b"\1\0\0\0")),
            binary(INET + by_tls(1, 0, b"\x21\xff\xff")),
            binary(INET + vector(0x04, b"x" * LONGEST)),
        ):
            with self.assertRaises(BadHeader, msg=header[:40]):
                ProxyHeader().feed(header)

    def test_an_endless_header_is_refused_by_its_length(self) -> None:
        """Before any more of it is read."""
        with self.assertRaises(BadHeader):
            ProxyHeader().feed(SIGNATURE + b"\x21\x11\xff\xff")


class TornTests(SynchronousTestCase):
    """A header in pieces."""

    @examples(100)
    @given(
        header=st.sampled_from([LINE, binary(), binary(INET + by_tls(1)), binary(b"", 0, 0x20)]),
        sizes=st.lists(st.integers(1, 20), min_size=60, max_size=60),
        behind=st.binary(max_size=30),
    )
    def test_a_torn_header_ends_at_the_same_byte(self, header: bytes, sizes: list[int], behind: bytes) -> None:
        """However it is cut; what is behind it is not touched."""
        reader, data, taken = ProxyHeader(), header + behind, 0
        for size in sizes:
            if reader.done or taken == len(data):
                break
            taken += reader.feed(data[taken : taken + size])
        self.assertEqual((reader.done, taken), (True, len(header)))
        self.assertEqual(reader.told, read(header))

    @examples(500)
    @given(
        data=st.one_of(
            st.binary(max_size=300),
            st.binary(max_size=300).map(lambda more: SIGNATURE + more),
            st.binary(max_size=120).map(lambda more: b"PROXY " + more),
            st.tuples(st.sampled_from([LINE, binary(INET + by_tls(3, 0, vector(0x22, b"x")))]), st.randoms()).map(
                lambda pair: bytes(byte if pair[1].random() < 0.95 else pair[1].randrange(256) for byte in pair[0])
            ),
        )
    )
    def test_any_bytes_end_by_a_rule(self, data: bytes) -> None:
        """They are taken, or refused; no more is taken than was shown, and nothing else is raised."""
        reader, taken = ProxyHeader(), 0
        try:
            while not reader.done and taken < len(data):
                count = reader.feed(data[taken : taken + 7])
                self.assertTrue(0 < count <= 7)
                taken += count
        except BadHeader:
            return
        self.assertLessEqual(taken, 16 + LONGEST)
