"""Priorities for systemd's journal, and lines without a time."""

from __future__ import annotations

import os

from twisted.logger import LogLevel, formatEventAsClassicLogText
from twisted.trial.unittest import SynchronousTestCase

from graceful.logs.journal import is_journal, with_priority, without_time


class JournalTests(SynchronousTestCase):
    """When there is a prefix, and which."""

    def test_the_journal_is_the_stream_that_systemd_names(self) -> None:
        """JOURNAL_STREAM is inherited by programs whose output goes elsewhere."""
        here, there = os.pipe()
        self.addCleanup(os.close, there)
        self.addCleanup(os.close, here)
        status = os.fstat(there)
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        self.assertTrue(is_journal(there, environ))
        for fd, given in ((there, {}), (there, {"JOURNAL_STREAM": "1:2"}), (0, environ), (-1, environ)):
            self.assertFalse(is_journal(fd, given), (fd, given))

    def test_each_line_has_the_priority_of_its_event(self) -> None:
        """Every line of a traceback is an error: the journal knows only lines."""
        line = with_priority(formatEventAsClassicLogText)
        for level, prefix in (
            (LogLevel.critical, "<3>"),
            (LogLevel.error, "<3>"),
            (LogLevel.warn, "<4>"),
            (LogLevel.info, ""),
            (LogLevel.debug, "<7>"),
        ):
            text = line({"log_format": "one\ntwo", "log_level": level, "log_time": 0.0, "log_system": "-"})
            assert text is not None
            first, second = text.splitlines()
            self.assertEqual((first[: len(prefix) + 4], second), (f"{prefix}1970", f"{prefix}\ttwo"))
            self.assertEqual(text[-1], "\n")

    def test_an_event_without_level_or_text_stays_as_it_is(self) -> None:
        """What cannot be formatted is not written, and old code logs without a level."""
        self.assertIsNone(with_priority(lambda event: None)({"log_level": LogLevel.error}))
        self.assertEqual(with_priority(lambda event: "text\n")({}), "text\n")

    def test_a_line_without_its_time_is_otherwise_that_of_twistd(self) -> None:
        """The rest of the line is what scripts match; a further line is indented, as in twistd's log."""
        event = {"log_format": "one\ntwo", "log_level": LogLevel.info, "log_namespace": "graceful", "log_time": 0.0}
        usual = formatEventAsClassicLogText(event)
        assert usual is not None
        self.assertEqual(without_time(event), usual.partition(" ")[2])
        self.assertEqual(without_time(event), "[graceful#info] one\n\ttwo\n")
        self.assertIsNone(without_time({"log_format": ""}))
