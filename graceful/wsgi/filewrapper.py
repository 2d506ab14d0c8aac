"""`wsgi.file_wrapper`: an iterable over a file-like object (PEP 3333, "Optional Platform-Specific File Handling")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

BLOCK: Final = 65536


class FileWrapper:
    """Reads a file-like object in blocks, and closes it.

    :param file: anything with `read(size)`.
    :param size: bytes in a block.
    """

    def __init__(self, file: Any, size: int = BLOCK) -> None:
        self.file = file
        self.size = size

    def __iter__(self) -> Iterator[bytes]:
        read, size = self.file.read, self.size
        while block := read(size):
            yield block

    def close(self) -> None:
        """Close the file, if it can be closed."""
        close = getattr(self.file, "close", None)
        if close is not None:
            close()
