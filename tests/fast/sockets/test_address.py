"""What `--listen` strings mean."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

import graceful
from graceful.sockets.address import BACKLOG, Address, parse


class MeaningTests(SynchronousTestCase):
    """Strings that are understood."""

    def test_tcp(self) -> None:
        """A port alone means all IPv4 addresses, and our own backlog."""
        self.assertEqual(parse("tcp:8080"), Address("tcp", "tcp:8080", port=8080, backlog=BACKLOG))

    def test_tcp_options(self) -> None:
        """Interface and backlog may be given by name or, as Twisted has it, by position."""
        for text in (
            "tcp:80:interface=127.0.0.1:backlog=5",
            "tcp:80:127.0.0.1:5",
            "tcp:backlog=5:port=80:interface=127.0.0.1",
        ):
            self.assertEqual(parse(text), Address("tcp", text, port=80, interface="127.0.0.1", backlog=5))

    def test_tcp6(self) -> None:
        """An IPv6 address has its colons escaped; after `tcp:` it means IPv6, as Twisted has it."""
        for text in (r"tcp6:80:interface=\:\:1", r"tcp:80:interface=\:\:1"):
            self.assertEqual(parse(text), Address("tcp6", text, port=80, interface="::1"))
        self.assertEqual(parse("tcp6:80").interface, "")

    def test_unix(self) -> None:
        """A path may hold escaped colons and plain equals signs after its name; the mode is octal."""
        address = parse(r"unix:/run/a\:b.sock:mode=660:backlog=7")
        self.assertEqual((address.kind, address.path), ("unix", "/run/a:b.sock"))
        self.assertEqual((address.mode, address.backlog), (0o660, 7))
        self.assertEqual(parse("unix:address=/run/a=b").path, "/run/a=b")
        self.assertEqual(parse("unix:/run/app.sock").mode, 0o666)

    def test_fd(self) -> None:
        """A descriptor is a number."""
        self.assertEqual(parse("fd:3"), Address("fd", "fd:3", fd=3))

    def test_systemd(self) -> None:
        """A socket of systemd's is meant by its index or by its name."""
        self.assertEqual(
            parse("systemd:domain=INET:index=0"),
            Address("systemd", "systemd:domain=INET:index=0", domain="INET", index=0),
        )
        named = parse("systemd:domain=UNIX:name=web")
        self.assertEqual((named.domain, named.index, named.name), ("UNIX", None, "web"))

    def test_everything_else(self) -> None:
        """Any other prefix is left to the endpoint plugin of that name, with all its options."""
        for text in ("ssl:443:privateKey=k.pem", "haproxy:tcp:80", "stdio"):
            self.assertEqual(parse(text), Address("plugin", text))

    def test_no_reactor(self) -> None:
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

    def test_ports(self) -> None:
        """A port is a number from 0 to 65535, written in plain digits."""
        for port in ("http", "65536", "-1", "+80", "8_0", " 80", "٨٠"):
            self.assert_refused(f"tcp:{port}", "port", "65535")
        for text in ("tcp", "tcp:", "tcp6:interface=x"):
            self.assert_refused(text, "no port")

    def test_options(self) -> None:
        """An unknown option, one given twice and a field too many are named."""
        self.assert_refused("tcp:80:reuse=1", "unknown option reuse=", "interface")
        self.assert_refused("tcp:80:backlog=1:backlog=2", "backlog", "twice")
        self.assert_refused("tcp:80:port=81", "port twice")
        self.assert_refused("tcp:80:::1", "too many", "quote a colon")
        self.assert_refused("tcp:80:backlog=0", "backlog", "1 to 65535")

    def test_unix(self) -> None:
        """A path must be there and fit into a socket's address; a mode is octal."""
        self.assert_refused("unix:", "no path")
        self.assert_refused("unix:mode=660", "no path")
        self.assert_refused("unix:/" + "a" * 107, "107 bytes")
        self.assert_refused("unix:/run/x:mode=888", "mode '888'", "777", "octal")
        self.assert_refused("unix:/run/x:mode=1777", "mode")

    def test_descriptors(self) -> None:
        """`fd:` and `systemd:` say exactly which socket."""
        self.assert_refused("fd:", "no descriptor")
        self.assert_refused("fd:x", "descriptor 'x'")
        self.assert_refused("systemd:domain=INET", "index= or by name=")
        self.assert_refused("systemd:domain=INET:index=0:name=x", "index= or by name=")
        self.assert_refused("systemd:index=0", "domain ''")
        self.assert_refused("systemd:domain=INET:index=first", "index 'first'")

    def test_backslash(self) -> None:
        """A backslash at the end has nothing to quote."""
        self.assert_refused("unix:/run/x\\", "backslash")
