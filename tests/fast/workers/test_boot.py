"""The first workers, before the reactor runs; their processes are real, so that they can be waited for."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

from graceful.workers import boot
from graceful.workers.boot import terminate, wait_until_ready
from graceful.workers.channel import Channel
from graceful.workers.worker import WorkerProcess
from tests.fast.workers.test_worker import Case


class BootTests(Case):
    """Two of them."""

    def setUp(self) -> None:
        """Start them."""
        super().setUp()
        self.workers: list[WorkerProcess] = []
        self.lines: list[Channel] = []
        for _ in range(2):
            self.start()

    def start(self) -> None:
        """Start one."""
        worker = self.make()
        self.workers.append(worker)
        self.lines.append(self.its)
        self.addCleanup(worker.client.close)
        self.addCleanup(worker.channel.close)
        self.addCleanup(self.forget, worker)

    def forget(self, worker: WorkerProcess) -> None:
        """Have its end noticed."""
        if worker.child.fileno() >= 0:
            worker.child.kill()
            worker.child.doRead()

    def coming(self) -> list[WorkerProcess]:
        """Those that have not ended."""
        return [worker for worker in self.workers if worker.status is None]

    def test_waits_for_all_in_any_order(self) -> None:
        """It is waited for all, in whatever order they are ready."""
        for line in reversed(self.lines):
            line.send("ready")
        self.assertTrue(wait_until_ready(self.coming))
        self.assertEqual(self.staff.told.count("ready"), 2)

    def test_one_ends(self) -> None:
        """Then it is waited for nobody else; why it has ended is known."""
        self.lines[0].send("ready")
        self.lines[1].send("failed", why="wiki cannot be imported")
        self.lines[1].close()
        self.processes[1].kill()
        self.assertFalse(wait_until_ready(self.coming))
        self.assertEqual(self.workers[1].how(), "wiki cannot be imported")

    def test_ready_and_gone(self) -> None:
        """One that has ended after it was ready is missing all the same."""
        self.lines[0].send("ready")
        self.lines[0].close()
        self.assertFalse(wait_until_ready(self.first_is_gone))

    def first_is_gone(self) -> list[WorkerProcess]:
        """Have the first one end once it has been heard."""
        if "ready" in self.staff.told and "ended" not in self.staff.told:
            self.processes[0].kill()
            self.processes[0].wait()
            self.workers[0].child.doRead()
        return self.coming()

    def test_dismissed(self) -> None:
        """They are told to end, and have ended."""
        terminate(self.workers)
        self.assertEqual([worker.status for worker in self.workers], [-15, -15])
        self.assertEqual(self.reactor.readers, [])

    def test_dismissed_by_force(self) -> None:
        """One that does not end in time is killed, and the others are not."""
        self.patch(boot, "ENDS_IN", 0.2)
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which it inherits
        try:
            self.start()
        finally:
            signal.signal(signal.SIGTERM, before)
        terminate([self.workers[2], self.workers[0]])
        self.assertEqual(self.workers[2].status, -9)
        self.assertIn(self.workers[0].status, (-15, -9))
        for process in self.processes[::2]:
            self.assertFalse(self.there(process))

    @staticmethod
    def there(process: subprocess.Popen[Any]) -> bool:
        """Whether a process is still there."""
        return os.path.exists(f"/proc/{process.pid}")
