"""Files that lie compressed beside others: which one a client gets."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from graceful.downloads.precompressed import accepted, open_best
from graceful.downloads.targets import File, RefusedPath
from tests.fast.doubles import directory_for


class AcceptedTests(SynchronousTestCase):
    """What a client accepts."""

    def test_codings_by_weight_and_then_by_size(self) -> None:
        """The codings come by the client's weights, and of the same weight the one with the smallest files first."""
        for field, codings in (
            ("gzip, deflate, br, zstd", ["br", "zstd", "gzip"]),
            ("gzip;q=1.0, br;q=0.5", ["gzip", "br"]),
            ("GZIP ; Q=0.3", ["gzip"]),
            ("*", ["br", "zstd", "gzip"]),
            ("*;q=0, gzip", ["gzip"]),
            ("br;q=0, *", ["zstd", "gzip"]),
            ("x-gzip", ["gzip"]),
            ("identity", []),
            ("gzip;q=0", []),
            ("gzip;q=2, br;q=x, ;q=1", []),
            ("", []),
        ):
            self.assertEqual(accepted([(b"Accept-Encoding", field.encode())]), codings, field)
        self.assertEqual(accepted([(b"accept-encoding", b"br"), (b"Accept-Encoding", b"gzip")]), ["br", "gzip"])
        self.assertEqual(accepted([]), [])


class OpenTests(SynchronousTestCase):
    """A file, and what lies beside it."""

    def setUp(self) -> None:
        """Have a file from some time ago."""
        self.path = os.fsencode(os.path.join(os.path.realpath(directory_for(self)), "app.js"))
        self.write(b"", b"plain")

    def write(self, end: bytes, text: bytes, time: int = 1000) -> None:
        """Write a file beside it, or itself, with a time."""
        with open(self.path + end, "wb") as file:
            file.write(text)
        os.utime(self.path + end, (time, time))

    def get(self, *codings: str) -> tuple[bytes, str, bool]:
        """Returns what a client gets that accepts these: the bytes, the coding, and whether others get others."""
        file, coding, varies = open_best(File(self.path, os.path.dirname(self.path)), codings)
        try:
            return os.read(file.fd, 100), coding, varies
        finally:
            file.close()

    def test_a_file_alone_is_what_it_is(self) -> None:
        """Without anything beside it, the file itself is opened, for all clients."""
        self.assertEqual(self.get("br", "gzip"), (b"plain", "", False))

    def test_the_first_coding_that_is_there_is_opened(self) -> None:
        """Of what the client accepts, the first that is there is opened; without any, the file itself."""
        self.write(b".gz", b"gzipped")
        self.write(b".zst", b"zstandard", 2000)
        self.assertEqual(self.get("br", "zstd", "gzip"), (b"zstandard", "zstd", True))
        self.assertEqual(self.get("gzip"), (b"gzipped", "gzip", True))
        self.assertEqual(self.get(), (b"plain", "", True))

    def test_what_is_older_than_its_file_is_not_used(self) -> None:
        """A compressed file that is older than the file itself is of an earlier build."""
        self.write(b".gz", b"former", 999)
        self.assertEqual(self.get("gzip"), (b"plain", "", False))

    def test_what_must_not_be_sent_is_not_used(self) -> None:
        """A directory, or a link that leads out, is not used, and nothing is served without the file itself."""
        os.mkdir(self.path + b".br")
        os.symlink("/etc/passwd", self.path + b".gz")
        os.utime(self.path, (1, 1))
        self.assertEqual(self.get("br", "gzip")[:2], (b"plain", ""))
        self.write(b".zst", b"zstandard")
        os.unlink(self.path)
        self.assertRaises(RefusedPath, self.get, "zstd")
