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
        expected = 'log = Logger(namespace="graceful")'
        for path in PACKAGE.rglob("*.py"):
            tree = ast.parse(path.read_text())
            calls = [
                node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Logger"
            ]
            at_top = [node.value for node in tree.body if ast.unparse(node).replace("'", '"') == expected]  # type: ignore[attr-defined]
            self.assertEqual(calls, at_top, path)
