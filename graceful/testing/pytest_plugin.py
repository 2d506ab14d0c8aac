"""The fixture `app_server`, for every project that has graceful installed.

pytest finds it by the entry point `pytest11`.  Nothing of the server is imported before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from graceful.testing.server import LiveServer


@pytest.fixture
def app_server() -> Iterator[Callable[..., LiveServer]]:
    """Start a real server with an application: ``app_server("mysite.wsgi:application", "--deadline", "5")``.

    It is ended with the test.
    """
    from graceful.testing.server import LiveServer

    with ExitStack() as stack:
        yield lambda application, *options, **more: stack.enter_context(LiveServer(application, *options, **more))
