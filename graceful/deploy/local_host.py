"""The real machine: processes behind control sockets, shell commands, questions over HTTP.

A process is known by its descriptor (pidfd_open(2)), taken before it is told to stop: its pid may belong to another
process by the time it would have to be killed.
"""

from __future__ import annotations

import http.client
import os
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from graceful.control.client import ClientError, ControlClient, NobodyThere, connect_to, process_descriptor
from graceful.control.discovery import connect_beside
from graceful.deploy.host import ProcessError, Reply, ServerHandle
from graceful.deploy.plan import Plan
from graceful.drain.state import State

#: Seconds that a server has to answer with its status: one that is stuck must not hold up the others for long.
STATUS_IN: Final = 1.0

#: Seconds that a URL has to answer.
REPLIES_IN: Final = 10.0

#: How many exchanges of a server a verdict lists if it has to be killed.
LISTED: Final = 50

#: How many lines of a log are shown.
LINES: Final = 20

#: Bytes at the end of a log that are read for these lines.
_TAIL: Final = 65_536


class ServerProcess:
    """A server process that is found at a control socket.

    :param client: connected to it.
    :param path: the control socket's usual path.
    :raises ProcessError: its pid is not known here.
    :ivar pid: its pid.
    """

    def __init__(self, client: ControlClient, path: str) -> None:
        self.pid = client.peer_pid
        self._path = path
        self._client: ControlClient | None = client
        self._pidfd = process_descriptor(self.pid)
        self._gone = self._pidfd < 0
        self._word: Mapping[str, Any] | None = None
        self._listener: threading.Thread | None = None
        self._silent_until = 0.0
        if not self.pid:
            client.close()
            raise ProcessError(f"{path}: the server is in another pid namespace: deploy there")

    def status(self) -> Mapping[str, Any]:
        """Returns its status."""
        status: Mapping[str, Any] = self._ask(f"/status?limit={LISTED}")
        return status

    def _ask(self, target: str) -> Any:
        """Ask it, on a connection that is known to be to this process."""
        if time.monotonic() < self._silent_until:
            raise ProcessError(f"process {self.pid} has not answered")
        try:
            return self._connected().get(target, timeout=STATUS_IN)
        except ClientError as error:
            self._hang_up()
            # It is asked again, but not so often that the other servers have to wait for it.
            self._silent_until = time.monotonic() + 2 * STATUS_IN
            raise ProcessError(str(error)) from None

    def _connected(self) -> ControlClient:
        if self._client is None:
            self._client = connect_to(self._path, self.pid, STATUS_IN)
        return self._client

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def stop(self, quiet: bool) -> None:
        """Tell it to stop."""
        try:
            self._connected().post("/stop", quiet=quiet)
        except ClientError as error:
            self._hang_up()
            raise ProcessError(str(error)) from None

    def listen(self) -> None:
        """Wait for its last word, in a thread."""
        try:
            client = connect_to(self._path, self.pid, STATUS_IN)
        except ClientError as error:
            raise ProcessError(str(error)) from None

        def wait() -> None:
            try:
                with client:
                    self._word = client.get("/wait?for=gone", timeout=None)
            except ClientError:
                pass  # it has vanished

        self._listener = threading.Thread(target=wait, name=f"last word of {self.pid}", daemon=True)
        self._listener.start()

    def terminate(self) -> None:
        """SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self._gone:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise ProcessError(f"may not send {number.name} to process {self.pid}") from None

    def gone(self) -> bool:
        """Whether it has ended."""
        if not self._gone:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            self._gone = len(poll.poll(0)) > 0
        return self._gone

    def last_word(self) -> Mapping[str, Any] | None:
        """Returns how its drain has ended; None if it has not told."""
        if self._listener is not None:
            self._listener.join(STATUS_IN)
        return self._word

    def close(self) -> None:
        """Close the connections to it."""
        self._hang_up()
        if self._pidfd >= 0:
            self._gone = self.gone()
            os.close(self._pidfd)
            self._pidfd = -1


class ShellCommand:
    """A shell command in a session of its own, so that Ctrl-C does not reach it.

    :param line: for sh(1).
    :param directory: where it runs.
    :param output: the file that it writes to, also after the deploy.
    """

    def __init__(self, line: str, directory: str, output: str) -> None:
        self._output = output
        with open(output, "wb") as file:
            self._process = subprocess.Popen(
                line,
                shell=True,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def status(self) -> int | None:
        """Returns its exit status; None while it runs."""
        return self._process.poll()

    def said(self) -> list[str]:
        """Returns the last lines of its output."""
        return tail(self._output)

    def leave(self) -> None:
        """Let it run on without the deploy."""
        self._process.returncode = self._process.poll() or 0  # else Popen complains that it still runs


class HTTPQuestion:
    """A GET, in a thread of its own."""

    def __init__(self, url: str) -> None:
        self._reply: Reply | None = None
        self._url = url
        threading.Thread(target=self._run, name=f"asks {url}", daemon=True).start()

    def reply(self) -> Reply | None:
        """Returns the answer; None while there is none."""
        return self._reply

    def _run(self) -> None:
        parts = urlsplit(self._url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=REPLIES_IN)
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"User-Agent": "graceful deploy", "Connection": "close"})
            answer = connection.getresponse()
            answer.read()
            self._reply = Reply(answer.status, f"{answer.status} {answer.reason}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._reply = Reply(0, getattr(error, "strerror", None) or str(error) or type(error).__name__)
        finally:
            connection.close()


class LocalHost:
    """A :class:`graceful.deploy.host.Host`.

    :param plan: says where commands run, and where their output goes.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    seconds = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    def serving(self, control: str) -> ServerProcess | None:
        """Returns the server that answers at a control socket; None if there is none."""
        try:
            return ServerProcess(ControlClient(control, timeout=STATUS_IN), control)
        except NobodyThere:
            return None
        except ClientError as error:
            raise ProcessError(str(error)) from None

    def leaving(self, control: str) -> list[ServerHandle]:
        """Returns the servers that have given a control socket up, and still live."""
        found: list[ServerHandle] = []
        try:
            for client in connect_beside(control):
                process = ServerProcess(client, control)
                try:
                    state = State.parse(process.status()["state"])
                    leaves = state is not None and state.leaving
                except ProcessError:
                    leaves = False  # it is starting, and does not have the path yet
                if leaves:
                    found.append(process)
                else:
                    process.close()
        except ClientError as error:
            raise ProcessError(str(error)) from None
        return found

    def run(self, command: str, name: str) -> ShellCommand:
        """Start a shell command."""
        output = self._plan.record(f"{name}.out")
        try:
            return ShellCommand(command, self._plan.directory, output)
        except OSError as error:
            raise ProcessError(f"{error.filename or output}: {error.strerror}") from None

    def ask(self, url: str) -> HTTPQuestion:
        """Ask a URL."""
        return HTTPQuestion(url)

    def tail(self, path: str) -> list[str]:
        """Returns the last lines of a log."""
        return tail(path)


def tail(path: str) -> list[str]:
    """Returns the last lines of a file; none if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return list(deque(file.read().decode("utf-8", "replace").splitlines(), LINES))
    except OSError:
        return []
