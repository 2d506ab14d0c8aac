"""A pid file that two instances can pass from one to the next.

twistd refuses to start while its pid file names a living process, and removes the file when it ends,
even if it belongs to a successor by then.  That forbids what a deploy without a gap needs: a new instance
starts, in the same directory and with the same pid file, as soon as the old one has closed its sockets and still
finishes its requests.  So the file has several lives, and each instance touches only what is its own:

* an instance that starts takes the path, unless the process named there is alive (`check`, `write`);
* one that takes over opens the file of its predecessor (`prepare`), and writes itself into it when that one has let
  go (`take_over`): in place, since it may have no right to make a new one by then.  Until then it holds a shared
  lock, by which a predecessor that ends sees that the file is still needed;
* one that has closed its sockets gives the path up (`release`): it lives on at `PATH.<pid>`, or, where it may
  no longer rename, leaves an empty file behind, which means that the path is free;
* one that ends removes its own (`remove`).

Give twistd an empty `--pidfile` while options are parsed, so that it keeps its hands off.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from twisted.logger import Logger

from graceful.process.process_table import alive

log = Logger(namespace="graceful")


class PidFileBusy(Exception):
    """Another process has the pid file.  Its text is one line for the operator."""


class PidFileError(Exception):
    """The pid file cannot be written.  Its text is one line for the operator."""


class PidFile:
    """One instance's hold on a pid file.

    :ivar path: where the file is, absolute.
    """

    def __init__(self, path: str, alive: Callable[[int], bool] = alive) -> None:
        """Nothing is touched yet.

        :param path: relative to the directory of this moment: a daemon changes it later.
        :param alive: says whether a process exists.
        """
        self.path = os.path.abspath(path)
        self._alive = alive
        self._fd = -1  # kept open: it can be emptied even when privileges are gone
        self._pid = 0
        self._waits = 0  # the process that holds the shared lock
        self._where: str | None = None  # where our file is now; None if we have none

    def check(self) -> None:
        """See whether the path is free, before the fork, so that the operator is told in the terminal.

        :raises PidFileBusy: if a living process is named there.
        """
        try:
            with open(self.path, "rb") as file:
                self._judge(file.read(64))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise PidFileError(f"cannot read the pid file {self.path}: {error.strerror}") from None

    def write(self, uid: int = -1, gid: int = -1) -> None:
        """Take the path, after the fork and before privileges are shed.

        Of two instances that start at the same moment one gets it: the file is locked while it is judged and
        written, flock(2).

        :param uid: the owner of the file; -1 leaves it as it is, chown(2).
        :param gid: its group; -1 leaves it as it is.
        :raises PidFileBusy: if another process has it.
        :raises PidFileError: if it cannot be written.
        """
        try:
            self._write(uid, gid)
        except OSError as error:
            raise PidFileError(
                f"cannot write the pid file {self.path}: {error.strerror}; give another --pidfile"
            ) from None

    def _write(self, uid: int, gid: int) -> None:
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise PidFileBusy(
                        f"another instance is just starting with the pid file {self.path}:"
                        " give this one another --pidfile"
                    ) from None
                if not _same(fd, self.path):
                    # Its owner has released or removed it since it was opened: look again.
                    os.close(fd)
                    continue
                about = os.fstat(fd)
                if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
                    # Root would write into it, and give it away: its directory may be another user's.
                    raise PidFileError(f"the pid file {self.path} is no plain file, or has a second name: remove it")
                if self._judge(os.pread(fd, 64, 0)):
                    log.warn("the stale pid file {path} is taken over", path=self.path)
                self._pid = os.getpid()
                text = f"{self._pid}\n".encode()
                os.ftruncate(fd, os.pwrite(fd, text, 0))
                if (uid, gid) != (-1, -1):
                    os.fchown(fd, uid, gid)
                fcntl.flock(fd, fcntl.LOCK_UN)
            except BaseException:
                os.close(fd)
                raise
            self._fd, self._where = fd, self.path
            return

    def prepare(self, pid: int) -> None:
        """Open the file of a predecessor that serves on, before privileges are shed; without one, take the path.

        :param pid: the predecessor.
        :raises PidFileBusy: if the file names another living process.
        :raises PidFileError: if it cannot be written.
        """
        try:
            fd = self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._waits = os.getpid()
            with suppress(BlockingIOError):  # its owner is removing it: take_over() finds another one, or none
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            self.write()
            return
        except OSError as error:
            raise PidFileError(
                f"cannot write the pid file {self.path}: {error.strerror}; give another --pidfile"
            ) from None
        if _pid_in(os.pread(fd, 64, 0)) != pid:
            try:
                self._judge(os.pread(fd, 64, 0))
            except PidFileBusy:
                self.remove()
                raise

    def take_over(self) -> None:
        """Write ourselves into the file that a predecessor has let go of."""
        if self._where is not None or self._fd < 0:
            return
        if _same(self._fd, self.path):
            self._pid, self._where = os.getpid(), self.path
            os.ftruncate(self._fd, os.pwrite(self._fd, f"{self._pid}\n".encode(), 0))
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            return
        os.close(self._fd)
        self._fd = -1
        try:
            self.write()
        except (PidFileBusy, PidFileError) as error:
            log.warn("{error}", error=error)

    def release(self) -> None:
        """Give the path up to a successor.  To be called before the sockets are said to be closed."""
        if self._where != self.path or not self._ours():
            return
        aside = f"{self.path}.{self._pid}"
        try:
            os.rename(self.path, aside)
            self._where = aside
        except OSError:
            self._empty()

    def remove(self) -> None:
        """Remove what is our own, at the end.  A successor's file is left alone."""
        if self._where is not None and self._pid == os.getpid():  # a forked process would lock it for its parent
            if self._unneeded() and self._ours():
                try:
                    os.unlink(self._where)
                except OSError:
                    self._empty()
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._where = None
        if self._fd >= 0:
            if self._waits == os.getpid():
                fcntl.flock(self._fd, fcntl.LOCK_UN)  # which a forked process would hold on
            os.close(self._fd)
            self._fd = -1

    def _unneeded(self) -> bool:
        """Whether no successor is about to write itself into the file; none comes then until the lock is released."""
        if self._where != self.path:
            return True
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _ours(self) -> bool:
        """Whether what is at the path is still the file that we have written, and still says so.

        In a process forked from the one that wrote it, it is not: that one still lives.
        """
        if self._where is None or self._pid != os.getpid():
            return False
        return _same(self._fd, self._where) and _pid_in(os.pread(self._fd, 64, 0)) == self._pid

    def _empty(self) -> None:
        """Mark the path as free by emptying the file: we may no longer change the directory."""
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
        self._where = None

    def _judge(self, text: bytes) -> bool:
        """Refuse a file that names another living process; say whether a dead one has left it behind."""
        pid = _pid_in(text)
        if pid is not None and pid != os.getpid() and self._alive(pid):
            raise PidFileBusy(
                f"another server is running, process {pid} of the pid file {self.path}:"
                " stop it first, or give this one another --pidfile"
            )
        return bool(text.strip())


def _pid_in(text: bytes) -> int | None:
    text = text.strip()
    return int(text) if text.isdigit() and int(text) > 0 else None


def _same(fd: int, path: str) -> bool:
    """Whether a path leads to the file that a descriptor has open."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
