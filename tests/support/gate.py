"""A gate in the application's code that the test opens.

A test that stops a server "in the middle of a request" must know that the request is in the middle, and
decide itself when it goes on: sleeping a while and hoping fails on a busy machine.  A FIFO does both.  The
application opens it for reading and reads until its end; the test's attempt to open it for writing succeeds
only when the application is there, and the application goes on when the test closes it.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode

from tests.support.waiting import PATIENCE


class Stopping(Protocol):
    """A server that can be told to stop."""

    def terminate(self) -> float:
        """Send SIGTERM."""

    def wait_closed(self) -> float:
        """Wait until it says that its sockets are closed."""


class Gate:
    """One gate, to be passed by one thread.

    :param path: where to make the FIFO.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: int | None = None
        os.mkfifo(path)
        path.chmod(0o644)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.open()
        self.path.unlink()

    def target(self, path: str = "/gate") -> str:
        """Return the request target whose application code stops at this gate."""
        return f"{path}?{urlencode({'path': str(self.path)})}"

    def wait_reached(self, timeout: float = PATIENCE) -> None:
        """Wait until the application stands at the gate."""
        end = time.monotonic() + timeout
        while self._writer is None:
            try:
                self._writer = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                if time.monotonic() > end:
                    raise AssertionError(f"nobody came to {self.path.name} in {timeout} s") from None
                time.sleep(0.002)

    def open_in_a_stop(self, server: Stopping) -> None:
        """Have a server stop when the application stands here, and let that go on when the sockets are closed."""
        self.wait_reached()
        server.terminate()
        server.wait_closed()
        self.open()

    def open(self) -> None:
        """Let the application go on; it must have reached the gate."""
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None
