"""The control socket's path, and how one instance passes it to the next.

The path belongs to the instance that serves; an instance on its way out must stay reachable all the same.  So, as
with the pid file, an instance gives the path up when its sockets close, and lives on at `PATH.<pid>`.  It renames the
file itself.  Where it may not (privileges were shed, and the directory is root's), the newcomer, which still may,
does it: it asks the instance that answers at the path for its state, and moves it aside if it is leaving.

An instance that was killed leaves a file on which no process answers: the next instance replaces it.  If another
instance serves at the path, a server that was told to use just this path does not start, and says why; one with the
default path starts at `PATH.<pid>`.

Everything here but `release` and `remove` blocks, briefly, and is called during start-up only.
"""

from __future__ import annotations

import fcntl
import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from twisted.logger import Logger

from graceful.control.client import ClientError, ControlClient, NobodyThere
from graceful.control.discovery import beside
from graceful.drain.state import State
from graceful.sockets.address import LONGEST_UNIX_PATH
from graceful.sockets.socket_file import bind_file, inode_of, set_owner

log = Logger(namespace="graceful")


#: Connections that may wait in the kernel's queue until they are accepted.
BACKLOG: Final = 128

#: Seconds that the instance at the path has to say whether it is leaving.
ASKED_FOR: Final = 2.0


class ControlError(Exception):
    """The control socket cannot be made.  The text is one line for the operator."""


class ControlSocket:
    """One instance's hold on a control path.

    :param path: the control path.
    :param mode: the permissions of the socket file.
    :param group: its group, name or number; None for the server's.
    :param owner: the user and group that the server will run as; -1 for those of the process.
    :param demanded: whether the operator has asked for just this path.
    :ivar where: where the socket is now; None if there is none.
    """

    def __init__(
        self,
        path: str,
        mode: int = 0o600,
        group: str | None = None,
        owner: tuple[int, int] = (-1, -1),
        demanded: bool = True,
    ) -> None:
        self.path = os.path.abspath(path)
        self.where: str | None = None
        self._mode = mode
        self._group = group
        self._owner = owner
        self._demanded = demanded
        self._inode: tuple[int, int] | None = None
        self._predecessors: tuple[int, int] | None = None  # the socket at the path when this instance started
        self._pid = 0

    def bind(self) -> socket.socket | None:
        """Bind and listen, before privileges are shed and before the application is imported.

        :returns: the listening socket, non-blocking; None if it cannot be made and the operator has not asked for it.
        :raises ControlError: the operator has asked for it, and it cannot be made.
        """
        try:
            return self._bind()
        except ControlError as error:
            problem = str(error)
        except OSError as error:
            problem = f"cannot make the control socket {self.path}: {error.strerror}"
        if self._demanded:
            raise ControlError(f"{problem}; give another --control, or --control '' for none")
        log.warn("{problem}; the graceful command cannot reach this server: give a --control", problem=problem)
        return None

    def _bind(self, beside: bool = False) -> socket.socket:
        self._pid = os.getpid()
        aside = f"{self.path}.{self._pid}"
        if len(aside.encode()) > LONGEST_UNIX_PATH:
            raise ControlError(f"no Unix socket can have a path as long as {aside}")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            with _locked(os.path.dirname(self.path)):
                with suppress(FileNotFoundError):
                    os.unlink(aside)  # of an earlier process with our pid
                self._inode = bind_file(listening, aside, self._mode)
                self.where = aside
                self._give_to_owner(aside)
                listening.listen(BACKLOG)
                if not beside:
                    self._clear_dead()
                    self._take_path(aside)
        except BaseException:
            listening.close()
            self.remove()
            raise
        return listening

    def hand_over(self) -> socket.socket | None:
        """Leave the path, and the socket that is there, to a successor.

        :returns: a listening socket at `PATH.<pid>`, where this instance answers from now on; None if there is none.
        """
        self._inode = self.where = None  # what is at the path is not ours to remove
        try:
            return self._bind(beside=True)
        except (ControlError, OSError) as error:
            log.warn(
                "the graceful command cannot reach this process any more, only signals can: {error}", error=error
            )
            return None

    def expect(self) -> None:
        """Take note of the predecessor's socket at the path: it answers there until it lets go."""
        self._pid, self._predecessors = os.getpid(), inode_of(self.path)

    def succeed(self, listening: socket.socket) -> socket.socket | None:
        """Take over the path, with the socket that a predecessor has bound there.

        :param listening: that socket; closed if it is of no use.
        :returns: the socket to answer on; None if there is none.
        """
        if self._predecessors is None or inode_of(self.path) != self._predecessors:
            # The predecessor was told to stop meanwhile, and has given the path up.
            listening.close()
            try:
                return self._bind()
            except (ControlError, OSError) as error:
                log.warn("the graceful command cannot reach this server: {error}", error=error)
                return None
        with suppress(OSError):  # then a client takes the predecessor for the one that answers
            listening.listen(BACKLOG)  # the kernel tells a client the pid that has last called this
        self._inode, self.where = self._predecessors, self.path
        return listening

    def _give_to_owner(self, path: str) -> None:
        uid, gid = self._owner
        if self._group is not None:
            gid = int(self._group) if self._group.isdigit() else grp.getgrnam(self._group).gr_gid
        if (uid, gid) != (-1, -1):
            try:
                set_owner(path, uid, gid)
            except PermissionError:
                raise ControlError(f"may not give the control socket to the group {self._group}") from None

    def _take_path(self, aside: str) -> None:
        """Move our socket to the path, unless another instance serves there."""
        try:
            there = os.lstat(self.path)
        except FileNotFoundError:
            there = None
        if there is not None and not stat.S_ISSOCK(there.st_mode):
            raise ControlError(f"a file that is not a socket is at {self.path}")
        holder = _holder(self.path) if there is not None else None
        if holder is not None:
            pid, state = holder
            if state is None or not state.leaving:
                who = f"process {pid}" if pid else "another process"
                if self._demanded:
                    raise ControlError(f"{who} answers at the control socket {self.path}")
                log.warn(
                    "{who} has the control socket {path}: this server's is {aside}",
                    who=who,
                    path=self.path,
                    aside=aside,
                )
                return
            os.rename(self.path, f"{self.path}.{pid}")
        os.rename(aside, self.path)
        self.where = self.path

    def _clear_dead(self) -> None:
        """Remove the files at `PATH.<pid>` on which no process answers."""
        for path in beside(self.path):
            if path == self.where:
                continue
            try:
                ControlClient(path, timeout=ASKED_FOR).close()
            except NobodyThere:
                with suppress(OSError):
                    os.unlink(path)
            except ClientError:
                pass  # a process is there, but does not let us connect

    def release(self) -> None:
        """Give the path up to a successor.  Called before the log says that the sockets are closed."""
        if self.where == self.path and self._ours(self.path):
            aside = f"{self.path}.{self._pid}"
            with suppress(OSError):  # a newcomer moves it instead
                os.rename(self.path, aside)
                self.where = aside

    def remove(self) -> None:
        """Remove this instance's socket file, at the end; a successor's is left alone."""
        for path in (self.path, f"{self.path}.{self._pid}"):
            if self._ours(path):
                with suppress(OSError):
                    os.unlink(path)
        self.where = self._inode = None

    def _ours(self, path: str) -> bool:
        """Whether the socket at a path is ours; never in a process that was forked from this one."""
        return self._inode is not None and self._pid == os.getpid() and inode_of(path) == self._inode


def _holder(path: str) -> tuple[int, State | None] | None:
    """Returns the pid of the process that answers at a socket file, and its state; None if no process answers.

    The pid is 0, or the state None, where it cannot be known.
    """
    try:
        with ControlClient(path, timeout=ASKED_FOR) as client:
            pid = client.peer_pid
            with suppress(ClientError):
                status = client.get("/status?limit=0")
                return int(status["pid"]), State.parse(status["state"])
            return pid, None
    except NobodyThere:
        return None
    except ClientError:
        return 0, None


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Be the only one that changes control paths in a directory, flock(2)."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
