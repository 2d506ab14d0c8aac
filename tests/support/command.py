"""The `graceful` command, run as people run it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graceful.commands.common import USUAL
from graceful.commands.status import statuses
from tests.support.home import Home
from tests.support.server import PROGRAMS, UNPRIVILEGED_USER
from tests.support.waiting import PATIENCE

COMMAND = str(PROGRAMS / "graceful")


def graceful(
    where: Home | Path, *arguments: str, uid: int | None = None, timeout: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in a server's directory.

    :param uid: as this user, if the tests run as root.
    """
    return subprocess.run(
        [*_user(uid), COMMAND, *arguments],
        cwd=where.run if isinstance(where, Home) else where,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start_graceful(home: Home, *arguments: str) -> subprocess.Popen[str]:
    """Start the command, which waits for something."""
    return subprocess.Popen(
        [COMMAND, *arguments],
        cwd=home.run,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def status_of(home: Home) -> dict[str, Any]:
    """What `graceful status --json` would say, without a start of Python: tests look at it all the time."""
    found, _ = statuses(str(home.run / USUAL))
    return {**found[0], "draining": found[1:]}


def told_status(home: Home, *arguments: str) -> dict[str, Any]:
    """What `graceful status --json` says."""
    told = graceful(home, "status", "--json", *arguments)
    assert told.returncode == 0, told
    status: dict[str, Any] = json.loads(told.stdout)
    return status


def _user(uid: int | None) -> Sequence[str]:
    return () if uid is None else ("setpriv", f"--reuid={uid}", f"--regid={uid}", *UNPRIVILEGED_USER)
