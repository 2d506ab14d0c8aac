"""The control socket's path: taken, passed on, replaced, and never taken from an instance that serves."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.control import control_socket as module
from graceful.control.client import ClientError, NobodyThere
from graceful.control.control_socket import ControlError, ControlSocket
from graceful.control.discovery import beside


class PathTests(SynchronousTestCase):
    """Several instances and one path; what answers there says what the test wants."""

    def setUp(self) -> None:
        """Have a directory."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = os.path.join(self.directory, "graceful.sock")
        self.state = "serving"
        self.patch(module, "ControlClient", self.client)

    def client(self, path: str, timeout: float | None) -> Any:
        """Connects to a server: to one that is in `state`, if a process listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except OSError:
                raise NobodyThere from None
        test = self

        class Answering:
            peer_pid = 7

            def __enter__(self) -> Answering:
                return self

            def __exit__(self, *ignored: object) -> None:
                """Nothing was opened."""

            def close(self) -> None:
                """Nothing was opened."""

            def get(self, target: str) -> dict[str, object]:
                if test.state == "silent":
                    raise ClientError
                return {"pid": 7, "state": test.state}

        return Answering()

    def bind(self, **options: Any) -> ControlSocket:
        """Bind one."""
        control = ControlSocket(self.path, **options)
        listening = control.bind()
        if listening is not None:
            self.addCleanup(listening.close)
        return control

    def test_bind_and_remove(self) -> None:
        """The socket is there with its mode, and afterwards nothing is."""
        control = self.bind(mode=0o660)
        self.assertEqual(control.where, self.path)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o660)
        control.remove()
        self.assertEqual(os.listdir(self.directory), [])
        control.remove()

    def test_release_moves_the_socket_beside_the_path(self) -> None:
        """A leaving instance lives on beside the path, and leaves a successor's socket alone."""
        first = self.bind()
        first.release()
        self.assertEqual(beside(self.path), [f"{self.path}.{os.getpid()}"])
        # In this test both have the same number, so the successor is a file of another process.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as successor:
            successor.bind(self.path)
            first.release()
            first.remove()
            self.assertEqual(os.listdir(self.directory), ["graceful.sock"])

    def test_one_that_leaves_is_moved(self) -> None:
        """An instance that could not give the path up itself is moved aside, and can still be reached."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as old:
            old.bind(self.path)
            old.listen(5)
            self.state = "finishing"
            control = self.bind()
            self.assertEqual(control.where, self.path)
            self.assertEqual(beside(self.path), [f"{self.path}.7"])

    def test_one_that_serves(self) -> None:
        """A path that was asked for is refused; one that was not is left to its owner."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.bind(self.path)
            other.listen(5)
            for self.state in ("serving", "starting", "lame-duck", "silent"):
                with self.assertRaises(ControlError) as caught:
                    self.bind()
                self.assertEqual(str(caught.exception).count("\n"), 0)
                self.assertIn(self.path, str(caught.exception))
                self.assertEqual(os.listdir(self.directory), ["graceful.sock"])
            control = self.bind(demanded=False)
            self.assertEqual(control.where, f"{self.path}.{os.getpid()}")

    def test_replaces_files_of_dead_instances(self) -> None:
        """Files of dead instances are replaced and removed; a file that is no socket is left alone."""
        for name in ("graceful.sock", "graceful.sock.1", "graceful.sock.22"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
                dead.bind(os.path.join(self.directory, name))
        open(f"{self.path}.old", "w").close()
        control = self.bind()
        self.assertEqual(sorted(os.listdir(self.directory)), ["graceful.sock", "graceful.sock.old"])
        control.remove()
        open(self.path, "w").close()
        with self.assertRaises(ControlError):
            self.bind()
        self.assertTrue(os.path.isfile(self.path))

    def test_starts_without_a_socket_that_was_not_asked_for(self) -> None:
        """A start that did not ask for a socket goes on where none can be made."""
        self.path = os.path.join(self.directory, "none", "graceful.sock")
        with self.assertRaises(ControlError) as caught:
            self.bind()
        self.assertIn("--control", str(caught.exception))
        self.assertIsNone(self.bind(demanded=False).where)
        self.path = os.path.join(self.directory, "x" * 120)
        self.assertIsNone(self.bind(demanded=False).where)

    def test_forked_child_removes_nothing(self) -> None:
        """A child of the process has nothing to remove."""
        control = self.bind()
        self.patch(module.os, "getpid", lambda: 12345)
        control.remove()
        self.assertTrue(os.path.exists(self.path))
