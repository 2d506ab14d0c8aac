"""Files of Unix sockets in a directory that another user may change."""

from __future__ import annotations

import os
import socket
import stat

from twisted.trial.unittest import SynchronousTestCase

from graceful.control import control_socket
from graceful.control.control_socket import ControlError, ControlSocket
from graceful.sockets.socket_file import NotOurFile, bind_file, inode_of, set_mode, set_owner
from tests.fast.doubles import directory_for


class SocketFileTests(SynchronousTestCase):
    """A socket's file, and what another process puts in its place."""

    def setUp(self) -> None:
        """Bind a socket, beside a file that belongs to the system."""
        self.directory = directory_for(self)
        self.path = os.path.join(self.directory, "site.sock")
        self.victim = os.path.join(self.directory, "shadow")
        with open(self.victim, "w") as file:
            os.fchmod(file.fileno(), 0o600)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(self.socket.close)
        self.me = os.geteuid(), os.getegid()
        self.chowned: list[str] = []
        self.patch(os, "chown", lambda path, *owner, **options: self.chowned.append(os.path.realpath(path)))

    def mode(self, path: str) -> int:
        """Returns the permissions of a file."""
        return stat.S_IMODE(os.stat(path).st_mode)

    def test_the_file_is_made_with_its_mode(self) -> None:
        """Without a chmod, whose path could lead elsewhere by then; and the process has its umask again."""
        before = os.umask(0o22)
        self.addCleanup(os.umask, before)
        self.patch(os, "chmod", None)
        self.assertEqual(bind_file(self.socket, self.path, 0o660), inode_of(self.path))
        self.assertEqual(self.mode(self.path), 0o660)
        self.assertEqual(os.umask(0o22), 0o22)

    def test_the_umask_comes_back_when_there_is_no_file(self) -> None:
        """The process goes on, and makes other files."""
        before = os.umask(0o22)
        self.addCleanup(os.umask, before)
        with self.assertRaises(OSError):
            bind_file(self.socket, os.path.join(self.directory, "missing", "sock"), 0o600)
        self.assertEqual(os.umask(0o22), 0o22)

    def test_the_socket_is_given_to_its_owner(self) -> None:
        """It, and its mode is changed as well."""
        inode = bind_file(self.socket, self.path, 0o600)
        set_owner(self.path, *self.me)
        self.assertEqual(self.chowned, [self.path])
        set_mode(self.path, inode, 0o666)
        self.assertEqual(self.mode(self.path), 0o666)

    def test_a_link_in_its_place_is_not_followed(self) -> None:
        """A symbolic link, a hard link, a link to another socket, or a file: nothing is changed by that path."""
        inode = bind_file(self.socket, self.path, 0o600)
        other = os.path.join(self.directory, "other.sock")
        os.rename(self.path, other)
        for link in (
            lambda: os.symlink(self.victim, self.path),
            lambda: os.symlink(other, self.path),
            lambda: os.link(self.victim, self.path),
            lambda: os.link(other, self.path),
            lambda: open(self.path, "w").close(),
        ):
            link()
            with self.assertRaises(OSError):
                set_owner(self.path, *self.me)
            with self.assertRaises(OSError):
                set_mode(self.path, inode, 0o666)
            os.unlink(self.path)
        self.assertEqual((self.chowned, self.mode(self.victim), self.mode(other)), ([], 0o600, 0o600))

    def test_another_socket_in_its_place_keeps_its_mode(self) -> None:
        """A predecessor's socket is known by its inode."""
        inode = bind_file(self.socket, self.path, 0o600)
        os.rename(self.path, f"{self.path}.old")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as another:
            bind_file(another, self.path, 0o600)
            with self.assertRaises(NotOurFile):
                set_mode(self.path, inode, 0o666)
        self.assertEqual(self.mode(self.path), 0o600)

    def test_a_control_socket_that_is_replaced_ends_the_start(self) -> None:
        """In the moment between bind(2) and the change of owner: one line, and the link's target is as it was."""

        def bind_and_lose(listening: socket.socket, path: str, mode: int) -> tuple[int, int] | None:
            inode = bind_file(listening, path, mode)
            os.unlink(path)
            os.symlink(self.victim, path)
            return inode

        self.patch(control_socket, "bind_file", bind_and_lose)
        control = ControlSocket(self.path, owner=self.me)
        error = self.assertRaises(ControlError, control.bind)
        self.assertIn("cannot make the control socket", str(error))
        self.assertEqual((self.chowned, self.mode(self.victim)), ([], 0o600))
