"""A gunicorn, which knows nothing of graceful, with the same application."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping

from tests.support.server import APPLICATIONS, PROGRAMS


class Gunicorn:
    """A gunicorn with one worker that has some threads.

    :param application: MODULE:CALLABLE in tests/apps.
    :param environment: added to the process's environment.
    :ivar port: where it listens, on 127.0.0.1.
    """

    def __init__(self, application: str, environment: Mapping[str, str]) -> None:
        # Made here and inherited, so that no port has to be guessed, and clients may connect at once.
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port: int = listening.getsockname()[1]
            command = [str(PROGRAMS / "gunicorn"), "--bind", f"fd://{listening.fileno()}", "--threads", "8"]
            self._process = subprocess.Popen(
                [*command, "--log-level", "warning", "--no-control-socket", application],
                env={**os.environ, "PYTHONPATH": str(APPLICATIONS), **environment},
                pass_fds=[listening.fileno()],
            )

    def __enter__(self) -> Gunicorn:
        return self

    def __exit__(self, *ignored: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
