"""A session between two buffers: what goes in comes out, and little of it waits in them."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from graceful.sockets.address import TLS
from graceful.tls.certificates import Certificates
from graceful.tls.session import PORTION, RECORD, TLSSession
from tests.support.tls import Certificate

#: Bytes that a record has more than what it holds, at most.
AROUND = 64
DATA = Random(1).randbytes(10 * RECORD + 77)


class SessionTests(SynchronousTestCase):
    """Both ends of one."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        certificate = Certificate(Path(directory.name))
        path = str(certificate.path)
        self.session = TLSSession(Certificates(TLS(((path, path),))))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = certificate.context()
        self.client = context.wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")
        shaken = False
        while not shaken:
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                pass
            shaken = self.session.shake(self.outgoing.read())
            self.incoming.write(self.session.said())

    def read(self) -> bytes:
        """Returns what the client reads."""
        got = b""
        try:
            while piece := self.client.read(1 << 20):
                got += piece
        except ssl.SSLWantReadError:
            pass
        return got

    def test_an_answer_passes_record_by_record(self) -> None:
        """No buffer, which would keep its size, ever holds more; short ones as well."""
        sealed = self.session.seal_long(b"head", memoryview(DATA))
        self.assertLessEqual(max(map(len, sealed)), RECORD + AROUND)
        self.assertEqual(len(sealed), 12)
        for record in (*sealed, self.session.seal(b"short"), self.session.seal(b"")):
            self.incoming.write(record)
        self.assertEqual(self.read(), b"head" + DATA + b"short")
        self.assertEqual(self.session.unsaid, 0)

    def test_a_body_is_opened_however_it_is_torn(self) -> None:
        """In bytes, in more than the buffer is to hold, and with the client's end behind it."""
        self.client.write(DATA)
        with self.assertRaises(ssl.SSLWantReadError):
            self.client.unwrap()
        data = self.outgoing.read()
        got, steps = b"", [1, 20, RECORD, 3 * PORTION, len(data)]
        for step in steps:
            piece, data = data[:step], data[step:]
            clear, ended, failed = self.session.open(piece)
            got += clear
        self.assertEqual((got, ended, failed), (DATA, True, False))
        self.assertEqual(self.session.open(b""), (b"", False, False))

    def test_what_came_before_a_bad_record_is_opened(self) -> None:
        """And that the session has failed is told, with an alert to send."""
        self.client.write(b"good")
        good = self.outgoing.read()
        self.client.write(DATA[: 3 * RECORD])
        bad = bytearray(self.outgoing.read())
        bad[-1] ^= 1
        self.assertEqual(self.session.open(good + bad), (b"good" + DATA[: 2 * RECORD], False, True))
        self.assertTrue(self.session.unsaid)

    def test_a_goodbye_is_said_once(self) -> None:
        """The client's own is not waited for."""
        self.incoming.write(self.session.seal(b"last") + self.session.last_words())
        self.assertEqual(self.read(), b"last")
        self.assertEqual(self.client.read(10), b"")
        self.assertEqual(self.session.last_words(), b"")
