"""The directory that a library works with: its release, its books, and the gate that holds its reports up."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from tests.support.gate import Gate

#: Bytes of the big book: more than the kernel takes for a client that does not read.
BIG = 48 << 20


class Shelf:
    """A directory for one test.

    :ivar environment: what tells the library where it is.
    :ivar gate: where its reports wait.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="shelf-"))
        self.environment = {"SHELF": str(self.path)}
        self.gate = Gate(self.path / "gate")
        (self.path / "books").mkdir()
        self.release("1")

    def release(self, name: str) -> None:
        """Install a release of the library: the next process that starts is of it."""
        (self.path / "release").write_text(name)

    def big_book(self) -> str:
        """Make the book `big`, and return its SHA-256."""
        content = os.urandom(BIG)
        (self.path / "books" / "big").write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    def remove(self) -> None:
        """Let a report go that still waits, and remove the directory."""
        self.gate.open()
        shutil.rmtree(self.path)
