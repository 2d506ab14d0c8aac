"""Runs a real server for a test: starts its process, gives it orders, replaces it, and stops it.

The server can import what the test can import, since it gets the test's `sys.path`.  It writes only into a temporary
directory, which is removed when it stops.  A redeploy is a real one: the next process takes over the listening
sockets, and the former one finishes the requests that it has.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from graceful.control.client import ClientError, ControlClient, connect_to
from graceful.drain.state import State
from graceful.testing.client import Answer, Lost, Pending, StrictClient

#: A test's clients are on the same machine: no request is on its way for seconds, and no stop has to wait for one.
_SHORT: Final = ("--idle-grace", "5")

#: Seconds within which a server must have started, or must have reached a state.
WITHIN: Final = 30.0

#: Seconds between two looks at a server.
_LOOK_AGAIN: Final = 0.02


class StartFailed(Exception):
    """The server did not start.  The text has its log."""


class _Process:
    """One process of the server.

    :ivar told: it was told to stop, or was replaced; so it need not listen any more.
    """

    def __init__(self, command: list[str], directory: Path, environment: Mapping[str, str]) -> None:
        self.log = directory / f"log-{time.monotonic_ns()}"
        self.told = False
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def alive(self) -> bool:
        return self.popen.poll() is None

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class LiveServer:
    """A `twistd graceful-app` with an application; a context manager that stops it.

    :param application: MODULE:CALLABLE.
    :param options: options of `graceful-app`, such as ``"--deadline", "5"``.
    :param environment: variables that the server gets in addition to those of the test.
    :raises StartFailed: the server does not start.
    :ivar port: the server's port on 127.0.0.1.
    """

    def __init__(self, application: str, *options: str, environment: Mapping[str, str] | None = None) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="graceful-"))
        self._application = application
        self._options = list(options)
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            **(environment or {}),
        }
        self._control = str(self._directory / "control.sock")
        self._processes: list[_Process] = []
        try:
            self._start("tcp:0:interface=127.0.0.1")
        except BaseException:
            self.stop()
            raise
        (name,) = (socket["name"] for socket in self._status()["sockets"])
        self.port = int(name.rpartition(":")[2])
        self._client = StrictClient(self.port, self._listens)

    def __enter__(self) -> LiveServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # -- requests -----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The server's address, such as `http://127.0.0.1:8080`, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def lost(self) -> list[Lost]:
        """The lost requests, in the order in which they were lost."""
        return self._client.lost

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send a request.  Returns its answer.

        An answer of 502, 503 or 504 is returned, and the request counts as lost.

        :param headers: in Python's spelling: ``content_type="text/plain"``.
        :raises LostRequest: no whole answer came.
        :raises Refused: no server listens, and none should.
        """
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._client.request(method, path, body, fields)

    def get(self, path: str, **headers: str) -> Answer:
        """Send a GET.  Returns its answer; see :meth:`request`."""
        return self.request("GET", path, None, **headers)

    def begin(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Pending:
        """Send a request in a thread.  Returns at once."""
        return Pending(lambda: self.request(method, path, body, **headers))

    def arrived(self, path: str, count: int = 1, within: float = WITHIN) -> None:
        """Wait until `count` requests for a path are in flight.

        :param within: seconds to wait at most.
        :raises AssertionError: they are not in flight by then.
        """
        self._wait(
            lambda: sum(exchange["path"] == path for exchange in self.in_flight()) >= count,
            within,
            f"no {count} requests for {path} are in flight",
        )

    # -- orders -------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Have the server leave the rotation: its health says that it goes down, and it still serves everything."""
        self._order("/leave")

    def enter(self) -> None:
        """Have the server enter the rotation again."""
        self._order("/enter")

    def sigterm(self) -> None:
        """Send SIGTERM to the server."""
        process = self._processes[-1]
        process.told = True
        process.popen.send_signal(signal.SIGTERM)

    def closed(self, within: float = WITHIN) -> None:
        """Wait until the server's listening sockets are closed.

        :param within: seconds to wait at most.
        :raises AssertionError: they are not closed by then.
        """
        self._wait(self._is_closed, within, "its sockets are not closed")

    def gone(self, within: float = WITHIN) -> int:
        """Wait until the server has ended.

        :param within: seconds to wait at most.
        :returns: the exit status; negative if a signal has ended the process.
        :raises AssertionError: it has not ended by then.
        """
        self._wait(lambda: not self._processes[-1].alive(), within, "it has not ended")
        return self._processes[-1].popen.returncode

    def redeploy(self) -> int:
        """Replace the server's process by a new one, as a deploy does.

        The new process takes over the sockets.  The old one finishes the requests that it has, while this returns.

        :returns: the process id of the new one.
        :raises StartFailed: the new process does not start; the old one still serves.
        """
        old = self._processes[-1]
        self._start(f"tcp:{self.port}:interface=127.0.0.1", "--takeover")
        old.told = True
        return self._processes[-1].popen.pid

    def in_flight(self) -> list[dict[str, Any]]:
        """Returns the exchanges in flight in all processes of the server, as `graceful status --json` has them."""
        found: list[dict[str, Any]] = []
        for process in self._processes:
            status = self._status_of(process)
            if status is not None:
                found += status["in_flight"]
        return found

    def log(self) -> str:
        """Returns what the server's processes have written to their log."""
        return "".join(process.said() for process in self._processes)

    def stop(self) -> list[int]:
        """Stop all processes of the server: by SIGINT, and by SIGKILL if one does not end in time.

        :returns: the exit statuses of the processes, oldest first.
        """
        for process in self._processes:
            if process.alive():
                process.popen.send_signal(signal.SIGINT)
        statuses = []
        for process in self._processes:
            try:
                process.popen.wait(WITHIN)
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
            statuses.append(process.popen.returncode)
        shutil.rmtree(self._directory, ignore_errors=True)
        return statuses

    # -- within -------------------------------------------------------------------------------------------

    def _start(self, listen: str, *options: str) -> None:
        program = Path(sys.executable).with_name("twistd")
        command = [str(program), "-n", "--pidfile=", "graceful-app", "--control", self._control, "--listen", listen]
        process = _Process(
            [*command, *_SHORT, *options, *self._options, self._application], self._directory, self._environment
        )
        self._processes.append(process)
        end = time.monotonic() + WITHIN
        while not self._serves(process):
            if not process.alive() or time.monotonic() > end:
                process.popen.kill()
                process.popen.wait()
                self._processes.remove(process)
                raise StartFailed(f"{self._application} is not served:\n{process.said()}")
            time.sleep(_LOOK_AGAIN)

    def _serves(self, process: _Process) -> bool:
        try:
            status = self._status()
        except ClientError:
            return False
        return bool(status["pid"] == process.popen.pid and status["state"] == State.SERVING)

    def _status(self) -> dict[str, Any]:
        with ControlClient(self._control) as client:
            status: dict[str, Any] = client.get("/status")
        return status

    def _order(self, order: str) -> None:
        with ControlClient(self._control) as client:
            client.post(order)

    def _listens(self) -> bool:
        """Whether a server should be listening."""
        return not self._processes[-1].told

    def _is_closed(self) -> bool:
        process = self._processes[-1]
        if not process.alive():
            return True
        status = self._status_of(process, "/status?limit=0")
        state = State.parse(status["state"]) if status is not None else None
        return state is not None and state.closed

    def _status_of(self, process: _Process, target: str = "/status") -> dict[str, Any] | None:
        """Returns the status of one process; None if it has ended, or is just ending."""
        if not process.alive():
            return None
        try:
            with connect_to(self._control, process.popen.pid) as client:
                status: dict[str, Any] = client.get(target)
                return status
        except ClientError:
            return None

    def _wait(self, true: Callable[[], bool], within: float, text: str) -> None:
        end = time.monotonic() + within
        while not true():
            if time.monotonic() > end:
                raise AssertionError(f"{text} after {within:g} s:\n{self.log()}")
            time.sleep(_LOOK_AGAIN)
