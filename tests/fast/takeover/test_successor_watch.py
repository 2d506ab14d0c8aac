"""A predecessor watches its successor."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from typing import Any

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.takeover.successor_watch import SuccessorWatch


class Reactor:
    """Keeps the readers."""

    def __init__(self) -> None:
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)


class SuccessorWatchTests(SynchronousTestCase):
    """What is logged when a successor ends, by what is left at the control path."""

    def setUp(self) -> None:
        """Make a control path, and a successor; a real process, so that its end can be watched."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = os.path.join(self.directory, "graceful.sock")
        self.reactor: Any = Reactor()
        self.process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
        self.addCleanup(self.process.communicate)
        self.addCleanup(self.process.kill)

    def listening(self) -> socket.socket:
        """Bind the control path."""
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(found.close)
        found.bind(self.path)
        found.listen()
        return found

    def said_at_its_end(self) -> list[str]:
        """Let the successor end; returns what is logged."""
        SuccessorWatch(self.reactor, self.path, self.process.pid)
        self.process.kill()
        self.process.wait()
        with capturedLogs() as events:
            self.reactor.readers[0].doRead()
        self.assertEqual(self.reactor.readers, [])
        return [formatEvent(event) for event in events]

    def crashed(self) -> str:
        """Returns the line that is logged after a crash."""
        return (
            f"the successor, process {self.process.pid}, has crashed: no process answers at {self.path}; "
            "this one cannot serve again, and finishes what it has"
        )

    def test_a_successor_that_crashes_is_logged(self) -> None:
        """A crashed process leaves its control socket behind, at which no process answers."""
        self.listening().close()
        self.assertEqual(self.said_at_its_end(), [self.crashed()])

    def test_a_successor_that_stops_is_not_logged(self) -> None:
        """A process that stops in good order removes its control socket."""
        self.assertEqual(self.said_at_its_end(), [])

    def test_a_successor_that_has_a_successor_is_not_logged(self) -> None:
        """The next one answers at the control path."""
        self.listening()
        self.assertEqual(self.said_at_its_end(), [])

    def test_a_successor_that_has_crashed_already_is_logged(self) -> None:
        """Between its last word and the watch it may crash, too."""
        self.listening().close()
        self.process.kill()
        self.process.wait()
        with capturedLogs() as events:
            SuccessorWatch(self.reactor, self.path, self.process.pid)
        self.assertEqual([formatEvent(event) for event in events], [self.crashed()])
        self.assertEqual(self.reactor.readers, [])

    def test_nothing_is_watched_without_pidfd(self) -> None:
        """A kernel without pidfd_open(2), or no descriptor left, is no reason to fail."""

        def pidfd_open(pid: int) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        SuccessorWatch(self.reactor, self.path, self.process.pid, pidfd_open)
        self.assertEqual(self.reactor.readers, [])

    def test_the_watch_ends_with_the_reactor(self) -> None:
        """A reactor that shuts down closes the descriptor."""
        before = os.listdir("/proc/self/fd")
        SuccessorWatch(self.reactor, self.path, self.process.pid)
        self.reactor.readers[0].connectionLost(None)
        self.assertEqual((self.reactor.readers, os.listdir("/proc/self/fd")), ([], before))
