"""What `--listen` strings mean."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

import graceful
from graceful.sockets.address import BACKLOG, TLS, Address, parse
from graceful.takeover.offers import key


class MeaningTests(SynchronousTestCase):
    """Strings that are understood."""

    def test_a_port_alone_means_all_ipv4_addresses(self) -> None:
        """A port alone means all IPv4 addresses, and our own backlog."""
        self.assertEqual(parse("tcp:8080"), Address("tcp", "tcp:8080", port=8080, backlog=BACKLOG))

    def test_interface_and_backlog_are_given_by_name_or_position(self) -> None:
        """Interface and backlog may be given by name or, as Twisted has it, by position."""
        for text in (
            "tcp:80:interface=127.0.0.1:backlog=5",
            "tcp:80:127.0.0.1:5",
            "tcp:backlog=5:port=80:interface=127.0.0.1",
        ):
            self.assertEqual(parse(text), Address("tcp", text, port=80, interface="127.0.0.1", backlog=5))

    def test_an_escaped_ipv6_address_means_ipv6(self) -> None:
        """An IPv6 address has its colons escaped; after `tcp:` it means IPv6, as Twisted has it."""
        for text in (r"tcp6:80:interface=\:\:1", r"tcp:80:interface=\:\:1"):
            self.assertEqual(parse(text), Address("tcp6", text, port=80, interface="::1"))
        self.assertEqual(parse("tcp6:80").interface, "")

    def test_a_unix_path_may_have_escaped_colons_and_an_octal_mode(self) -> None:
        """A path may hold escaped colons and plain equals signs after its name; the mode is octal."""
        address = parse(r"unix:/run/a\:b.sock:mode=660:backlog=7")
        self.assertEqual((address.kind, address.path), ("unix", "/run/a:b.sock"))
        self.assertEqual((address.mode, address.backlog), (0o660, 7))
        self.assertEqual(parse("unix:address=/run/a=b").path, "/run/a=b")
        self.assertEqual(parse("unix:/run/app.sock").mode, 0o666)

    def test_a_descriptor_is_a_number(self) -> None:
        """A descriptor is a number."""
        self.assertEqual(parse("fd:3"), Address("fd", "fd:3", fd=3))

    def test_a_socket_of_systemd_is_named_by_index_or_name(self) -> None:
        """A socket of systemd's is meant by its index or by its name."""
        self.assertEqual(
            parse("systemd:domain=INET:index=0"),
            Address("systemd", "systemd:domain=INET:index=0", domain="INET", index=0),
        )
        named = parse("systemd:domain=UNIX:name=web")
        self.assertEqual((named.domain, named.index, named.name), ("UNIX", None, "web"))

    def test_any_other_prefix_is_left_to_its_endpoint_plugin(self) -> None:
        """Any other prefix is left to the endpoint plugin of that name, with all its options."""
        for text in ("ssl:443:privateKey=k.pem", "haproxy:tcp:80", "stdio"):
            self.assertEqual(parse(text), Address("plugin", text))

    def test_parsing_does_not_install_the_reactor(self) -> None:
        """Parsing happens while options are read, and must not choose the reactor."""
        code = (
            "import sys; import graceful.sockets.address, graceful.sockets.binding, graceful.sockets.listener;"
            "import graceful.sockets.endpoint_listener, graceful.process.startup, graceful.process.pidfile;"
            "import graceful.process.clock, graceful.process.exit;"
            "sys.exit('twisted.internet.reactor' in sys.modules or 'twisted.internet.endpoints' in sys.modules)"
        )
        checkout = os.path.dirname(os.path.dirname(graceful.__file__))
        environ = {**os.environ, "PYTHONPATH": f"{checkout}:{os.environ.get('PYTHONPATH', '')}"}
        done = subprocess.run([sys.executable, "-c", code], env=environ, timeout=30, check=False)
        self.assertEqual(done.returncode, 0)


class MistakeTests(SynchronousTestCase):
    """Strings that are refused, each with one line that names the string and the mistake."""

    def assert_refused(self, text: str, *words: str) -> None:
        """Assert that the line holds the text and all words."""
        refusal = str(self.assertRaises(ValueError, parse, text))
        for word in (repr(text), *words):
            self.assertIn(word, refusal)
        self.assertNotIn("\n", refusal)

    def test_nothing_like_an_endpoint(self) -> None:
        """A bare port is a common slip, and an empty string a shell's."""
        for text in ("8080", "", ":80"):
            self.assert_refused(text, "tcp:8080")

    def test_a_host_and_a_port_are_answered_with_the_endpoint(self) -> None:
        """What other servers take is answered with what to write here, which is an endpoint."""
        for text, endpoint in (
            ("127.0.0.1:8000", "tcp:8000:interface=127.0.0.1"),
            ("0.0.0.0:80", "tcp:80"),
            ("localhost:8000", "tcp:8000:interface=localhost"),
            ("www.example.org:80", "tcp:80:interface=www.example.org"),
            ("[::1]:8000", r"tcp6:8000:interface=\:\:1"),
            ("[::]:8000", "tcp6:8000"),
        ):
            refusal = str(self.assertRaises(ValueError, parse, text))
            self.assertEqual(refusal, f"{text!r} is not an endpoint: write {endpoint}")
            self.assertIn(parse(endpoint).kind, ("tcp", "tcp6"))

    def test_a_port_is_a_number_from_0_to_65535(self) -> None:
        """A port is a number from 0 to 65535, written in plain digits."""
        for port in ("http", "65536", "-1", "+80", "8_0", " 80", "٨٠"):
            self.assert_refused(f"tcp:{port}", "port", "65535")
        for text in ("tcp", "tcp:", "tcp6:interface=x"):
            self.assert_refused(text, "no port")

    def test_unknown_and_repeated_options_are_named(self) -> None:
        """An unknown option, one given twice and a field too many are named."""
        self.assert_refused("tcp:80:reuse=1", "unknown option reuse=", "interface")
        self.assert_refused("tcp:80:backlog=1:backlog=2", "backlog", "twice")
        self.assert_refused("tcp:80:port=81", "port twice")
        self.assert_refused("tcp:80:::1", "too many", "quote a colon")
        self.assert_refused("tcp:80:backlog=0", "backlog", "1 to 65535")

    def test_a_unix_path_must_be_there_and_fit(self) -> None:
        """A path must be there and fit into a socket's address; a mode is octal."""
        self.assert_refused("unix:", "no path")
        self.assert_refused("unix:mode=660", "no path")
        self.assert_refused("unix:/" + "a" * 107, "107 bytes")
        self.assert_refused("unix:/run/x:mode=888", "mode '888'", "777", "octal")
        self.assert_refused("unix:/run/x:mode=1777", "mode")

    def test_a_descriptor_must_say_which_socket(self) -> None:
        """`fd:` and `systemd:` say exactly which socket."""
        self.assert_refused("fd:", "no descriptor")
        self.assert_refused("fd:x", "descriptor 'x'")
        self.assert_refused("systemd:domain=INET", "index= or by name=")
        self.assert_refused("systemd:domain=INET:index=0:name=x", "index= or by name=")
        self.assert_refused("systemd:index=0", "domain ''")
        self.assert_refused("systemd:domain=INET:index=first", "index 'first'")

    def test_a_backslash_at_the_end_is_refused(self) -> None:
        """A backslash at the end has nothing to quote."""
        self.assert_refused("unix:/run/x\\", "backslash")


class SpokenTests(SynchronousTestCase):
    """What is spoken on a socket: a part of the string, not of the address."""

    def test_tls_has_certificates_each_with_its_key(self) -> None:
        """A key is in its certificate's file if it is not named; the socket is that of tcp."""
        address = parse("tls:8443:interface=127.0.0.1:certificate=a.pem:certificate=b.pem:key=b.key:client-ca=ca.pem")
        self.assertEqual((address.kind, address.port, address.interface), ("tcp", 8443, "127.0.0.1"))
        self.assertEqual(address.tls, TLS((("a.pem", "a.pem"), ("b.pem", "b.key")), "ca.pem"))
        self.assertEqual(parse("tls6:8443:certificate=a.pem").kind, "tcp6")
        self.assertEqual(parse("tls:8443:interface=\\:\\:1:certificate=a.pem").kind, "tcp6")
        self.assertEqual(parse("fd:3:certificate=a.pem").tls, TLS((("a.pem", "a.pem"),)))
        self.assertIsNone(parse("tcp:8080").tls)

    def test_proxies_may_be_several(self) -> None:
        """Each by a field of its own."""
        self.assertEqual(parse("tcp:8080:proxy=10.0.0.0/8:proxy=fd00\\:\\:/8").proxy, ("10.0.0.0/8", "fd00::/8"))
        self.assertIsNone(parse("tcp:8080").proxy)

    def test_two_strings_mean_the_same_socket_whatever_is_spoken(self) -> None:
        """So a deploy that changes it adopts the socket."""
        for text, other in (
            ("tls:8443:certificate=a.pem", "tcp:8443:proxy=10.0.0.0/8"),
            ("fd:3:certificate=a\\:b.pem:key=c", "fd:3"),
            ("systemd:domain=INET:proxy=unix:index=0", "systemd:domain=INET:index=0"),
            ("unix:/run/a\\:b:proxy=unix", "unix:/run/a\\:b"),
        ):
            self.assertEqual(key(parse(text)), key(parse(other)))

    def test_tls_that_lacks_something_is_refused(self) -> None:
        """The line says what to write."""
        for text, problem in (
            ("tls:8443", "has no certificate"),
            ("tcp:8443:certificate=a.pem", "write tls:"),
            ("tls:8443:key=a.pem:certificate=b.pem", "follows no certificate="),
            ("tls:8443:certificate=a.pem:key=b:key=c", "follows no certificate="),
            ("tls:8443:certificate=", "no path"),
            ("fd:3:client-ca=a.pem", "no certificate="),
            ("tls:8443:certificate=a:client-ca=b:client-ca=c", "twice"),
        ):
            with self.assertRaisesRegex(ValueError, problem):
                parse(text)
