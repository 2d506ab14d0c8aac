"""Certificates: what they say, which one a client gets, and which pairs are refused."""

from __future__ import annotations

import resource
import ssl
import tempfile
import time
from pathlib import Path
from random import Random
from typing import NoReturn

from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from graceful.sockets.address import TLS, parse
from graceful.tls.certificates import BadCertificate, Certificates, CertificateStore, limit_groups, load
from graceful.tls.client_hello import asked_name
from graceful.tls.watch import LOOK, SETTLED, CertificateWatch
from graceful.tls.x509 import BadDER, about_first
from tests.support.tls import Certificate


def named(context: ssl.SSLContext, name: str | None, tls: CertificateStore, configuration: TLS) -> str:
    """Returns the common name of the certificate that a client gets that asks for a name."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    back, forth = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(back, forth, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        hello = forth.read()
    asked = asked_name(hello)
    assert asked is not None
    server = tls.of(configuration).begin(incoming, outgoing, asked)
    incoming.write(hello)
    for _ in range(4):
        for session, sent, other in ((server, outgoing, back), (client, forth, incoming)):
            try:
                session.do_handshake()
            except ssl.SSLWantReadError:
                pass
            other.write(sent.read())
    whole = client.getpeercert(binary_form=True)
    assert whole is not None
    return about_first(ssl.DER_cert_to_PEM_cert(whole)).names[-1]


class CertificateCase(SynchronousTestCase):
    """Certificates in a directory."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.one = Certificate(self.directory, "one.pem", ["one.example", "*.one.example"], days=10)
        self.two = Certificate(self.directory, "two.pem", ["two.example"], days=20)

    def configuration(self, *more: str) -> TLS:
        """Returns the configuration of a listener with the first certificate, and more."""
        tls = parse(":".join([f"tls:8443:certificate={self.one.path}", *more])).tls
        assert tls is not None
        return tls

    def lines(self) -> list[str]:
        """Returns where the lines of the log go from now on."""
        lines: list[str] = []
        observer = lambda event: lines.append(formatEvent(event))  # noqa: E731
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        return lines


class LoadTests(CertificateCase):
    """What is loaded, and what is refused."""

    def test_a_certificate_says_whom_it_is_for_and_until_when(self) -> None:
        """Its DNS names and addresses, or else its common name."""
        about = about_first(self.one.path.read_text())
        self.assertEqual(set(about.names), {"127.0.0.1", "one.example", "*.one.example"})
        self.assertLess(abs(about.ends - time.time() - 10 * 86400), 120)
        for text in ("", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "rubbish"):
            self.assertRaises(BadDER, about_first, text)

    def test_whatever_bytes_stand_in_a_file_it_is_read_or_refused(self) -> None:
        """In a line: no other exception comes of them."""
        _, begin, body = self.one.path.read_text().partition("-----BEGIN CERTIFICATE-----")
        der, generator = ssl.PEM_cert_to_DER_cert(begin + body), Random(1)
        for _ in range(3000):
            data = bytearray(der[: generator.choice((len(der), generator.randrange(len(der))))])
            for _ in range(generator.randrange(4) if data else 0):
                data[generator.randrange(len(data))] = generator.choice(
                    (0, 1, 0x30, 0x80, 0xFF, generator.randrange(256))
                )
            try:
                about_first(ssl.DER_cert_to_PEM_cert(bytes(data)))
            except BadDER:
                pass

    def test_a_client_gets_the_certificate_of_the_name_it_asks_for(self) -> None:
        """Also by a wildcard, which stands for one label; the first one for all other names, and for none."""
        store, configuration = CertificateStore(), self.configuration(f"certificate={self.two.path}")
        anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
        for name, expected in {
            "two.example": "two.example",
            "TWO.example": "two.example",
            "a.one.example": "*.one.example",
            "a.two.example": "*.one.example",
            "other.example": "*.one.example",
            None: "*.one.example",
        }.items():
            self.assertEqual(named(anyone, name, store, configuration), expected, name)

    def test_a_pair_that_cannot_be_used_is_refused_in_a_line(self) -> None:
        """Which says the file, and what is wrong."""
        from cryptography.hazmat.primitives import serialization

        key = serialization.load_pem_private_key(self.one.path.read_bytes(), None)
        locked = self.directory / "locked.pem"
        locked.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        empty = self.directory / "empty.pem"
        empty.touch()
        text = self.one.path.read_text()
        bare = self.directory / "bare.pem"
        bare.write_text(text[text.index("-----BEGIN CERT") :])
        missing = self.directory / "missing.pem"
        for certificate, private, problem in (
            (self.one.path, self.two.path, f"{self.one.path}: the key in {self.two.path} is another certificate's"),
            (missing, self.one.path, f"{missing}: it cannot be read: No such file or directory"),
            (self.one.path, missing, f"{missing}: it cannot be read: No such file or directory"),
            (empty, empty, f"{empty}: there is no certificate in it"),
            (bare, bare, f"{bare}: there is no key that can be read in {bare}"),
            (self.one.path, locked, f"{locked}: the key is encrypted"),
        ):
            with self.assertRaises(BadCertificate) as refused:
                load(TLS(((str(certificate), str(private)),)))
            self.assertIn(problem, str(refused.exception))
        with self.assertRaises(BadCertificate):
            load(TLS(((str(self.one.path), str(self.one.path)),), str(empty)))

    def test_only_good_ways_of_key_exchange_are_offered_where_python_can(self) -> None:
        """Without the hybrid if OpenSSL does not know it; an older Python leaves OpenSSL its own list."""

        class Context:
            def __init__(self, *unknown: str) -> None:
                self.unknown, self.groups = unknown, ""

            def set_groups(self, groups: str) -> None:
                if set(groups.split(":")) & set(self.unknown):
                    raise ssl.SSLError("unrecognized")
                self.groups = groups

        new, old = Context(), Context("X25519MLKEM768")
        for context in (new, old, object()):
            limit_groups(context)
        self.assertEqual(new.groups, "X25519MLKEM768:X25519:prime256v1:secp384r1")
        self.assertEqual(old.groups, "X25519:prime256v1:secp384r1")


class WatchTests(CertificateCase):
    """Files that change."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.store = CertificateStore()
        link = self.directory / "live.pem"
        link.symlink_to(self.one.path)
        self.link = link
        self.tls = TLS(((str(link), str(link)),))
        self.certificates = self.store.of(self.tls)
        self.log = self.lines()

        def do(what: object, done: object) -> None:
            what()  # type: ignore[operator]
            done(None)  # type: ignore[operator]

        self.watch = CertificateWatch(self.clock, self.store, do)
        self.watch.start()
        self.addCleanup(self.watch.stop)

    def swap(self, path: Path) -> None:
        """Have the link lead elsewhere, in one step."""
        other = self.directory / "new.pem"
        other.symlink_to(path)
        other.rename(self.link)

    def name(self) -> str:
        """Returns the last name of the certificate in use."""
        return self.certificates.loaded[0].about.names[-1]

    def test_a_swapped_link_is_followed(self) -> None:
        """New connections get the new certificate; unchanged files are not loaded."""
        before = self.certificates.loaded
        self.clock.advance(LOOK)
        self.assertIs(self.certificates.loaded, before)
        self.swap(self.two.path)
        self.clock.advance(LOOK)
        self.assertEqual(self.name(), "two.example")
        self.assertEqual(len(self.log), 1)
        self.assertIn("two.example", self.log[0])

    def test_a_key_that_comes_a_moment_later_is_waited_for(self) -> None:
        """Without a word."""
        text = self.two.path.read_text()
        half = self.directory / "half.pem"
        half.write_text(text[text.index("-----BEGIN CERT") :])
        self.swap(half)
        for _ in range(3):
            self.clock.advance(LOOK)
        self.assertEqual((self.name(), self.log), ("*.one.example", []))
        half.write_text(text)
        self.clock.advance(LOOK)
        self.assertEqual((self.name(), len(self.log)), ("two.example", 1))

    def test_a_bad_pair_is_refused_in_one_line_and_the_old_one_stays(self) -> None:
        """However long it stays; a good one is used when it comes."""
        self.swap(self.directory / "nothing.pem")
        for _ in range(int(4 * SETTLED / LOOK)):
            self.clock.advance(LOOK)
        self.assertEqual(self.name(), "*.one.example")
        self.assertEqual(len(self.log), 1)
        self.assertIn("No such file or directory: the certificate of before is used on", self.log[0])
        self.swap(self.two.path)
        self.clock.advance(LOOK)
        self.assertEqual(self.name(), "two.example")

    def test_files_that_only_the_system_refuses_are_tried_again(self) -> None:
        """As when there were no descriptors left: the files are as they were, and good."""
        good = Certificates.load
        self.swap(self.two.path)

        def refused(certificates: Certificates) -> NoReturn:
            raise BadCertificate("live.pem: it cannot be read: Too many open files", passing=True)

        self.patch(Certificates, "load", refused)
        for _ in range(int(2 * SETTLED / LOOK)):
            self.clock.advance(LOOK)
        self.assertEqual(len(self.log), 1)
        self.patch(Certificates, "load", good)
        self.clock.advance(LOOK)
        self.assertEqual((self.name(), len(self.log)), ("two.example", 2))

    def test_a_process_without_descriptors_is_to_blame_itself(self) -> None:
        """Not its files."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            self.certificates.load()
        except BadCertificate as error:
            passing = error.passing
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assertTrue(passing)

    def test_a_look_under_way_at_the_end_is_the_last_one(self) -> None:
        """No timer is left in the reactor."""
        under_way = []
        watch = CertificateWatch(self.clock, self.store, lambda what, done: under_way.append(done))
        self.watch.stop()
        watch.start()
        self.clock.advance(LOOK)
        watch.stop()
        under_way[0](None)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_order_loads_again_and_says_what_was_refused(self) -> None:
        """At once, whether or not anything has changed."""
        told = self.successResultOf(self.watch.reload())
        self.assertEqual((len(told["certificates"]), told["refused"]), (1, []))
        self.swap(self.directory / "nothing.pem")
        told = self.successResultOf(self.watch.reload())
        self.assertEqual(told["certificates"][0]["names"][-1], "*.one.example")
        self.assertIn("No such file", told["refused"][0])
