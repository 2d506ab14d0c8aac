"""The pytest fixtures for every project that has graceful installed: `app_server` and `deferred_app_server`.

The second one is for tests with pytest-twisted.  pytest finds both by the entry point `pytest11`.  No module of the
server is imported before a test uses a fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from graceful.testing.server import LiveServer
    from graceful.testing.trial import DeferredServer


@pytest.fixture
def app_server() -> Iterator[Callable[..., LiveServer]]:
    """Start a real server with an application: ``app_server("mysite.wsgi:application", "--deadline", "5")``.

    The server is stopped at the end of the test.
    """
    from graceful.testing.server import LiveServer

    with ExitStack() as stack:
        yield lambda application, *options, **more: stack.enter_context(LiveServer(application, *options, **more))


@pytest.fixture
def deferred_app_server() -> Iterator[Callable[..., Deferred[DeferredServer]]]:
    """Start a real server in a test with pytest-twisted, as `app_server` does; methods that wait return Deferreds.

    The servers, and the connections of their clients, are closed at the end of the test.
    """
    try:
        from pytest_twisted import blockon
    except ModuleNotFoundError as error:
        if error.name != "pytest_twisted":
            raise
        raise ImportError("deferred_app_server needs the package pytest-twisted") from None
    from graceful.testing.trial import start

    with ExitStack() as stack:
        yield partial(start, lambda stop: stack.callback(lambda: blockon(stop())))
