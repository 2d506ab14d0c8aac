"""The command line of `graceful serve`: which option is whose."""

from __future__ import annotations

from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from graceful.config.command_line import TWISTD_FLAGS, TWISTD_VALUES, sort, twistd_help

#: Options of twistd that `graceful serve` does not have: of files with applications in them, and of its own help.
_NOT_OURS = {"encrypted", "file", "help-reactors", "no_save", "originalname", "python", "source", "spew"}


class SortTests(SynchronousTestCase):
    """What `sort` makes of what was typed."""

    def test_each_program_gets_its_own_options(self) -> None:
        """Options of twistd and of the server may stand in any order, before the application or behind it."""
        typed = sort(["--pidfile", "a.pid", "mysite.wsgi", "--threads", "3", "--logfile=x", "--check", "-u", "www"])
        self.assertEqual(typed.twistd, ["--pidfile", "a.pid", "--logfile=x", "-u", "www"])
        self.assertEqual(typed.server, ["--threads", "3", "--check", "mysite.wsgi"])
        self.assertEqual((typed.daemon, typed.help), (False, False))

    def test_a_value_that_looks_like_an_option_stays_a_value(self) -> None:
        """`--access-log -` and a value with dashes belong to their option."""
        typed = sort(["--access-log", "-", "--app-version", "--help", "mysite"])
        self.assertEqual(typed.server, ["--access-log", "-", "--app-version", "--help", "mysite"])
        self.assertFalse(typed.help)

    def test_the_beginning_of_a_name_is_enough(self) -> None:
        """As twistd has it, an option may be abbreviated if there is only one that begins so."""
        self.assertEqual(sort(["--thr", "4", "mysite"]).server, ["--thr", "4", "mysite"])
        self.assertEqual(sort(["--pidf", "a.pid"]).twistd, ["--pidf", "a.pid"])

    def test_the_last_word_on_the_background_counts(self) -> None:
        """A server stays in the foreground unless `--daemon` is the last word on it."""
        self.assertTrue(sort(["--daemon"]).daemon)
        self.assertFalse(sort(["--daemon", "-n"]).daemon)
        self.assertEqual(sort(["--daemon", "-n"]).twistd, [])

    def test_what_no_table_has_goes_to_the_server(self) -> None:
        """An unknown option goes to the server's parser, which refuses it; all names go there, too."""
        self.assertEqual(sort(["--what", "a", "b"]).server, ["--what", "a", "b"])
        self.assertEqual(sort(["--python", "x.tac"]).twistd, [])


class TableTests(SynchronousTestCase):
    """The tables of twistd's options."""

    def test_the_tables_have_every_option_of_twistd(self) -> None:
        """Each option of twistd is in one of the tables, or is one that makes no sense here; none is invented."""
        theirs = {name.rstrip("=").replace("help_reactors", "help-reactors") for name in ServerOptions().longOpt}
        known = TWISTD_VALUES.keys() | TWISTD_FLAGS.keys()
        self.assertEqual(known - {"daemon"} - theirs, set())
        self.assertEqual(theirs - known - _NOT_OURS - {"version", "help"}, set())

    def test_a_value_is_expected_where_twistd_expects_one(self) -> None:
        """An option has a value here if it has one there."""
        theirs = {name[:-1] for name in ServerOptions().longOpt if name.endswith("=")}
        self.assertEqual(TWISTD_VALUES.keys(), theirs - _NOT_OURS)

    def test_the_help_names_each_option(self) -> None:
        """The help has a line for every option."""
        for name in (*TWISTD_VALUES, *TWISTD_FLAGS):
            self.assertIn(f"  --{name}", twistd_help(80))
