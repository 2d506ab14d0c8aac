"""What start-up says about the interpreter."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from graceful.process.interpreter import NEWEST_TRIED, caveats, is_compiled

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


class CompiledTests(SynchronousTestCase):
    """Whether compiled modules run."""

    def test_a_source_is_not_compiled(self) -> None:
        """A module that Python reads from its source does not count."""
        self.assertFalse(is_compiled("graceful.process.interpreter"))

    def test_an_extension_module_is_compiled(self) -> None:
        """A module in a shared library counts."""
        self.assertTrue(is_compiled("httptools.parser.parser"))

    def test_a_module_that_is_missing_is_not_compiled(self) -> None:
        """A question for a module that there is not has an answer."""
        self.assertFalse(is_compiled("graceful.web.nothing"))


class CaveatTests(SynchronousTestCase):
    """What an operator should know."""

    def test_nothing_is_said_of_a_version_that_was_tried(self) -> None:
        """The newest that was tried, and older ones, need no line."""
        for version in ((3, 10), NEWEST_TRIED):
            self.assertEqual(caveats(version, lambda: True), [])

    def test_a_version_newer_than_the_newest_tried_is_named_in_one_line(self) -> None:
        """The line names both versions."""
        (line,) = caveats((NEWEST_TRIED[0], NEWEST_TRIED[1] + 1), lambda: True)
        self.assertIn(f"CPython 3.{NEWEST_TRIED[1] + 1} is newer than 3.{NEWEST_TRIED[1]}", line)

    def test_an_interpreter_without_its_lock_is_told_how_to_start(self) -> None:
        """The line says what is wrong, and how to start."""
        (line,) = caveats(NEWEST_TRIED, lambda: False)
        self.assertIn("not made for CPython without its lock", line)
        self.assertIn("PYTHON_GIL=1", line)

    def test_this_interpreter_is_asked(self) -> None:
        """Without arguments it is about the interpreter that runs."""
        self.assertEqual(bool(caveats()), sys.version_info[:2] > NEWEST_TRIED)

    def test_the_newest_tried_is_the_newest_classifier(self) -> None:
        """The package's classifiers end with the newest version that was tried."""
        versions = re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', PROJECT.read_text())
        self.assertEqual([int(version) for version in versions], list(range(10, NEWEST_TRIED[1] + 1)))
