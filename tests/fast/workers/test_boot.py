"""The first workers, before the reactor runs; their processes are real, since `boot` waits for them."""

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
    """Two workers, whose processes are real."""

    def setUp(self) -> None:
        """Start both workers."""
        super().setUp()
        self.workers: list[WorkerProcess] = []
        self.lines: list[Channel] = []
        for _ in range(2):
            self.start()

    def start(self) -> None:
        """Start a worker."""
        worker = self.make()
        self.workers.append(worker)
        self.lines.append(self.its)
        self.addCleanup(worker.client.close)
        self.addCleanup(worker.channel.close)
        self.addCleanup(self.forget, worker)

    def forget(self, worker: WorkerProcess) -> None:
        """Kill a worker that still runs, and have the supervisor notice its end."""
        if worker.child.fileno() >= 0:
            worker.child.kill()
            worker.child.doRead()

    def coming(self) -> list[WorkerProcess]:
        """Returns the workers that have not ended."""
        return [worker for worker in self.workers if worker.status is None]

    def test_waits_for_all_in_any_order(self) -> None:
        """The wait ends when all workers are ready, in whatever order."""
        for line in reversed(self.lines):
            line.send("ready")
        self.assertTrue(wait_until_ready(self.coming))
        self.assertEqual(self.staff.told.count("ready"), 2)

    def test_the_wait_ends_when_a_worker_ends(self) -> None:
        """If a worker ends, the wait for the others ends, and the reason is known."""
        self.lines[0].send("ready")
        self.lines[1].send("failed", why="wiki cannot be imported")
        self.lines[1].close()
        self.processes[1].kill()
        self.assertFalse(wait_until_ready(self.coming))
        self.assertEqual(self.workers[1].how(), "wiki cannot be imported")

    def test_a_worker_that_ends_after_it_was_ready_is_missing(self) -> None:
        """A worker that has ended after it was ready counts as missing."""
        self.lines[0].send("ready")
        self.lines[0].close()
        self.assertFalse(wait_until_ready(self.first_is_gone))

    def first_is_gone(self) -> list[WorkerProcess]:
        """Have the first worker end once it has said that it is ready.  Returns the others."""
        if "ready" in self.staff.told and "ended" not in self.staff.told:
            self.processes[0].kill()
            self.processes[0].wait()
            self.workers[0].child.doRead()
        return self.coming()

    def test_terminated_workers_have_ended(self) -> None:
        """`terminate` ends all workers, and nothing is watched any more."""
        terminate(self.workers)
        self.assertEqual([worker.status for worker in self.workers], [-15, -15])
        self.assertEqual(self.reactor.readers, [])

    def test_a_worker_that_ignores_sigterm_is_killed(self) -> None:
        """A worker that does not end in time is killed, and the others are not."""
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
        """Whether a process still exists."""
        return os.path.exists(f"/proc/{process.pid}")
