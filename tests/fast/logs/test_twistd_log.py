"""twistd's log, into which a predecessor writes while it is opened."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from twisted.logger import FileLogObserver, Logger
from twisted.trial.unittest import SynchronousTestCase

from graceful.logs import twistd_log as logs
from tests.fast.doubles import directory_for

DRAINED = "drained in 1.0 s: 5 finished, 0 taken down, 0 abandoned\n"


class SharedTests(SynchronousTestCase):
    """No line of another process is overwritten."""

    def setUp(self) -> None:
        """Make a log with a line of a predecessor in it."""
        self.path = os.path.join(directory_for(self), "site.log")
        self.write("socket closed\n")

    def write(self, line: str) -> None:
        """Write as the predecessor."""
        with open(self.path, "a") as log:
            log.write(line)

    def test_a_log_that_cannot_be_opened_ends_the_start_in_one_line(self) -> None:
        """A daemon in a directory that it may not write to says which file it is, and what to do."""
        logs.write({"nodaemon": False, "logfile": "/nonexistent/site.log"}, False)
        line = str(self.assertRaises(SystemExit, logs.text_observer))
        self.assertIn("/nonexistent/site.log", line)
        self.assertIn("--logfile", line)

    def lines(self, as_json: bool, observer: Callable[[], FileLogObserver]) -> list[str]:
        """Open the log, have the predecessor write its last line, and then begin; what is in the log."""
        options: dict[str, Any] = {"nodaemon": True, "logfile": self.path}
        logs.write(options, as_json)
        self.assertEqual(options["logger"], f"graceful.logs.twistd_log.{observer.__name__}")
        ours = observer()
        self.write(DRAINED)
        Logger(observer=ours).info("starting up")
        ours._outFile.close()
        with open(self.path) as log:
            return log.readlines()

    def test_text_that_another_process_wrote_stays(self) -> None:
        """What was written between our opening it and our first line stays."""
        old, drained, begun = self.lines(False, logs.text_observer)
        self.assertEqual((old, drained), ("socket closed\n", DRAINED))
        self.assertIn("starting up", begun)

    def test_text_that_another_process_wrote_stays_in_front_of_json(self) -> None:
        """Text that another process wrote stays in front of JSON."""
        old, drained, begun = self.lines(True, logs.json_observer)
        self.assertEqual((old, drained), ("socket closed\n", DRAINED))
        self.assertEqual(json.loads(begun)["log_text"], "starting up")
