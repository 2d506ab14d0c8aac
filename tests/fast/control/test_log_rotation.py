"""A log rotation that is passed on to the instances that drain."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.control.log_rotation import LogRotation
from graceful.threads.start import NoThread

PATH = "/run/site/graceful.sock"


class LogRotationTests(SynchronousTestCase):
    """Which processes get the signal."""

    def setUp(self) -> None:
        """Begin with no signal sent."""
        self.killed: list[tuple[int, int]] = []
        self.closed: list[int] = []
        self.sought: list[str] = []

    def rotation(self, *pids: int, path: str = PATH, kill: Any = None, start: Any = None) -> LogRotation:
        """Make one that finds these processes, and runs its thread at once."""

        def find(path: str) -> list[Any]:
            self.sought.append(path)
            return [SimpleNamespace(peer_pid=pid, close=lambda pid=pid: self.closed.append(pid)) for pid in pids]

        def at_once(target: Callable[[], object], name: str, what: str) -> None:
            target()

        return LogRotation(lambda: path, start or at_once, find, kill or (lambda *order: self.killed.append(order)))

    def test_each_instance_that_drains_is_told(self) -> None:
        """It gets SIGUSR1, and the connections are closed."""
        self.rotation(11, 12).pass_on()
        self.assertEqual(self.sought, [PATH])
        self.assertEqual(self.killed, [(11, signal.SIGUSR1), (12, signal.SIGUSR1)])
        self.assertEqual(self.closed, [11, 12])

    def test_this_process_and_one_of_another_namespace_are_left_alone(self) -> None:
        """The number 0 would signal all processes of the group, and the own one would never end to do so."""
        self.rotation(0, os.getpid()).pass_on()
        self.assertEqual(self.killed, [])
        self.assertEqual(self.closed, [0, os.getpid()])

    def test_one_that_has_just_ended_keeps_no_other_from_being_told(self) -> None:
        """Its signal has no receiver; the next one is sent."""

        def kill(pid: int, number: int) -> None:
            if pid == 11:
                raise ProcessLookupError
            self.killed.append((pid, number))

        self.rotation(11, 12, kill=kill).pass_on()
        self.assertEqual(self.killed, [(12, signal.SIGUSR1)])
        self.assertEqual(self.closed, [11, 12])

    def test_without_a_control_path_none_is_sought(self) -> None:
        """A server without control has no successor either."""
        self.rotation(11, path="").pass_on()
        self.assertEqual(self.sought, [])

    def test_a_refused_thread_is_logged(self) -> None:
        """The server itself has opened its logs again already."""

        def refuse(target: object, name: str, what: str) -> None:
            raise NoThread(what, RuntimeError("can't start new thread"))

        with capturedLogs() as events:
            self.rotation(11, start=refuse).pass_on()
        self.assertEqual(self.killed, [])
        (event,) = events
        self.assertIn("go on in their old log files", formatEvent(event))
