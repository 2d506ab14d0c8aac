"""`graceful config`: what it prints, and what it refuses."""

from __future__ import annotations

import os

from graceful.commands.config import as_toml
from graceful.config.option_table import GROUPS
from graceful.config.sources import NAMES, Given, from_file
from tests.fast.test_cli import CommandTestCase


class ConfigTests(CommandTestCase):
    """The command."""

    def setUp(self) -> None:
        """Have one variable of the environment."""
        super().setUp()
        self.patch(os, "environ", {**os.environ, "GRACEFUL_QUEUE": "7", "GRACEFUL_THREADS": "7"})

    def test_each_value_has_its_source(self) -> None:
        """The command line goes before the environment; what is not set is a comment with its default."""
        self.assertEqual(
            self.run_command("config", "mysite", "--threads", "3", "--listen=tcp:1", "--pidfile", "x"), 0
        )
        said = self.out.getvalue().splitlines()
        for line in (
            'application = "mysite"  # the command line',
            'listen = ["tcp:1"]  # the command line',
            "threads = 3  # the command line",
            "queue = 7  # GRACEFUL_QUEUE",
            "# deadline: 200 (default)",
        ):
            self.assertIn(line, said)

    def test_a_mistake_is_status_2(self) -> None:
        """An unknown option, a value that is missing and a second application are refused in one line each."""
        for words in (["--what"], ["--threads"], ["one", "two"], ["--config", "/nowhere.toml"]):
            self.assertEqual(self.run_command("config", *words), 2, words)
            self.assertIn("config: ", self.one_line())

    def test_the_output_is_a_file_for_config(self) -> None:
        """What is printed can be read again, with every option in it and with characters that TOML has to quote."""
        repeated = {"listen": Given(('a"b', "c\\d"), "x"), "takeover": Given(("true",), "x")}
        repeated["reload"] = repeated["preload"] = Given(("false",), "x")
        given = {name: Given(("007",), "x") for name in NAMES if name != "config"} | repeated
        path = os.path.join(self.directory, "site.toml")
        with open(path, "w") as file:
            file.write(as_toml(given))
        self.assertEqual(
            {name: one.texts for name, one in from_file(path).items()}, {n: g.texts for n, g in given.items()}
        )

    def test_every_option_is_shown(self) -> None:
        """Without any setting, each option is there as a comment."""
        said = as_toml({})
        for option in (option for group in GROUPS.values() for option in group):
            if option.name in NAMES and option.name != "config":
                self.assertIn(f"# {option.name}: ", said)
