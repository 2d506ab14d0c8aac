"""Which processes run."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from graceful.process.process_table import alive, is_zombie


class AliveTests(SynchronousTestCase):
    """This process, one that has ended, and numbers that none has."""

    def test_tells_living_processes_from_dead_ones(self) -> None:
        """We run; one that was collected does not; another user's does; a number too large for one does not."""
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        self.assertEqual((alive(os.getpid()), alive(pid), alive(2**70)), (True, False, False))

        def refuse(pid: int, number: int) -> None:
            raise PermissionError

        self.assertTrue(alive(1, refuse))

    def test_a_zombie_does_not_run(self) -> None:
        """A server that was killed, and whose parent does not collect it, is gone."""
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self.addCleanup(os.waitpid, pid, 0)
        self.assertEqual((is_zombie(pid), alive(pid)), (True, False))
        self.assertEqual((is_zombie(os.getpid()), is_zombie(2**70)), (False, False))
