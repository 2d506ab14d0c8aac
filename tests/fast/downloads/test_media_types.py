"""Media types, by names of files."""

from __future__ import annotations

import mimetypes
import os

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.downloads.media_types import UNKNOWN, load, media_type
from tests.fast.doubles import directory_for


class MediaTypesTests(SynchronousTestCase):
    """With files of media types that the test has written."""

    def setUp(self) -> None:
        """Have Python find the test's files, and nothing that it has read before."""
        self.directory = directory_for(self)
        self.patch(mimetypes, "knownfiles", [])
        self.addCleanup(mimetypes.init)

    def write(self, name: str, content: bytes) -> str:
        """Write a file of media types that Python knows of."""
        path = os.path.join(self.directory, name)
        with open(path, "wb") as file:
            file.write(content)
        mimetypes.knownfiles.append(path)
        return path

    def test_files_of_the_system_are_read(self) -> None:
        """A name that only they know has their type; a name that tells nothing is of an unknown type."""
        self.write("good", b"text/x-good good\n")
        load()
        self.assertEqual(
            (media_type("a.good"), media_type("a.html"), media_type("a")), ("text/x-good", "text/html", UNKNOWN)
        )

    def test_a_file_that_cannot_be_read_is_said_and_left_out(self) -> None:
        """A byte that is no UTF-8 spoils its own file only, and nothing is raised when a type is asked for."""
        bad = self.write("bad", b"text/x-b\xff bad\n")
        self.write("good", b"text/x-good good\n")
        mimetypes.knownfiles.append(os.path.join(self.directory, "missing"))
        with capturedLogs() as events:
            load()
        (line,) = [formatEvent(event) or "" for event in events]
        self.assertIn(bad, line)
        self.assertEqual((media_type("a.good"), media_type("a.bad")), ("text/x-good", UNKNOWN))
        self.assertNotIn(bad, mimetypes.knownfiles)
