"""The servers to compare, each as a process that serves the same application.

A comparison is only as good as the care for those one does not win with: every server here gets 20 threads in
one process, the fastest way of speaking HTTP that it has, and no limit that 32 connections run into.  Nobody
writes an access log but stock Twisted and ours.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from attrs import define, field, frozen

HERE = Path(__file__).parent
PROGRAMS = Path(sys.executable).parent
THREADS = 20
START_TIMEOUT = 30.0
"""How long a server may take until it answers, in seconds."""
STOP_TIMEOUT = 10.0
"""How long a server may take to leave after SIGTERM, in seconds, before it is killed."""

WAITRESS = """
import logging, waitress, app
logging.getLogger("waitress.queue").disabled = True  # It would write a line for each request that waits.
waitress.serve(app.application, listen="127.0.0.1:{port}", threads={threads})
"""

CHEROOT = """
import app
from cheroot.wsgi import Server
server = Server(("127.0.0.1", {port}), app.application, numthreads={threads}, request_queue_size=128)
server.keep_alive_conn_limit = 1000  # It is 10, and each connection beyond would be closed after its answer.
server.start()
"""


class ServerFailed(Exception):
    """A server did not start, or did not answer as it should."""


@frozen
class Kind:
    """One way of serving the application.

    :param name: what `--servers` and the tables call it.
    :param distribution: what `pip` calls it, for its version.
    :param command: makes its command line of a port and a directory for its logs.
    :param unable: the scenarios that it cannot be measured in, each with the reason.
    """

    name: str
    distribution: str
    command: Callable[[int, Path], list[str]]
    unable: Mapping[str, str] = {}


def _program(name: str) -> str:
    return str(PROGRAMS / name)


def _stock(*options: str) -> Callable[[int, Path], list[str]]:
    def command(port: int, logs: Path) -> list[str]:
        listen = f"--listen=tcp:{port}:interface=127.0.0.1"
        return [_program("twistd"), *options, "-n", "--pidfile=", "web", listen, "--wsgi=app.application"]

    return command


def _gunicorn(port: int, logs: Path) -> list[str]:
    threads = ["--worker-class=gthread", "--workers=1", f"--threads={THREADS}"]
    return [_program("gunicorn"), *threads, f"--bind=127.0.0.1:{port}", "app:application"]


def _waitress(port: int, logs: Path) -> list[str]:
    return [sys.executable, "-c", WAITRESS.format(port=port, threads=THREADS)]


def _cheroot(port: int, logs: Path) -> list[str]:
    return [sys.executable, "-c", CHEROOT.format(port=port, threads=THREADS)]


def _uwsgi(port: int, logs: Path) -> list[str]:
    listen = f"--http11-socket=127.0.0.1:{port}"
    manners = ["--need-app", "--die-on-term", "--disable-logging"]
    return [_program("pyuwsgi"), listen, f"--threads={THREADS}", *manners, "--module=app:application"]


def _granian(port: int, logs: Path) -> list[str]:
    listen = ["--host=127.0.0.1", f"--port={port}", "--http=1"]
    threads = ["--workers=1", f"--blocking-threads={THREADS}"]
    return [_program("granian"), "--interface=wsgi", *listen, *threads, "app:application"]


def _bare(port: int, logs: Path) -> list[str]:
    return [sys.executable, str(HERE / "bare.py"), str(port)]


def _ours(
    *options: str, program: tuple[str, ...] = (_program("twistd"),), log: bool = True
) -> Callable[[int, Path], list[str]]:
    def command(port: int, logs: Path) -> list[str]:
        listen = ["--listen", f"tcp:{port}:interface=127.0.0.1"]
        access = ["--access-log", str(logs / f"access-{port}.log")] if log else []
        arguments = ["--threads", str(THREADS), *access, *options, "app:application"]
        return [*program, "-n", "--pidfile=", "graceful-app", *listen, *arguments]

    return command


KINDS = {
    kind.name: kind
    for kind in (
        Kind("stock", "twisted", _stock()),
        # Stock Twisted's server on either reactor, and the stock one again: see reactor.py.
        Kind("stock2", "twisted", _stock()),
        Kind("reactor", "graceful-app", _stock("--reactor=graceful")),
        Kind("gunicorn", "gunicorn", _gunicorn),
        Kind("waitress", "waitress", _waitress),
        Kind("cheroot", "cheroot", _cheroot),
        # wrk opens a new connection only after an answer that says `Connection: close`.
        Kind("uwsgi", "pyuwsgi", _uwsgi, {"close": "keeps connections that it is asked to close"}),
        Kind("granian", "granian", _granian),
        # No server at all: what the kernel and wrk leave to all of them.
        Kind("bare", "graceful-app", _bare, {"sleep": "has no application", "close": "closes nothing"}),
        Kind("ours", "graceful-app", _ours()),
        # The same again, to see how far two equal servers seem to differ.
        Kind("ours2", "graceful-app", _ours()),
        Kind("ours-nolog", "graceful-app", _ours(log=False)),
        Kind(
            "ours-noregister",
            "graceful-app",
            _ours(program=(sys.executable, str(HERE / "noregister.py"))),
        ),
    )
}


def versions(kinds: Mapping[str, Kind]) -> dict[str, str]:
    """Return the version of each distribution among these."""
    return {kind.distribution: version(kind.distribution) for kind in kinds.values()}


def all_pids() -> list[int]:
    """Return the pids of all processes."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def read_stat(pid: int) -> list[str]:
    """Return the fields of `/proc/PID/stat` (proc(5)) from the third one, the state, on.

    :raises FileNotFoundError, ProcessLookupError: if there is no such process.
    """
    with open(f"/proc/{pid}/stat") as stat:
        # The second field is a program's name in brackets, and may have blanks and brackets in it.
        return stat.read().rpartition(")")[2].split()


def process_tree(root: int) -> list[int]:
    """Return the pids of a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for pid in all_pids():
        try:
            parent = int(read_stat(pid)[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(pid)
    tree = [root]
    for pid in tree:
        tree.extend(children.get(pid, []))
    return tree


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@define(eq=False)
class Server:
    """A running server.  Use as a context manager: it is stopped whatever happens.

    :param kind: which one.
    :param cpu: the number of the one cpu that it may use.
    :param logs: a directory for what it writes.
    :ivar pids: all its processes, as they were when it first answered.
    """

    kind: Kind
    cpu: int
    logs: Path
    port: int = field(factory=free_port, init=False)
    pids: list[int] = field(factory=list, init=False)
    _process: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> Server:
        environment = {**os.environ, "PYTHONPATH": str(HERE)}
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                ["taskset", "--cpu-list", str(self.cpu), *self.kind.command(self.port, self.logs)],
                cwd=self.logs,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the benchmark, which then stops its servers in its own way.
                start_new_session=True,
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        tree = process_tree(self._process.pid) if self._process.poll() is None else []
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            for pid in tree:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self._process.wait()

    @property
    def output(self) -> Path:
        """The file of its standard output and error."""
        return self.logs / f"{self.kind.name}.log"

    def wait_until_ready(self) -> None:
        """Wait for its first answer.

        :raises ServerFailed: if it ends or does not answer within `START_TIMEOUT`.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self._process.poll() is not None:
                raise self.failure(f"ended with exit status {self._process.returncode}")
            try:
                self.get("/", {})
                break
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    raise self.failure(f"no answer within {START_TIMEOUT:.0f} s: {error}") from error
            time.sleep(0.05)
        self.pids = process_tree(self._process.pid)

    def get(self, path: str, headers: Mapping[str, str], times: int = 1) -> tuple[list[bytes], bool]:
        """Ask for a path some times on one connection.

        :return: the bodies, and whether the connection was left open after the last.
        :raises ServerFailed: if an answer has another status than 200, or its connection did not last.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        bodies = []
        try:
            connection.connect()
            first = connection.sock
            for _ in range(times):
                connection.request("GET", path, headers=dict(headers))
                response = connection.getresponse()
                bodies.append(response.read())
                if response.status != 200:
                    raise self.failure(f"GET {path} was answered with {response.status}")
            if times > 1 and connection.sock is not first:
                raise self.failure("it does not keep its connections")
            return bodies, connection.sock is not None
        finally:
            connection.close()

    def failure(self, what: str) -> ServerFailed:
        """Return an error about this server, with the end of what it has written."""
        tail = self.output.read_text(errors="replace")[-2000:]
        return ServerFailed(f"{self.kind.name}: {what}\n{tail}")

    def empty_logs(self) -> None:
        """Cut its logs to nothing: some write 10 MB a second."""
        for path in (self.output, *self.logs.glob(f"access-{self.port}.log*")):
            os.truncate(path, 0)
