"""How the tests are shared by several processes, with pytest-xdist, and what all of these begin with."""

from __future__ import annotations

import ast
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parent.parent


class Sharing(LoadScopeScheduling):  # type: ignore[misc]
    """Says which tests belong to one process.

    Those of a file do, since they share what it has started.  And those that put a server under load do: such clients
    take all processors that they can get, so that two loads at once would only make each other slow.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        return "load" if test.partition("[")[0] in _under_load(file) else file


@cache
def _under_load(file: str) -> set[str]:
    """The tests of a file in whose text `Load` is used."""
    functions = [node for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)]
    return {
        function.name
        for function in functions
        if any(isinstance(node, ast.Name) and node.id == "Load" for node in ast.walk(function))
    }


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    """Have it so, whatever `--dist` says."""
    return Sharing(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Begin as at a terminal: a shell has background jobs ignore SIGINT, and so would every server started here."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have the loads begin first, since together they take longest; in a single process all stays as it is."""
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: getattr(item, "originalname", "") not in _under_load(item.nodeid.partition("::")[0])
        )
