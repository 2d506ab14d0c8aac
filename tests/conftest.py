"""How the tests are shared by several processes, with pytest-xdist, and what all of these begin with."""

from __future__ import annotations

import ast
import signal
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parent.parent

# A machine that does other things as well makes an example slow, not wrong.
settings.register_profile("graceful", deadline=None)
settings.load_profile("graceful")


#: Of the files whose tests share what a fixture has started, those that take longest: what begins late ends late.
LONGEST: Final = ("test_stuck_threads", "test_systemd", "test_deadlines", "test_injected_failures", "test_reactor")


class Sharing(LoadScopeScheduling):  # type: ignore[misc]
    """Says which tests belong to one process.

    Those of a file do if a fixture of theirs lives as long as the file.  And those that put a server under load do:
    such clients take all processors that they can get, so that two loads at once would only make each other slow.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if test.partition("[")[0] in _under_load(file):
            return "load"
        return file if _shares(file) else nodeid


@cache
def _text(file: str) -> str:
    return (ROOT / file).read_text()


@cache
def _under_load(file: str) -> set[str]:
    """The tests of a file in whose text `Load` is used."""
    functions = [node for node in ast.parse(_text(file)).body if isinstance(node, ast.FunctionDef)]
    return {
        function.name
        for function in functions
        if any(isinstance(node, ast.Name) and node.id == "Load" for node in ast.walk(function))
    }


@cache
def _shares(file: str) -> bool:
    """Whether the tests of a file share what a fixture has started."""
    return 'scope="module"' in _text(file) or "module_home" in _text(file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    """Have it so, whatever `--dist` says."""
    return Sharing(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Begin as at a terminal: a shell has background jobs ignore SIGINT, and so would every server started here."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have what takes longest begin first; in a single process all stays as it is."""
    if hasattr(config, "workerinput"):
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """The lower, the earlier: the loads, which together take longest; the longest files; what shares; the rest."""
    file = item.nodeid.partition("::")[0]
    name = Path(file).stem
    if getattr(item, "originalname", "") in _under_load(file):
        return 0
    if name in LONGEST:
        return 1 + LONGEST.index(name)
    return 1 + len(LONGEST) + (not _shares(file))
