"""Word to the service manager."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from graceful.process.systemd import LONGEST, SystemdNotifier, take


class TakeTests(SynchronousTestCase):
    """What a process is told is taken out of its environment."""

    def test_children_inherit_nothing_that_systemd_says(self) -> None:
        """Everything that systemd says is taken, and nothing else."""
        said = {
            "NOTIFY_SOCKET": "/n",
            "WATCHDOG_USEC": "1",
            "WATCHDOG_PID": "2",
            "LISTEN_PID": "3",
            "LISTEN_FDS": "1",
        }
        environ = {**said, "PATH": "/bin"}
        self.assertEqual(take(environ), said)
        self.assertEqual(environ, {"PATH": "/bin"})


class NotifyTests(SynchronousTestCase):
    """What is sent, to a datagram socket."""

    def setUp(self) -> None:
        """Be the service manager."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = os.path.join(self.directory, "notify")
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.manager.close)
        self.manager.bind(self.path)
        self.manager.setblocking(False)

    def heard(self) -> list[str]:
        """The assignments of the next datagram."""
        return self.manager.recv(4096).decode().split("\n")

    def test_sends_each_notification_as_one_datagram(self) -> None:
        """Each word is one datagram, and a time is in microseconds with something to spare."""
        notify = SystemdNotifier({"NOTIFY_SOCKET": self.path})
        notify.ready()
        self.assertEqual(self.heard(), ["READY=1", f"MAINPID={os.getpid()}", "STATUS=serving"])
        notify.stopping(212)
        self.assertEqual(self.heard(), ["STOPPING=1", "EXTEND_TIMEOUT_USEC=217000000"])
        notify.status("finishing: 2 in flight", 100)
        self.assertEqual(self.heard(), ["STATUS=finishing: 2 in flight", "EXTEND_TIMEOUT_USEC=105000000"])
        notify.status("x" * 1000)
        self.assertEqual(self.heard(), ["STATUS=" + "x" * LONGEST])
        notify.alive()
        self.assertEqual(self.heard(), ["WATCHDOG=1"])

    def test_a_predecessor_sends_the_time_of_its_drain_when_the_unit_stops(self) -> None:
        """After a takeover nothing is sent; when the unit stops, only how long this process still takes."""
        notify = SystemdNotifier({"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "3000000"})
        notify.hand_over(4712)
        self.assertEqual(self.heard(), ["MAINPID=4712"])
        self.assertIsNone(notify.watchdog)
        notify.stopping(212)
        notify.status("serving")
        notify.status("finishing: 2 in flight", 100)  # would put off the watchdog of the main process
        self.assertRaises(BlockingIOError, self.heard)
        notify.unit_stops()
        notify.stopping(212)
        notify.status("serving")
        self.assertRaises(BlockingIOError, self.heard)
        notify.status("finishing: 2 in flight", 100)
        self.assertEqual(self.heard(), ["EXTEND_TIMEOUT_USEC=105000000"])

    def test_sends_to_an_abstract_address(self) -> None:
        """An @ stands for the zero byte of an abstract address."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(f"\0graceful-test-{os.getpid()}")
            SystemdNotifier({"NOTIFY_SOCKET": f"@graceful-test-{os.getpid()}"}).alive()
            self.assertEqual(manager.recv(100), b"WATCHDOG=1")

    def test_sends_nothing_without_a_manager(self) -> None:
        """Without a manager nothing is sent; one that is gone is told of once."""
        SystemdNotifier({}).ready()
        gone = SystemdNotifier({"NOTIFY_SOCKET": os.path.join(self.directory, "gone")})
        gone.ready()
        gone.alive()

    def test_halves_the_watchdog_period(self) -> None:
        """Signs of life are due at half the period, if it is we who are watched."""
        given = {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "3000000"}
        self.assertEqual(SystemdNotifier(given).watchdog, 1.5)
        self.assertEqual(SystemdNotifier({**given, "WATCHDOG_PID": "7"}, pid=7).watchdog, 1.5)
        for other in ({"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"NOTIFY_SOCKET": ""}):
            self.assertIsNone(SystemdNotifier({**given, **other}, pid=7).watchdog, other)
