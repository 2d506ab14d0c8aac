"""Opening a file to be sent, and knowing whether its next bytes are in memory.

Both can block: a disk, a network file system, a name that turns out to be a pipe.  So opening happens in a thread, an
application's or one of ours, and before the event loop sends a block it asks the kernel whether that block is there;
if it is not, a thread fetches it first.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Final

from graceful.downloads.targets import File, RefusedPath

BLOCK: Final = 1 << 18
_FETCH: Final = 1 << 16
_MISSING: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO, errno.ELOOP))


class OpenFile:
    """A regular file that is open for reading; whoever holds this closes it.

    :ivar fd: its descriptor; -1 when it is closed.
    :ivar size: bytes.
    :ivar modified: when it was last modified, nanoseconds since 1970.
    """

    __slots__ = ("fd", "modified", "size")

    def __init__(self, fd: int, size: int, modified: int) -> None:
        self.fd = fd
        self.size = size
        self.modified = modified

    @property
    def etag(self) -> str:
        """A strong validator (RFC 9110 §8.8.1): the same on every machine that has a copy with its times."""
        return f'"{self.modified:x}-{self.size:x}"'

    def close(self) -> None:
        """Give the descriptor back, once: its number may be another file's soon."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)


def open_file(file: File) -> OpenFile:
    """Open a file.  May block.

    :raises Refused: there is none that may be sent.
    """
    try:
        # Not to wait for the other end of a pipe; for a file it means nothing.
        fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in _MISSING or isinstance(error, PermissionError):
            raise RefusedPath(error.strerror) from None
        raise
    try:
        if file.beneath:
            _check_beneath(fd, file)
        return look_at(fd)
    except BaseException:
        os.close(fd)
        raise


def look_at(fd: int) -> OpenFile:
    """Take a descriptor that is open.

    :raises Refused: it is no regular file.
    """
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode):
        raise RefusedPath("it is no regular file")
    return OpenFile(fd, about.st_size, about.st_mtime_ns)


def _check_beneath(fd: int, file: File) -> None:
    """Look where the open file really is: what a path means may change between looking and opening."""
    try:
        where = os.readlink(b"/proc/self/fd/%d" % fd)
    except OSError:
        where = os.path.realpath(file.path)
    if not where.startswith(os.path.join(os.path.realpath(file.beneath), b"")):
        raise RefusedPath("a symbolic link leads out of its directory")


def in_memory(fd: int, offset: int, count: int) -> bool:
    """Whether a block can be sent without waiting for a disk; that is, its first and last page.

    False also where the kernel cannot tell.
    """
    byte = [bytearray(1)]
    try:
        return all(os.preadv(fd, byte, place, os.RWF_NOWAIT) >= 0 for place in (offset, offset + count - 1))
    except OSError:
        return False


def fetch(fd: int, offset: int, count: int) -> None:
    """Have a block in memory.  May block.

    :raises OSError: it cannot be read.
    """
    end = offset + count
    while offset < end and (got := os.pread(fd, min(_FETCH, end - offset), offset)):
        offset += len(got)
