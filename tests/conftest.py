"""How the tests are shared by several processes (pytest-xdist, `--dist=loadgroup`)."""

from __future__ import annotations

import pytest

LOAD = "load"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say which tests belong to one process, in which order; in a single process all stays as it is.

    Those of a file do, since they share what it has started.  And those that put a server under load do: such clients
    take all processors that they can get, so that two loads at once would only make each other slow.  Together these
    take longest, and begin first.
    """
    if not hasattr(config, "workerinput"):
        return
    groups = {item: _group(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: groups[item] != LOAD)


def _group(item: pytest.Item) -> str:
    function = getattr(item, "function", None)
    if function is not None and "Load" in function.__code__.co_names:
        return LOAD
    return f"{item.path.parent.name}/{item.path.name}"
