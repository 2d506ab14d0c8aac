"""`graceful serve`: its help, and its refusals.  That it serves is tested with a real process."""

from __future__ import annotations

from tests.fast.test_cli import CommandTestCase


class ServeTests(CommandTestCase):
    """The command, as far as it starts nothing."""

    def test_help_has_the_options_of_both_programs(self) -> None:
        """--help shows the server's options and twistd's, and examples that can be typed."""
        self.assertEqual(self.run_command("serve", "--help"), 0)
        for word in ("--threads N", "--pidfile PATH", "--daemon", "  graceful serve mysite.wsgi:application"):
            self.assertIn(word, self.out.getvalue())
        self.assertNotIn("twistd -n", self.out.getvalue())

    def test_a_bad_option_of_twistd_is_refused_in_one_line(self) -> None:
        """A mistake in twistd's options is one line and status 2, without twistd's whole help."""
        for words in (["--umask", "x"], ["--uid", "no such user"]):
            self.assertEqual(self.run_command("serve", *words, "mysite"), 2)
            self.assertIn("serve: ", self.one_line())
        self.assertEqual(self.out.getvalue(), "")

    def test_control_before_serve_is_refused(self) -> None:
        """`graceful --control PATH serve` says where the option belongs."""
        self.assertEqual(self.run_command("--control", self.path, "serve"), 2)
        self.assertIn("behind", self.one_line())
