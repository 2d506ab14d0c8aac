"""A fork server, from its own side; the fork is real, and the child ends at once."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from twisted.trial.unittest import SynchronousTestCase

from graceful.workers import preload as module
from graceful.workers.channel import Channel
from graceful.workers.parent import Parent
from graceful.workers.preload import Preload, PreloadError


class Left(BaseException):
    """The process would have ended, with the status that it holds."""


class PreloadTests(SynchronousTestCase):
    """A supervisor on one end of the line, and the fork server on the other."""

    def setUp(self) -> None:
        """Make both ends; signals are as before afterwards."""
        ours, theirs = socket.socketpair()
        self.line = Channel(ours)
        self.addCleanup(self.line.close)
        self.their_line = theirs.detach()
        for name in ("end_with_parent", "outlive_parent"):
            self.patch(module, name, lambda *ignored: True)
        self.patch(module, "fork_hazards", lambda before: self.hazards)
        self.patch(module, "fork_caveats", list)
        self.patch(gc, "freeze", lambda: None)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self.addCleanup(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
        self.hazards: list[str] = []

    def make(self, fork: Callable[[], int] = os.fork) -> Preload:
        """Returns the fork server."""

        def leave(status: int) -> NoReturn:
            raise Left(status)

        said = {"line": self.their_line, "supervisor": os.getppid(), "directory": "/srv/new"}
        return Preload(json.dumps(said), fork, leave)

    def serve(self, preload: Preload, load: Callable[[], Any] = lambda: "application") -> int:
        """Serve until the process would end.  Returns its status."""
        try:
            preload.serve(load)
        except Left as left:
            preload._channel.close()
            return int(left.args[0])
        self.fail("a worker has come back")

    def said(self) -> list[dict[str, Any]]:
        """Returns what the supervisor has heard."""
        found: list[dict[str, Any]] = []
        try:
            while True:
                found.append(self.line.receive(0.1))
        except Exception:
            return found

    def order(self, word: str, descriptors: int = 0, **values: Any) -> None:
        """Give an order, with descriptors of sockets beside it."""
        pair = socket.socketpair()
        self.line.send(word, [sock.fileno() for sock in pair[:descriptors]], **values)
        for sock in pair:
            sock.close()

    def hang_up(self) -> None:
        """Have the supervisor be gone, once its orders are read."""
        self.line._socket.shutdown(socket.SHUT_WR)

    def test_what_the_environment_says_is_checked(self) -> None:
        """Only a supervisor can have set it."""
        os.close(self.their_line)
        for said in ("", "[]", "{}", '{"line": 999999, "supervisor": 1, "directory": null}'):
            self.assertRaises(PreloadError, Preload, said)

    def test_it_imports_before_it_is_ready(self) -> None:
        """And ends when the supervisor does."""
        preload = self.make()
        self.hang_up()
        self.assertEqual(self.serve(preload), 0)
        self.assertEqual(self.said(), [{"word": "ready", "caveats": []}])
        self.assertIn(signal.SIGTERM, signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    def test_it_says_why_it_cannot_be_forked(self) -> None:
        """Everything that its import has left behind."""
        self.hazards = ["2 threads (a, b)", "Twisted's reactor"]
        self.assertEqual(self.serve(self.make()), 0)
        why = "its import leaves behind 2 threads (a, b), Twisted's reactor"
        self.assertEqual(self.said(), [{"word": "unfit", "why": why}])

    def test_it_ends_without_its_supervisor(self) -> None:
        """Before it imports anything."""
        self.patch(module, "end_with_parent", lambda parent: False)
        self.assertEqual(self.serve(self.make(), lambda: self.fail("imported")), 1)

    def test_a_failure_is_told_with_its_stack(self) -> None:
        """To the supervisor; to the log if there is none."""
        preload = self.make()
        preload.failed("no module", "Traceback")
        self.assertEqual(self.said(), [{"word": "failed", "why": "no module", "error": "Traceback"}])
        self.line.close()
        preload.failed("no module")
        preload._channel.close()

    def test_workers_are_forked_and_collected(self) -> None:
        """The child is a worker of the supervisor's; its status is told when that is asked for."""
        self.order("fork", 2, number=3, directory="/srv/new")
        preload = self.make()
        report, theirs = os.pipe()

        def fork() -> int:
            pid = os.fork()
            if pid == 0:
                return 0
            self.line.send("wait", pid=pid)
            self.line.send("wait", pid=pid)
            self.hang_up()
            return pid

        preload._fork_process = fork
        me = os.getpid()
        try:
            preload.serve(lambda: "application")
        except Left:
            pass
        else:  # in the child
            os._exit(self.report(preload, theirs))
        finally:
            if os.getpid() != me:
                os._exit(99)
        preload._channel.close()
        os.close(theirs)
        ready, forked, ended, again = self.said()
        self.assertEqual((ready["word"], forked["word"]), ("ready", "forked"))
        self.assertEqual(ended, {"word": "ended", "pid": forked["pid"], "status": 70})
        self.assertEqual(again["status"], None)
        with os.fdopen(report) as told:
            self.assertEqual(json.load(told), {"open": False, "leads": True, "blocked": False})

    @staticmethod
    def report(preload: Preload, to: int) -> int:
        """Say, in the child, what it is like.  Returns its exit status."""
        blocked = signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        said = {"open": preload._channel.open, "leads": os.getsid(0) == os.getpid(), "blocked": blocked}
        os.write(to, json.dumps(said).encode())
        return 70

    def test_the_child_goes_on_as_a_worker(self) -> None:
        """With the application, and the slot that the order names."""
        self.patch(os, "setsid", lambda: None)
        self.order("fork", 2, number=3, directory="/srv/new")
        parent, application = self.make(lambda: 0).serve(lambda: "application")
        self.assertIsInstance(parent, Parent)
        self.assertEqual((parent.number, parent.directory, application), (3, "/srv/new", "application"))
        parent.close()
        parent.control.close()

    def test_a_fork_that_fails_is_refused(self) -> None:
        """No process, or no descriptors; nothing stays open, and the next order is obeyed."""

        def fork() -> int:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        self.order("fork", 2, number=1, directory=None)
        self.order("fork", 1, number=2, directory=None)
        self.hang_up()
        preload = self.make(fork)
        before = set(os.listdir("/proc/self/fd"))
        self.assertEqual(self.serve(preload), 0)
        whys = [one["why"] for one in self.said() if one["word"] == "refused"]
        self.assertEqual(whys, ["Resource temporarily unavailable", "too many open files"])
        self.assertLessEqual(set(os.listdir("/proc/self/fd")), before)
