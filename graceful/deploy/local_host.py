"""The real machine: processes behind control sockets, shell commands, questions over HTTP.

A process is known by a descriptor of its own (pidfd_open(2)), taken before it is told to stop: its number may be
somebody else's by the time it would have to be killed.
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

from graceful.control.client import ClientError, ControlClient, NobodyThere, process_descriptor
from graceful.control.discovery import connect_beside
from graceful.deploy.host import ProcessError, Reply, ServerHandle
from graceful.deploy.plan import Plan
from graceful.drain import State

#: Seconds that a server has to say how it is.
STATUS_IN: Final = 1.0

#: Seconds that a URL has to answer.
REPLIES_IN: Final = 10.0

#: How many exchanges of a server are listed: what is named if it has to be killed.
LISTED: Final = 50

#: How many lines of a log are shown.
LINES: Final = 20
_TAIL: Final = 65_536


class ServerProcess:
    """A server.

    :param client: connected to it.
    :param path: the control socket's usual path.
    :raises ProcessError: it cannot be told which process it is.
    :ivar pid: its number.
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
        """What it says of itself."""
        status: Mapping[str, Any] = self._ask(f"/status?limit={LISTED}")
        return status

    def _ask(self, target: str) -> Any:
        """Ask, on a connection that is known to be its."""
        if time.monotonic() < self._silent_until:
            raise ProcessError(f"process {self.pid} has not answered")
        try:
            return self._connected().get(target, timeout=STATUS_IN)
        except ClientError as error:
            self._hang_up()
            # It is asked again, but not so often that everybody else waits for it.
            self._silent_until = time.monotonic() + 2 * STATUS_IN
            raise ProcessError(str(error)) from None

    def _connected(self) -> ControlClient:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> ControlClient:
        """Connect to it once more, wherever it is by now."""
        for path in (f"{self._path}.{self.pid}", self._path):
            try:
                client = ControlClient(path, timeout=STATUS_IN)
            except NobodyThere:
                continue
            if client.peer_pid == self.pid:
                return client
            client.close()
        raise ClientError(f"process {self.pid} no longer answers at {self._path}")

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def stop(self, quiet: bool) -> None:
        """Have it stop."""
        try:
            self._connected().post("/stop", quiet=quiet)
        except ClientError as error:
            self._hang_up()
            raise ProcessError(str(error)) from None

    def listen(self) -> None:
        """Have it say how its drain ends, on a connection that waits for it."""
        try:
            client = self._connect()
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
        """How its drain has ended."""
        if self._listener is not None:
            self._listener.join(STATUS_IN)
        return self._word

    def close(self) -> None:
        """Nobody asks any more."""
        self._hang_up()
        if self._pidfd >= 0:
            self._gone = self.gone()
            os.close(self._pidfd)
            self._pidfd = -1


class ShellCommand:
    """A shell command in a session of its own, so that Ctrl-C is not for it.

    :param line: for sh(1).
    :param directory: where it runs.
    :param output: the file that it writes to, also when we are gone.
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
        """Its exit status; None while it runs."""
        return self._process.poll()

    def said(self) -> list[str]:
        """The last lines of what it has said."""
        return tail(self._output)

    def leave(self) -> None:
        """It may run on without us."""
        self._process.returncode = self._process.poll() or 0  # else Popen complains that it still runs


class HTTPQuestion:
    """A GET, in a thread of its own."""

    def __init__(self, url: str) -> None:
        self._reply: Reply | None = None
        self._url = url
        threading.Thread(target=self._run, name=f"asks {url}", daemon=True).start()

    def reply(self) -> Reply | None:
        """The answer; None while there is none."""
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
        """Who answers at a control socket."""
        try:
            return ServerProcess(ControlClient(control, timeout=STATUS_IN), control)
        except NobodyThere:
            return None
        except ClientError as error:
            raise ProcessError(str(error)) from None

    def leaving(self, control: str) -> list[ServerHandle]:
        """The servers that have given a control socket up, and still live."""
        found: list[ServerHandle] = []
        try:
            for client in connect_beside(control):
                process = ServerProcess(client, control)
                try:
                    state = State.parse(process.status()["state"])
                    leaves = state is not None and state.leaving
                except ProcessError:
                    leaves = False  # it starts, and has not got the path yet
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
        """The last lines of a log."""
        return tail(path)


def tail(path: str) -> list[str]:
    """The last lines of a file; none if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return list(deque(file.read().decode("utf-8", "replace").splitlines(), LINES))
    except OSError:
        return []
