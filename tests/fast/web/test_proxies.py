"""Who the client is behind proxies, and who is believed."""

from __future__ import annotations

import timeit

from twisted.trial.unittest import SynchronousTestCase

from graceful.config.values import parse_network
from graceful.web import proxies
from graceful.web.proxies import Forwarded, TrustedProxies

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8:f::/48", "unix"])
PEER = "10.0.0.1"


def client(*fields: tuple[str, str], peer: str = PEER) -> Forwarded:
    """What a request with these fields says, that came from a trusted peer."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
    return PROXIES.client([(b"Host", b"example.org"), *headers], peer)


def address_of(*values: str, name: str = "X-Forwarded-For") -> str:
    """The address that a list, in one or more fields, names."""
    return client(*((name, value) for value in values)).address


class TrustTests(SynchronousTestCase):
    """Whose fields are looked at."""

    def test_a_peer_in_a_network_is_trusted(self) -> None:
        """A peer in one of the networks is trusted, whatever its family; another is not."""
        for peer in ("10.0.0.1", "10.255.255.255", "2001:db8:f::1"):
            self.assertTrue(PROXIES.trusts(peer), peer)
        for peer in ("11.0.0.1", "9.255.255.255", "2001:db8:e::1", "127.0.0.1", "::1"):
            self.assertFalse(PROXIES.trusts(peer), peer)

    def test_a_mapped_ipv4_peer_is_the_same_peer(self) -> None:
        """An IPv4 peer on an IPv6 socket is the same peer."""
        self.assertTrue(PROXIES.trusts("::ffff:10.0.0.1"))
        self.assertFalse(PROXIES.trusts("::ffff:11.0.0.1"))
        self.assertTrue(TrustedProxies(["::ffff:10.0.0.0/104"]).trusts("10.1.2.3"))

    def test_the_interface_of_a_link_local_peer_does_not_matter(self) -> None:
        """The interface that a link-local peer's address names does not matter."""
        self.assertTrue(TrustedProxies(["fe80::/10"]).trusts("fe80::1%eth0"))

    def test_a_unix_peer_is_trusted_if_unix_is_named(self) -> None:
        """A peer on a Unix socket is trusted if the word says so."""
        self.assertTrue(PROXIES.trusts(None))
        self.assertFalse(TrustedProxies(["10.0.0.0/8"]).trusts(None))

    def test_trusts_no_peer_without_networks(self) -> None:
        """Without networks no peer is trusted, and the object is false."""
        nobody = TrustedProxies([])
        self.assertFalse(nobody)
        self.assertFalse(nobody.trusts("127.0.0.1") or nobody.trusts(None) or nobody.trusts("0.0.0.0"))
        self.assertTrue(PROXIES)
        self.assertTrue(TrustedProxies(["unix"]))

    def test_not_an_address(self) -> None:
        """A peer without an address is not trusted."""
        self.assertFalse(TrustedProxies(["0.0.0.0/0", "::/0"]).trusts(""))

    def test_a_network_may_be_a_single_address(self) -> None:
        """A network may be a single address."""
        one = TrustedProxies(["192.0.2.7"])
        self.assertTrue(one.trusts("192.0.2.7"))
        self.assertFalse(one.trusts("192.0.2.8"))

    def test_bad_networks_are_refused(self) -> None:
        """What is no network is refused, and so is one with bits behind its prefix."""
        for text in ("", "x", "10.0.0.0/33", "10.0.0.1/8", "fe80::1%eth0", "Unix"):
            self.assertRaises(ValueError, parse_network, text)
            self.assertRaises(ValueError, TrustedProxies, [text])


class XForwardedForTests(SynchronousTestCase):
    """The walk through X-Forwarded-For."""

    def test_peer_is_the_client_without_fields(self) -> None:
        """Without any field, the client is the peer."""
        self.assertEqual(client(), Forwarded(PEER, None, None))
        self.assertEqual(client(peer=""), Forwarded("", None, None))

    def test_single_entry_is_the_client(self) -> None:
        """What the peer says is the client."""
        self.assertEqual(address_of("192.0.2.1"), "192.0.2.1")
        self.assertEqual(client(("x-forwarded-FOR", "192.0.2.1"), peer="").address, "192.0.2.1")

    def test_entries_left_of_the_first_untrusted_address_do_not_count(self) -> None:
        """What stands left of the first untrusted address was written by the client, and does not count."""
        self.assertEqual(address_of("127.0.0.1, 192.0.2.1"), "192.0.2.1")
        self.assertEqual(address_of("10.9.9.9, 192.0.2.1"), "192.0.2.1")

    def test_trusted_proxies_are_skipped_in_their_order(self) -> None:
        """Trusted proxies are walked past, also over several fields, in their order."""
        self.assertEqual(address_of("6.6.6.6, 192.0.2.1, 10.0.0.3,10.0.0.2"), "192.0.2.1")
        self.assertEqual(address_of("6.6.6.6, 192.0.2.1", "10.0.0.3", "2001:db8:f::2"), "192.0.2.1")

    def test_if_all_are_trusted_the_farthest_is_the_client(self) -> None:
        """If all are trusted, the farthest one asked."""
        self.assertEqual(address_of("10.0.0.4, 10.0.0.3"), "10.0.0.4")

    def test_invalid_entry_ends_the_walk(self) -> None:
        """An entry that is no address ends the walk at the last good one."""
        for rubbish in (
            *("unknown", "_hidden", "x", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.4:", "1.2.3.4:x"),
            *("1.2.3.4:123456", "[1.2.3.4]x", "[::1", "::1]", "[]", ":", "1::2::3", "fe80::1%eth0", "[fe80::1%25x]"),
            *(
                "1.2.3.4/8",
                '"1.2.3.4"',
                "1.2.3.4 5.6.7.8",
                "1.2.3.4;5.6.7.8",
                "\u0661.2.3.4".encode().decode("latin-1"),
            ),
            *("1" * 5000, ":" * 5000, "-1.2.3.4", "1.2.3.4\x00", "1.2.3.4\n"),
        ):
            self.assertEqual(address_of(f"192.0.2.1, {rubbish}"), PEER, rubbish)
            self.assertEqual(address_of(f"192.0.2.1, {rubbish}, 10.0.0.2"), "10.0.0.2", rubbish)

    def test_empty_entries_do_not_count(self) -> None:
        """Empty entries are none (RFC 9110 section 5.6.1)."""
        for value in ("", " ", ",", ", ,\t,"):
            self.assertEqual(address_of(value), PEER)
        self.assertEqual(address_of(", 192.0.2.1 ,, 10.0.0.2 ,"), "192.0.2.1")

    def test_ports_and_brackets(self) -> None:
        """A port is taken off, and so are the brackets of an IPv6 address."""
        for value in ("192.0.2.1:4711", "[::ffff:192.0.2.1]", "::ffff:192.0.2.1", "[::ffff:c000:201]:80"):
            self.assertEqual(address_of(value), "192.0.2.1", value)
        for value in ("2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:443", "2001:0DB8:0:0::0001"):
            self.assertEqual(address_of(value), "2001:db8::1", value)

    def test_only_the_last_16_proxies_are_read(self) -> None:
        """A list longer than any real one is looked at from its end, up to 16 proxies."""
        fifteen = ", ".join(["10.0.0.2"] * 15)
        self.assertEqual(address_of(f"192.0.2.1, {fifteen}"), "192.0.2.1")
        self.assertEqual(address_of(f"192.0.2.1, 10.0.0.3, {fifteen}"), "10.0.0.3")
        self.assertEqual(address_of(f"192.0.2.1, 10.0.0.4, 10.0.0.3, {fifteen}"), "10.0.0.3")


class ForwardedTests(SynchronousTestCase):
    """The walk through Forwarded (RFC 7239)."""

    def test_the_forms_of_rfc_7239_are_understood(self) -> None:
        """The forms of RFC 7239 are understood."""
        for value, address in {
            "for=192.0.2.60;proto=http;by=203.0.113.43": "192.0.2.60",
            'For="[2001:db8:cafe::17]:4711"': "2001:db8:cafe::17",
            'for="192.0.2.43:47011"': "192.0.2.43",
            "for=192.0.2.43, for=198.51.100.17": "198.51.100.17",
            "for=192.0.2.43,for=10.0.0.5;by=10.0.0.9": "192.0.2.43",
            'for="192.0.2.43:_p.1-x"': "192.0.2.43",
            'for="[2001:db8::1]:_p"': "2001:db8::1",
            'for="192.0.2.43:_"': PEER,
            'for="192.0.2.43:p"': PEER,
            'for="_gazonk"': PEER,
            "for=unknown": PEER,
            "for=_SEVKISEK": PEER,
            'for=192.0.2.43, for="_SEVKISEK", for=10.0.0.5': "10.0.0.5",
            'by="_a;b,c";host="x,y;z"; for=192.0.2.43': "192.0.2.43",
            "proto=https": PEER,
        }.items():
            self.assertEqual(address_of(value, name="Forwarded"), address, value)

    def test_several_fields_are_one_list(self) -> None:
        """Several fields are one list, in their order."""
        self.assertEqual(address_of("for=6.6.6.6", "for=192.0.2.1, for=10.0.0.3", name="forwarded"), "192.0.2.1")

    def test_a_malformed_element_ends_the_walk(self) -> None:
        """A malformed element ends the walk at the last good one."""
        for rubbish in (
            *(
                "for",
                "for=1.2.3.4;for=1.2.3.4",
                'for="1.2.3.4',
                'for=1.2.3.4"',
                'for="1.2.3.4\\"',
                "=1.2.3.4",
                "for==",
            ),
            *("for = 1.2.3.4", "for=1.2.3.4 proto=http", "1.2.3.4", 'for="1.2.3.4"x', ";", "for=", 'for=""'),
        ):
            self.assertEqual(address_of(f"for=192.0.2.1, {rubbish}", name="Forwarded"), PEER, rubbish)

    def test_an_open_quote_does_not_swallow_what_proxies_appended(self) -> None:
        """A quote that a client left open does not swallow what the proxies appended."""
        for forged in ('for="', 'for=6.6.6.6;host="x', '"', 'for="\\', 'x="y\\"'):
            value = f"{forged}, for=192.0.2.1, for=10.0.0.3"
            self.assertEqual(address_of(value, name="Forwarded"), "192.0.2.1", forged)

    def test_empty_elements_do_not_count(self) -> None:
        """Empty elements are none (RFC 9110 section 5.6.1)."""
        for value in ("", " ", ",,", ", \t,"):
            self.assertEqual(address_of(value, name="Forwarded"), PEER)
        self.assertEqual(address_of(" ,for=192.0.2.1,, for=10.0.0.2 ,", name="Forwarded"), "192.0.2.1")

    def test_only_the_end_of_a_long_list_is_read(self) -> None:
        """A long list is looked at from its end, 16 elements and 4,096 characters, never a part of an element."""
        fifteen = ", ".join(["for=10.0.0.2"] * 15)
        self.assertEqual(address_of(f"for=192.0.2.1, {fifteen}", name="Forwarded"), "192.0.2.1")
        self.assertEqual(address_of(f"for=192.0.2.1, for=10.0.0.3, {fifteen}", name="Forwarded"), "10.0.0.3")
        padding = "x=" + "y" * (4096 - len("for=192.0.2.1;x=, for=10.0.0.2"))
        long = f"for=192.0.2.1;{padding}, for=10.0.0.2"
        self.assertEqual(address_of(long, name="Forwarded"), "192.0.2.1")
        for more in ("z", "z=", "z=1;", "for=6.6.6.6, z=1;"):
            self.assertEqual(address_of(more + long, name="Forwarded"), "10.0.0.2", more)


class SchemeTests(SynchronousTestCase):
    """Whether the client spoke TLS."""

    def test_x_forwarded_proto(self) -> None:
        """http and https in any case are taken, anything else is not."""
        for value, scheme in {"https": "https", "HTTP": "http", "ftp": None, "": None, "https;": None}.items():
            self.assertEqual(client(("X-Forwarded-Proto", value)).scheme, scheme, value)

    def test_beside_the_address(self) -> None:
        """The scheme counts that was written by the proxy that wrote the client's address."""
        chain = ("X-Forwarded-For", "6.6.6.6, 192.0.2.1, 10.0.0.3, 10.0.0.2")
        self.assertEqual(client(chain, ("X-Forwarded-Proto", "https, http, https, https")).scheme, "http")
        self.assertEqual(client(chain, ("X-Forwarded-Proto", "https")).scheme, "https")
        self.assertEqual(client(chain, ("X-Forwarded-Proto", "https, http")).scheme, "https")

    def test_without_a_chain_the_peers_scheme_counts(self) -> None:
        """Without a chain, what the peer appended counts, not what the client wrote before it."""
        self.assertEqual(client(("X-Forwarded-Proto", "https, http")).scheme, "http")
        self.assertEqual(client(("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "http")).scheme, "http")

    def test_forwarded_tells_the_scheme_beside_the_clients_address(self) -> None:
        """Forwarded says it in the element of the client's address, or next to it."""
        for value, scheme in {
            "for=192.0.2.1;proto=https": "https",
            "proto=HTTPS;for=192.0.2.1": "https",
            "for=192.0.2.1;proto=ftp": None,
            "for=6.6.6.6;proto=https, for=192.0.2.1": None,
            "for=192.0.2.1;proto=http, for=10.0.0.2;proto=https": "http",
            "for=192.0.2.1, for=10.0.0.2;proto=https": "https",
            "for=unknown;proto=https": "https",
            "for=_x;proto=https;;": None,
        }.items():
            self.assertEqual(client(("Forwarded", value)).scheme, scheme, value)


class BothTests(SynchronousTestCase):
    """Both families of fields in one request: one may be the client's own."""

    def test_x_forwarded_for_wins_over_forwarded(self) -> None:
        """X-Forwarded-For wins, even if it says nothing, and whatever the order."""
        older, newer = ("X-Forwarded-For", "192.0.2.1"), ("Forwarded", "for=127.0.0.1")
        self.assertEqual(client(older, newer).address, "192.0.2.1")
        self.assertEqual(client(newer, older).address, "192.0.2.1")
        self.assertEqual(client(newer, ("X-Forwarded-For", "unknown")).address, PEER)

    def test_x_forwarded_proto_wins_over_forwarded(self) -> None:
        """X-Forwarded-Proto wins, even if it says nothing."""
        newer = ("Forwarded", "for=192.0.2.1;proto=https")
        self.assertEqual(client(newer, ("X-Forwarded-Proto", "http")), Forwarded("192.0.2.1", "http", None))
        self.assertEqual(client(newer, ("X-Forwarded-Proto", "x")), Forwarded("192.0.2.1", None, None))

    def test_each_for_itself(self) -> None:
        """What one family is silent about, the other may say."""
        self.assertEqual(
            client(("X-Forwarded-For", "192.0.2.1"), ("Forwarded", "for=6.6.6.6;proto=https")),
            Forwarded("192.0.2.1", "https", None),
        )


class RequestIdTests(SynchronousTestCase):
    """X-Request-Id."""

    def test_printable_id_is_taken(self) -> None:
        """Up to 128 printable characters are taken as they are."""
        for value in ("f058ebd6-02f7-4d3f-942e-904344e8cde5", "a", "!#[]~/=+", "x" * 128):
            self.assertEqual(client(("X-Request-Id", value)).request_id, value)

    def test_unsafe_or_long_id_is_ignored(self) -> None:
        """What could break or forge a line of a log is ignored, and so is what is too long."""
        for value in ("", "x" * 129, "a b", 'a"b', "a\\b", "a\tb", "a\n", "\xe9", "a\x7f", "\x00"):
            self.assertIsNone(client(("X-Request-Id", value)).request_id, value)

    def test_the_last_request_id_counts(self) -> None:
        """Of several, the last counts, which the nearest proxy wrote."""
        self.assertEqual(client(("X-Request-Id", "a"), ("X-REQUEST-ID", "b")).request_id, "b")


class WorkTests(SynchronousTestCase):
    """How much work a request can make."""

    def test_the_worst_head_costs_milliseconds(self) -> None:
        """The worst 64 KiB that a head can hold cost milliseconds, not seconds."""
        for name, value in (
            *((name, "," * 65000) for name in ("X-Forwarded-For", "X-Forwarded-Proto", "Forwarded")),
            *(
                ("Forwarded", text * (65000 // len(text)))
                for text in ('"', 'for="', 'a="b";', "a=;", " ", "\t;", ";=")
            ),
            ("Forwarded", 'for="' + " " * 65000),
            ("Forwarded", "a" * 65000 + "="),
            ("X-Forwarded-For", "1" * 65000),
            ("X-Forwarded-For", ":1" * 32000),
            ("X-Forwarded-For", "10.0.0.2," * 7000),
        ):
            seconds = min(timeit.repeat(lambda n=name, v=value: client((n, v)), number=1, repeat=3))  # type: ignore[misc]
            self.assertLess(seconds, 0.1, (name, value[:20]))

    def test_what_is_remembered_is_bounded(self) -> None:
        """However many names, addresses and lists come, and however long: few are kept, and only short ones."""
        trusted = TrustedProxies(["10.0.0.0/8"])
        for number in range(3000):
            trusted.client([(b"X-%d" % number, b"1"), (b"X-Forwarded-For", b"192.0.2.1, 10.0.0.%d" % number)], PEER)
        self.assertLessEqual(len(proxies._names), 1024)
        self.assertLessEqual(trusted._told_shortly.cache_info().currsize, 1024)
        long = TrustedProxies(["10.0.0.0/8"])
        long.client([(b"X-Forwarded-For", b"1" * 200), (b"X-Forwarded-Proto", b"https" * 20)], PEER)
        long.client([(b"X-Forwarded-For", b"192.0.2.1, " + b"1" * 200)], PEER)
        self.assertEqual(long._told_shortly.cache_info().currsize, 1)
        self.assertEqual(long._judge_short.cache_info().currsize, 0)
