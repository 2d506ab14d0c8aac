"""The file of a Unix socket: made with its final mode, and given to its owner without following a link.

A server that starts as root and runs as another user makes its sockets in a directory that this other user may own.
There the user can put a symbolic or a hard link in place of the new file at any moment, and a `chmod` or `chown` of
the *path* would then change a file of root's.  So the mode comes from the umask, at the moment when bind(2) makes the
file, and everything later goes by a descriptor of the file, after a look at what it really is.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: The path of the file that a descriptor of O_PATH holds: chmod and chown take no such descriptor themselves.
_SAME_FILE: Final = "/proc/self/fd/%d"


class NotOurFile(OSError):
    """Something else is at the path by now: another process may change the directory, and has done so."""

    def __init__(self, path: str) -> None:
        super().__init__(f"another process has just replaced {path}")
        self.strerror = "another process has just replaced its file"


def inode_of(path: str) -> tuple[int, int] | None:
    """Returns the device and inode of the file at a path, a symbolic link's own; None if there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def bind_file(listening: socket.socket, path: str, mode: int) -> tuple[int, int] | None:
    """Bind a Unix socket to a path.  No client can connect before the file has its mode.

    :param listening: the socket.
    :param path: there must be no file at it.
    :param mode: the permissions of the file.
    :returns: the file's device and inode.
    :raises OSError: it cannot be made.
    """
    umask = os.umask(0o777 & ~mode)
    try:
        listening.bind(path)
    finally:
        os.umask(umask)
    return inode_of(path)


def set_owner(path: str, uid: int, gid: int) -> None:
    """Give the file of a socket that this process has made to another user.

    :param path: of the file.
    :param uid: the user; -1 for the same as before.
    :param gid: the group; -1 for the same as before.
    :raises NotOurFile: what is at the path is not a socket file of this process's user.
    :raises OSError: it may not be given away.
    """
    with _opened(path) as (fd, about):
        if about.st_uid != os.geteuid():
            raise NotOurFile(path)
        try:
            os.chown(_SAME_FILE % fd, uid, gid)
        except FileNotFoundError:  # there is no /proc
            os.chown(path, uid, gid, follow_symlinks=False)


def set_mode(path: str, inode: tuple[int, int] | None, mode: int) -> None:
    """Change the permissions of a socket's file.

    :param path: of the file.
    :param inode: its device and inode, as they were when it was made.
    :param mode: the permissions.
    :raises NotOurFile: something else is at the path.
    :raises OSError: they may not be changed.
    """
    with _opened(path) as (fd, about):
        if (about.st_dev, about.st_ino) != inode:
            raise NotOurFile(path)
        if stat.S_IMODE(about.st_mode) != mode:
            os.chmod(_SAME_FILE % fd, mode)


@contextmanager
def _opened(path: str) -> Iterator[tuple[int, os.stat_result]]:
    """Hold the file at a path, which no link may lead to.  Yields its descriptor, and what the kernel says of it."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        about = os.fstat(fd)
        if not stat.S_ISSOCK(about.st_mode) or about.st_nlink != 1:
            raise NotOurFile(path)
        yield fd, about
    finally:
        os.close(fd)
