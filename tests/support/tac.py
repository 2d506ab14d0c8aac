"""A real process of twistd's own that runs a .tac file, with the server somewhere in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.home import Home
from tests.support.server import LOOPBACK, PROGRAMS, Server


class TacServer(Server):
    """A `twistd -ny FILE.tac` process (see :class:`support.server.Server`).

    :param file: the .tac file, which takes the endpoint to listen on from the environment's LISTEN.
    """

    def __init__(self, home: Home, file: Path, *, environment: dict[str, str] | None = None, **more: Any) -> None:
        command = [str(PROGRAMS / "twistd"), "-ny", str(file)]
        listen = LOOPBACK.format(port=0)
        super().__init__(home, command=command, environment={"LISTEN": listen, **(environment or {})}, **more)
