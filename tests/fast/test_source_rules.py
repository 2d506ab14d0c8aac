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
