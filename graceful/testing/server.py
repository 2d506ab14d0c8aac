"""The server inside a test: a process that is started, told things over its control socket, replaced, and ended.

It imports what the test can import, since it gets the test's `sys.path`.  Everything it writes is in a temporary
directory, which goes with it.  A redeploy is the real one: the next process takes the listening sockets over, and the
one before finishes what it has.
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

from graceful.control.client import ClientError, ControlClient
from graceful.drain import State
from graceful.testing.client import Answer, Lost, Pending, StrictClient

#: Seconds in which a server must have started, or have come to a state.
WITHIN: Final = 30.0
_LOOK_AGAIN: Final = 0.02


class StartFailed(Exception):
    """The server did not start.  The text has the end of its log."""


class _Process:
    """One process of the server."""

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
    """A `twistd graceful-app` with an application.

    :param application: MODULE:CALLABLE.
    :param options: of `graceful-app`, such as ``"--deadline", "5"``.
    :param environment: variables that the server gets beside those of the test.
    :raises StartFailed: it does not start.
    :ivar port: on 127.0.0.1.
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
        self._client = StrictClient(self._listens)
        self._processes: list[_Process] = []
        try:
            self._start("tcp:0:interface=127.0.0.1")
        except BaseException:
            self.stop()
            raise
        (name,) = (socket["name"] for socket in self._status()["sockets"])
        self.port = self._client.port = int(name.rpartition(":")[2])

    def __enter__(self) -> LiveServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # -- requests -----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def lost(self) -> list[Lost]:
        """The requests that were lost."""
        return self._client.lost

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send a request, and return its answer; see :meth:`StrictClient.request`.

        :param headers: in Python's spelling: ``content_type="text/plain"``.
        """
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._client.request(method, path, body, fields)

    def get(self, path: str, **headers: str) -> Answer:
        """Send a GET, and return its answer."""
        return self.request("GET", path, None, **headers)

    def begin(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Pending:
        """Send a request, and go on while it is on its way."""
        return Pending(lambda: self.request(method, path, body, **headers))

    def arrived(self, path: str, count: int = 1, within: float = WITHIN) -> None:
        """Wait until `count` requests for a path are in flight.

        :param within: seconds.
        :raises AssertionError: they are not.
        """
        self._wait(
            lambda: sum(exchange["path"] == path for exchange in self.in_flight()) >= count,
            within,
            f"no {count} requests for {path} are in flight",
        )

    # -- what it is told ----------------------------------------------------------------------------------

    def leave(self) -> None:
        """Have it leave the rotation: its health says that it goes down, and everything is served."""
        self._order("/leave")

    def enter(self) -> None:
        """Have it enter the rotation again."""
        self._order("/enter")

    def sigterm(self) -> None:
        """Send it SIGTERM."""
        process = self._processes[-1]
        process.told = True
        process.popen.send_signal(signal.SIGTERM)

    def closed(self, within: float = WITHIN) -> None:
        """Wait until its listening sockets are closed.

        :param within: seconds.
        :raises AssertionError: they are not.
        """
        self._wait(self._is_closed, within, "its sockets are not closed")

    def gone(self, within: float = WITHIN) -> int:
        """Wait until it has ended; its exit status, negative for a signal.

        :param within: seconds.
        :raises AssertionError: it has not.
        """
        self._wait(lambda: not self._processes[-1].alive(), within, "it has not ended")
        return self._processes[-1].popen.returncode

    def redeploy(self) -> int:
        """Replace its process by another one, as a deploy does; the new one's number.

        The sockets are handed over.  The old process finishes what it has, meanwhile.

        :raises StartFailed: the new one does not start; the old one serves on.
        """
        old = self._processes[-1]
        self._start(f"tcp:{self.port}:interface=127.0.0.1", "--takeover")
        old.told = True
        return self._processes[-1].popen.pid

    def in_flight(self) -> list[dict[str, Any]]:
        """The exchanges in flight, of all its processes, as `graceful status --json` has them."""
        found: list[dict[str, Any]] = []
        for process in self._processes:
            if process.alive():
                for path in (f"{self._control}.{process.popen.pid}", self._control):
                    try:
                        with ControlClient(path) as client:
                            if client.peer_pid == process.popen.pid:
                                found += client.get("/status")["in_flight"]
                                break
                    except ClientError:
                        pass  # it is just going, or has its path still to come
        return found

    def log(self) -> str:
        """What its processes have written."""
        return "".join(process.said() for process in self._processes)

    def stop(self) -> list[int]:
        """End it: SIGTERM, and SIGKILL for what does not end; the exit statuses of its processes, oldest first."""
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
            [*command, *options, *self._options, self._application], self._directory, self._environment
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
        for path in (f"{self._control}.{process.popen.pid}", self._control):
            try:
                with ControlClient(path) as client:
                    if client.peer_pid == process.popen.pid:
                        state = State.parse(client.get("/status?limit=0")["state"])
                        return state is not None and state.closed
            except ClientError:
                pass
        return False

    def _wait(self, true: Callable[[], bool], within: float, text: str) -> None:
        end = time.monotonic() + within
        while not true():
            if time.monotonic() > end:
                raise AssertionError(f"{text} after {within:g} s:\n{self.log()}")
            time.sleep(_LOOK_AGAIN)
