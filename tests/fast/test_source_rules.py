"""Rules for the source that no linter has: read from the source itself."""

from __future__ import annotations

import ast
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import graceful

PACKAGE = Path(graceful.__file__).parent


class SourceRules(SynchronousTestCase):
    """Every module of the package keeps them."""

    def test_every_logger_is_module_level_with_the_public_namespace(self) -> None:
        """Twisted replaces the namespace of a logger that is a class attribute by the class's path."""
        for path in PACKAGE.rglob("*.py"):
            tree = ast.parse(path.read_text())
            calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
            loggers = [f"log = {call}" for call in calls if call.startswith("Logger(")]
            at_top = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign)]
            for logger in loggers:
                self.assertEqual(logger, "log = Logger(namespace='graceful')", path)
                self.assertIn(logger, at_top, path)

    def test_no_two_classes_have_one_name(self) -> None:
        """A name in a traceback or a search leads to one place; doubles of other libraries' classes keep theirs."""
        homes: dict[str, list[Path]] = {}
        for path in PACKAGE.rglob("*.py"):
            if path.parent.name != "contrib":
                for node in ast.parse(path.read_text()).body:
                    if isinstance(node, ast.ClassDef):
                        homes.setdefault(node.name, []).append(path)
        self.assertEqual({name: paths for name, paths in homes.items() if len(paths) > 1}, {})

    def test_no_two_modules_differ_by_an_s(self) -> None:
        """Singular and plural of one word as two modules tell nothing about which has what."""
        names = {path.stem for path in PACKAGE.rglob("*.py")}
        self.assertEqual({name for name in names if f"{name}s" in names}, set())

    def test_six_modules_are_outside_of_the_folders(self) -> None:
        """Every other module has a room."""
        loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
        self.assertEqual(loose, {"_version", "cli", "demo", "humanize", "options", "tap"})
