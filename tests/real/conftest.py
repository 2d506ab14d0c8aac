"""What the real tests need from the machine, and the directories that they work in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.home import UNPRIVILEGED, Home
from tests.support.server import PROGRAMS

UIDS = (0, UNPRIVILEGED) if os.getuid() == 0 else (os.getuid(),)
"""The users to run servers as: the way a listening socket is closed depends on privileges."""


@pytest.fixture(scope="session", autouse=True)
def _plugin_installed() -> None:
    """Fail at once, and clearly, when the `twistd` beside this interpreter does not know `graceful-app`."""
    known = subprocess.run([PROGRAMS / "twistd", "--help"], capture_output=True, text=True, check=True).stdout
    if "graceful-app" not in known:
        pytest.exit(f"{PROGRAMS}/twistd does not know graceful-app: run `make install`", returncode=2)


def _home(uid: int) -> Iterator[Home]:
    home = Home(uid)
    try:
        yield home
        if not home.disturbed:
            assert home.left_behind() == []
    finally:
        home.remove()


@pytest.fixture
def home() -> Iterator[Home]:
    """Directories for servers of the user that runs the tests, found clean at the end."""
    yield from _home(os.getuid())


@pytest.fixture(params=UIDS, ids=lambda uid: "root" if uid == 0 else f"uid {uid}")
def any_home(request: pytest.FixtureRequest) -> Iterator[Home]:
    """Directories for servers of each kind of user, found clean at the end."""
    yield from _home(request.param)


@pytest.fixture(scope="module")
def module_home() -> Iterator[Home]:
    """Directories for a server that all tests of a module share, found clean at the end."""
    yield from _home(os.getuid())


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test has opened, and ends what it has started, whatever its state."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=["takeover", "SIGHUP"])
def deploy(request: pytest.FixtureRequest) -> str:
    """Both ways to deploy a single process."""
    return str(request.param)
