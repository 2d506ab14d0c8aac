"""Options from the environment and from files: what is found, what is passed over, what is refused."""

from __future__ import annotations

import os
import shutil
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from graceful.config.sources import BadSource, Given, from_environment, from_file, gather


class SourcesTestCase(SynchronousTestCase):
    """Writes files into a directory of its own."""

    def setUp(self) -> None:
        """Make the directory."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)

    def written(self, text: str, name: str = "site.toml") -> str:
        """Write a file, and return its path."""
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        return path


class EnvironmentTests(SynchronousTestCase):
    """Variables of the environment."""

    def test_a_variable_is_an_option_in_capitals(self) -> None:
        """A variable sets its option; blanks separate the values of one that can be repeated."""
        found = from_environment({"GRACEFUL_MAX_BODY": "1M", "GRACEFUL_LISTEN": "tcp:1 tcp:2", "HOME": "/"})
        self.assertEqual(found["max-body"], Given(("1M",), "GRACEFUL_MAX_BODY"))
        self.assertEqual(found["listen"].texts, ("tcp:1", "tcp:2"))
        self.assertEqual(len(found), 2)

    def test_an_unknown_variable_is_refused_with_the_nearest(self) -> None:
        """A misspelt variable is an error that names the nearest one, and so is an order for one start."""
        with self.assertRaisesRegex(BadSource, "GRACEFUL_WORKRES: .*nearest is GRACEFUL_WORKERS"):
            from_environment({"GRACEFUL_WORKRES": "2"})
        with self.assertRaises(BadSource):
            from_environment({"GRACEFUL_CHECK": "1"})

    def test_what_others_set_is_passed_over(self) -> None:
        """Links of Kubernetes' services, a supervisor's variable, a test run's and empty ones set nothing."""
        links = ("SERVICE_HOST", "PORT", "PORT_80_TCP_ADDR", "APP_SERVICE_PORT_HTTP", "APP_PORT_80_TCP")
        others = {f"GRACEFUL_{name}": "x" for name in (*links, "WORKER", "TEST_POINTS")}
        self.assertEqual(from_environment({**others, "GRACEFUL_THREADS": ""}), {})

    def test_a_successor_is_no_flag(self) -> None:
        """GRACEFUL_TAKEOVER is the option if it says yes or no, and otherwise the socket of a server."""
        self.assertEqual(from_environment({"GRACEFUL_TAKEOVER": "/run/graceful.sock"}), {})
        self.assertEqual(from_environment({"GRACEFUL_TAKEOVER": "yes"})["takeover"].texts, ("yes",))


class FileTests(SourcesTestCase):
    """TOML files."""

    def test_values_are_kept_as_they_would_be_typed(self) -> None:
        """Numbers, strings and lists; names with - or with _; a flag."""
        path = self.written('threads = 3\ndeadline = 0.5\nmax_body = "1M"\nlisten = ["tcp:1"]\ntakeover = true\n')
        found = {name: given.texts for name, given in from_file(path).items()}
        expected = {"threads": ("3",), "deadline": ("0.5",), "max-body": ("1M",), "listen": ("tcp:1",)}
        self.assertEqual(found, {**expected, "takeover": ("true",)})

    def test_what_cannot_be_set_is_refused(self) -> None:
        """One line says the file, the key and what is expected."""
        wrong = {
            "treads = 3": "treads: there is no such option; the nearest is threads",
            "check = true": "check: there is no such option",
            'config = "x"': "config: there is no such option",
            "threads = true": "threads: expected a string or a number",
            "threads = [1, 2]": "threads: expected a string or a number",
            "listen = [[]]": "listen: expected a string or a number, or a list of them",
            "takeover = 1": "takeover: expected true or false",
            "max-body = 1\nmax_body = 1": "max_body is there twice",
            "threads =": "is no TOML",
        }
        for text, why in wrong.items():
            with self.assertRaisesRegex(BadSource, why):
                from_file(self.written(text))
        with self.assertRaisesRegex(BadSource, "No such file"):
            from_file(os.path.join(self.directory, "nowhere.toml"))

    def test_a_project_has_a_table_for_it(self) -> None:
        """Of a pyproject.toml, [tool.graceful] counts."""
        path = self.written("[project]\nname = 'x'\n[tool.graceful]\nthreads = 3\n", "pyproject.toml")
        self.assertEqual(from_file(path), {"threads": Given(("3",), path)})
        with self.assertRaisesRegex(BadSource, "expected a table"):
            from_file(self.written("[tool]\ngraceful = 1\n", "pyproject.toml"))


class GatherTests(SourcesTestCase):
    """Which source goes before which."""

    def test_the_environment_goes_before_the_file(self) -> None:
        """Of two values, the environment's holds; what it does not set comes from the file."""
        path = self.written("threads = 3\nqueue = 4\n")
        found = gather({"GRACEFUL_THREADS": "8", "GRACEFUL_CONFIG": path}, None, "/nowhere")
        self.assertEqual((found["threads"].texts, found["queue"].texts), (("8",), ("4",)))
        self.assertNotIn("config", found)

    def test_a_named_file_replaces_the_project(self) -> None:
        """pyproject.toml is read only if no file is named; the command line's name goes before the environment's."""
        self.written("[tool.graceful]\nthreads = 1\n", "pyproject.toml")
        self.assertEqual(gather({}, None, self.directory)["threads"].texts, ("1",))
        path = self.written("queue = 4\n")
        self.assertEqual([*gather({"GRACEFUL_CONFIG": "/nowhere"}, path, self.directory)], ["queue"])

    def test_a_project_that_does_not_mention_the_server_is_not_parsed(self) -> None:
        """A broken or missing pyproject.toml of a project that has no settings here hinders no start."""
        self.written("broken", "pyproject.toml")
        self.assertEqual(gather({}, None, self.directory), {})
        self.assertEqual(gather({}, None, "/nowhere"), {})
