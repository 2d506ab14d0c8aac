"""The `graceful` command."""

from __future__ import annotations

import contextlib
import io

from twisted.trial.unittest import SynchronousTestCase

import graceful.cli


class CommandTests(SynchronousTestCase):
    """What the command does, for now."""

    def setUp(self) -> None:
        """Let the distribution have a version, installed or not."""
        self.patch(graceful.cli, "version", lambda name: f"1.2.3 of {name}")
        self.out, self.err = io.StringIO(), io.StringIO()

    def run_command(self, *arguments: str) -> int | str | None:
        """Run it, and return its exit status."""
        with contextlib.redirect_stdout(self.out), contextlib.redirect_stderr(self.err):
            try:
                return graceful.cli.main(arguments)
            except SystemExit as leaving:
                return leaving.code

    def test_version(self) -> None:
        """--version tells the version of the installed distribution."""
        self.assertEqual(self.run_command("--version"), 0)
        self.assertEqual(self.out.getvalue(), "graceful 1.2.3 of graceful\n")

    def test_help(self) -> None:
        """--help tells how an instance is started."""
        self.assertEqual(self.run_command("--help"), 0)
        self.assertIn("twistd -n graceful-app", self.out.getvalue())

    def test_anything_else(self) -> None:
        """Anything else fails with status 2 and one line that tells what there is."""
        for arguments in ([], ["status"], ["stop", "--quiet"], ["--nope"], ["--vers"]):
            self.err.seek(0)
            self.err.truncate()
            self.assertEqual(self.run_command(*arguments), 2, arguments)
            text = self.err.getvalue()
            self.assertEqual(text.count("\n"), 1, text)
            for word in (*arguments, "--version", "--help", "twistd graceful-app"):
                self.assertIn(word, text)
        self.assertEqual(self.out.getvalue(), "")
