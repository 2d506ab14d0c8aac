"""Where the library's tests run: trial's TestCases never in a process of pytest-twisted.

Its plugin starts the reactor with the first test of a session and keeps it, and trial starts the reactor for each
test.  So pytest collects the TestCases only without that plugin; tests/integration/test_runners.py has it do so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from graceful.testing import pytest_plugin
from tests.integration.shelf import Shelf

deferred_app_server = pytest_plugin.deferred_app_server  # pyproject.toml says why the plugin itself is not loaded


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave trial's TestCases out where pytest-twisted is."""
    if collection_path.name == "test_trial.py" and config.pluginmanager.has_plugin("twisted"):
        return True
    return None


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    """A directory for a library."""
    shelf = Shelf()
    yield shelf
    shelf.remove()
