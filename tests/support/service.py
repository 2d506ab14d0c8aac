"""A real process of any Twisted service, under the graceful reactor or the stock one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.support.home import Home
from tests.support.server import LOG_FILE, PROGRAMS, Server

STARTING = r"\S+ starting on (?P<port>\d+)$"


class Service(Server):
    """A `twistd -n --reactor=REACTOR ...` process (see :class:`support.server.Server`).

    :param arguments: what stands behind twistd's own options.
    :param reactor: `graceful`, or a stock one.
    :param daemon: whether twistd goes to the background.
    :param environment: added to the process's environment.
    """

    def __init__(
        self,
        home: Home,
        *arguments: str,
        reactor: str = "graceful",
        daemon: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._reactor = reactor
        how = f"--logfile={home.logs / LOG_FILE}" if daemon else "-n"
        command = [str(PROGRAMS / "twistd"), how, f"--reactor={reactor}", *arguments]
        super().__init__(home, command=command, daemon=daemon, environment=environment, wait_open=False)

    def check_log(self) -> None:
        """Assert that there is no traceback in the log; one of a service that was cut off is not ours."""
        if self._reactor == "graceful":
            super().check_log()

    @property
    def port(self) -> int:
        """The port that it listens on first."""
        return int(self.wait_line(STARTING, 30)["port"])


def files(home: Home, size: int) -> tuple[Path, bytes]:
    """Make a directory with one large file; it and what is in the file."""
    directory = home.path / "files"
    directory.mkdir()
    data = os.urandom(64 * 1024) * (size // (64 * 1024))
    (directory / "large").write_bytes(data)
    return directory, data
