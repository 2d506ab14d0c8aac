"""Opening a file to be sent, and knowing whether its next bytes are in memory.

Both can block: on a disk, a network file system, or a name that turns out to be a pipe.  So a thread opens files, an
application's or one of the disk's, and before the event loop sends a block it asks the kernel whether that block is
in memory; if it is not, a thread fetches it first.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Final

from graceful.downloads.targets import File, RefusedPath

#: Bytes that one client gets in a turn: with more, the others would wait longer; with less, system calls dominate.
BLOCK: Final = 1 << 18
#: Bytes that a thread reads at a time while it fetches a block.
_FETCH: Final = 1 << 16
#: Errors of open(2) that mean 404.
_MISSING: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO, errno.ELOOP))


class OpenFile:
    """A regular file that is open for reading; its owner closes it.

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
        """Close the descriptor, once: its number may soon be another file's."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)


def open_file(file: File) -> OpenFile:
    """Open a file.  May block.

    :raises RefusedPath: there is no file that may be sent.
    """
    try:
        # O_NONBLOCK: do not wait for the other end of a pipe; for a file it means nothing.
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
    """Return an open descriptor as a file, with its size and time.

    :raises RefusedPath: it is no regular file.
    """
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode):
        raise RefusedPath("it is no regular file")
    return OpenFile(fd, about.st_size, about.st_mtime_ns)


def _check_beneath(fd: int, file: File) -> None:
    """Check where the open file really is: a path may change its meaning between a check and the opening."""
    try:
        where = os.readlink(b"/proc/self/fd/%d" % fd)
    except OSError:
        where = os.path.realpath(file.path)
    if not where.startswith(os.path.join(os.path.realpath(file.beneath), b"")):
        raise RefusedPath("a symbolic link leads out of its directory")


def in_memory(fd: int, offset: int, count: int) -> bool:
    """Whether a block's first and last page are in memory, so that sending it does not wait for a disk.

    False also where the kernel cannot tell.
    """
    byte = [bytearray(1)]
    try:
        return all(os.preadv(fd, byte, place, os.RWF_NOWAIT) >= 0 for place in (offset, offset + count - 1))
    except OSError:
        return False


def fetch(fd: int, offset: int, count: int) -> None:
    """Read a block, so that it is in memory.  May block.

    :raises OSError: it cannot be read.
    """
    end = offset + count
    while offset < end and (got := os.pread(fd, min(_FETCH, end - offset), offset)):
        offset += len(got)
