"""Process 1 collects orphans, and no child that other code waits for."""

from __future__ import annotations

import os
import subprocess

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.process.orphan_reaper import LOOK, UNCLAIMED, OrphanReaper, collect, collect_orphans, ended_children


class OrphanReaperTests(SynchronousTestCase):
    """Zombies that come and go."""

    def setUp(self) -> None:
        """Have no zombie yet."""
        self.clock = Clock()
        self.zombies: set[int] = set()
        self.collected: list[int] = []
        self.trouble: OSError | None = None
        self.reaper = OrphanReaper(self.clock, self.ended, self.collect)

    def ended(self) -> set[int]:
        """Returns the zombies."""
        if self.trouble is not None:
            raise self.trouble
        return set(self.zombies)

    def collect(self, pid: int) -> None:
        """Collect one."""
        self.collected.append(pid)
        self.zombies.discard(pid)

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.pump([LOOK] * int(seconds / LOOK))

    def test_an_orphan_is_collected_when_no_code_has_claimed_it(self) -> None:
        """Not before: code of the event loop may be about to."""
        self.reaper.start()
        self.zombies.add(7)
        self.wait(UNCLAIMED)
        self.assertEqual(self.collected, [])
        self.wait(2 * LOOK)
        self.assertEqual(self.collected, [7])

    def test_a_child_that_other_code_collects_is_left_to_it(self) -> None:
        """Its number may be another process's later, whose time begins then."""
        self.reaper.start()
        for _ in range(3):
            self.zombies.add(7)
            self.wait(UNCLAIMED - LOOK)
            self.zombies.clear()
            self.wait(LOOK)
        self.assertEqual(self.collected, [])

    def test_only_process_1_looks(self) -> None:
        """Every other process has none but its own children."""
        collect_orphans(None)  # which would fail without a reactor

    def test_a_system_that_does_not_tell_is_said_once(self) -> None:
        """The operator hears what to do."""
        self.trouble = OSError("no such file")
        self.reaper.start()
        with capturedLogs() as events:
            self.wait(UNCLAIMED)
        (line,) = [formatEvent(event) or "" for event in events]
        self.assertIn("--init", line)

    def test_zombies_are_found_and_collected(self) -> None:
        """With a real one, of this thread; a second attempt to collect it does no harm."""
        child = subprocess.Popen(["true"])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        self.assertIn(child.pid, ended_children())
        for _ in range(2):
            collect(child.pid)
        self.assertNotIn(child.pid, ended_children())
        child.wait()
