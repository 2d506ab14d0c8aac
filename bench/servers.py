"""The servers to compare: each runs in a process that serves the same application.

A comparison is only fair if each server runs as well as it can.  So every server here gets 20 threads in one process,
its fastest implementation of HTTP, and no limit below 32 connections.  Only stock Twisted and graceful write an
access log.  ASGI servers have one process with one loop, uvloop's where they can.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from attrs import define, field, frozen

HERE = Path(__file__).parent
PROGRAMS = Path(sys.executable).parent
COMPILED = PROGRAMS.parent.with_name("measured-compiled") / "bin"
"""The programs of the environment that has the compiled wheel, and borrows the rest: `make bench` makes it."""
THREADS = 20
START_TIMEOUT = 30.0
"""Seconds that a server may take until it answers."""
STOP_TIMEOUT = 10.0
"""Seconds that a server may take to end after SIGTERM, before it is killed."""

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

FASTPYSGI = """
import app, fastpysgi
fastpysgi.run(app.application, host="127.0.0.1", port={port}, loglevel=0)
"""

ASGI = "asgi_app:application"


class ServerFailed(Exception):
    """A server did not start, or gave a wrong answer."""


@frozen
class Kind:
    """One way of serving the application.

    :param name: what `--servers` and the tables call it.
    :param distribution: its name for `pip`, by which its version is found.
    :param command: returns its command line, for a port and a directory for its logs.
    :param unable: the scenarios in which it cannot be measured, each with the reason.
    :param interface: of the application that it serves: `wsgi` (`app.py`), or `asgi` (`asgi_app.py`).
    :param tls: whether it is asked by TLS.
    """

    name: str
    distribution: str
    command: Callable[[int, Path], list[str]]
    unable: Mapping[str, str] = {}
    interface: str = "wsgi"
    tls: bool = False

    def can(self, scenario: str, interface: str) -> bool:
        """Whether it can be measured in a scenario, which loads applications of one interface."""
        return self.interface == interface and scenario not in self.unable


def program(name: str) -> str:
    """Returns the path of a program of the measured environment."""
    return str(PROGRAMS / name)


def _stock(*options: str) -> Callable[[int, Path], list[str]]:
    def command(port: int, logs: Path) -> list[str]:
        listen = f"--listen=tcp:{port}:interface=127.0.0.1"
        return [program("twistd"), *options, "-n", "--pidfile=", "web", listen, "--wsgi=app.application"]

    return command


def _gunicorn(port: int, logs: Path) -> list[str]:
    threads = ["--worker-class=gthread", "--workers=1", f"--threads={THREADS}"]
    return [program("gunicorn"), *threads, f"--bind=127.0.0.1:{port}", "app:application"]


def _waitress(port: int, logs: Path) -> list[str]:
    return [sys.executable, "-c", WAITRESS.format(port=port, threads=THREADS)]


def _cheroot(port: int, logs: Path) -> list[str]:
    return [sys.executable, "-c", CHEROOT.format(port=port, threads=THREADS)]


def _uwsgi(port: int, logs: Path) -> list[str]:
    listen = f"--http11-socket=127.0.0.1:{port}"
    manners = ["--need-app", "--die-on-term", "--disable-logging"]
    return [program("pyuwsgi"), listen, f"--threads={THREADS}", *manners, "--module=app:application"]


def _granian(port: int, logs: Path) -> list[str]:
    listen = ["--host=127.0.0.1", f"--port={port}", "--http=1"]
    threads = ["--workers=1", f"--blocking-threads={THREADS}"]
    return [program("granian"), "--interface=wsgi", *listen, *threads, "app:application"]


def _fastpysgi(port: int, logs: Path) -> list[str]:
    return [sys.executable, "-c", FASTPYSGI.format(port=port)]


def _uvicorn(port: int, logs: Path) -> list[str]:
    fast = ["--http=httptools", "--loop=uvloop", "--no-access-log", "--log-level=warning"]
    return [program("uvicorn"), *fast, "--host=127.0.0.1", f"--port={port}", ASGI]


def _gunicorn_asgi(port: int, logs: Path) -> list[str]:
    return [program("gunicorn"), "--worker-class=asgi", "--workers=1", f"--bind=127.0.0.1:{port}", ASGI]


def _hypercorn(port: int, logs: Path) -> list[str]:
    return [program("hypercorn"), "--worker-class=uvloop", f"--bind=127.0.0.1:{port}", ASGI]


def _daphne(port: int, logs: Path) -> list[str]:
    return [program("daphne"), "-v", "0", "-b", "127.0.0.1", "-p", str(port), ASGI]


def _granian_asgi(port: int, logs: Path) -> list[str]:
    listen = ["--host=127.0.0.1", f"--port={port}", "--http=1"]
    return [program("granian"), "--interface=asgi", "--loop=uvloop", "--workers=1", *listen, ASGI]


def _bare(port: int, logs: Path) -> list[str]:
    return [sys.executable, str(HERE / "bare.py"), str(port)]


def _ours(
    *options: str, program: tuple[str, ...] = (program("twistd"),), log: bool = True, served: str = "app:application"
) -> Callable[[int, Path], list[str]]:
    def command(port: int, logs: Path) -> list[str]:
        listen = ["--listen", f"tcp:{port}:interface=127.0.0.1"]
        access = ["--access-log", str(logs / f"access-{port}.log")] if log else []
        arguments = ["--threads", str(THREADS), *access, *options, served]
        return [*program, "-n", "--pidfile=", "graceful-app", *listen, *arguments]

    return command


_COMPILED = (str(COMPILED / "twistd"),)

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
        Kind(
            "uwsgi",
            "pyuwsgi",
            _uwsgi,
            {
                "close": "keeps connections that it is asked to close",
                "mix": "has an API of its own for chunks",
                "open": "closes connections for which it has no thread",
            },
        ),
        Kind("granian", "granian", _granian),
        Kind("fastpysgi", "fastpysgi", _fastpysgi),
        Kind("uvicorn", "uvicorn", _uvicorn, interface="asgi"),
        Kind("gunicorn-asgi", "gunicorn", _gunicorn_asgi, interface="asgi"),
        Kind("hypercorn", "hypercorn", _hypercorn, interface="asgi"),
        Kind("daphne", "daphne", _daphne, interface="asgi"),
        Kind("granian-asgi", "granian", _granian_asgi, interface="asgi"),
        Kind("ours-asgi", "graceful-app", _ours(served=ASGI), interface="asgi"),
        Kind("ours-asgi-compiled", "graceful-app", _ours(program=_COMPILED, served=ASGI), interface="asgi"),
        # No server, but the upper bound for all of them: see bare.py.
        Kind("bare", "graceful-app", _bare, {"sleep": "has no application", "close": "closes nothing"}),
        Kind("ours", "graceful-app", _ours()),
        # The same again, to see by how much two equal servers differ.
        Kind("ours2", "graceful-app", _ours()),
        Kind("ours-compiled", "graceful-app", _ours(program=_COMPILED)),
        Kind("ours-nolog", "graceful-app", _ours(log=False)),
        Kind(
            "ours-noregister",
            "graceful-app",
            _ours(program=(sys.executable, str(HERE / "noregister.py"))),
        ),
    )
}


def versions(kinds: Mapping[str, Kind]) -> dict[str, str]:
    """Returns the version of each distribution, by its name."""
    return {kind.distribution: version(kind.distribution) for kind in kinds.values() if kind.distribution}


def all_pids() -> list[int]:
    """Returns the ids of all processes."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def read_stat(pid: int) -> list[str]:
    """Returns the fields of `/proc/PID/stat` (proc(5)), from the third one, the state, on.

    :raises FileNotFoundError, ProcessLookupError: there is no such process.
    """
    with open(f"/proc/{pid}/stat") as stat:
        # The second field is the program's name in brackets, which may itself have blanks and brackets.
        return stat.read().rpartition(")")[2].split()


def process_tree(root: int) -> list[int]:
    """Returns the ids of a process and all its descendants."""
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
    """Returns a free TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@define(eq=False)
class Server:
    """A running server; a context manager that stops it, whatever happens.

    :param kind: which server.
    :param cpu: the number of the one cpu that it may use.
    :param logs: the directory for its output and logs.
    :ivar pids: the ids of all its processes, as they were when it first answered.
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
                # Ctrl-C is for the benchmark, which then stops its servers itself.
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
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self.kind.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def output(self) -> Path:
        """The file of the server's standard output and error."""
        return self.logs / f"{self.kind.name}.log"

    def wait_until_ready(self) -> None:
        """Wait for the server's first answer.

        :raises ServerFailed: the server has ended, or does not answer within `START_TIMEOUT`.
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

    def get(
        self, path: str, headers: Mapping[str, str], times: int = 1, ids: Iterator[str] | None = None
    ) -> tuple[list[bytes], bool]:
        """Ask for a path `times` times on one connection.

        :param ids: a value of `X-Request-Id` for each request; None: they have no such field.
        :returns: the bodies, and whether the server left the connection open after the last one.
        :raises ServerFailed: an answer has another status than 200, or the connection did not last.
        """
        connection = self._connection()
        bodies = []
        try:
            connection.connect()
            first = connection.sock
            for _ in range(times):
                own = {} if ids is None else {"X-Request-Id": next(ids)}
                connection.request("GET", path, headers={**headers, **own})
                response = connection.getresponse()
                bodies.append(response.read())
                if response.status != 200:
                    raise self.failure(f"GET {path} was answered with {response.status}")
            if times > 1 and connection.sock is not first:
                raise self.failure("it does not keep its connections")
            return bodies, connection.sock is not None
        finally:
            connection.close()

    def post(self, path: str, body: bytes, chunked: bool = False) -> bytes:
        """Send a body, with its length or in chunks.  Returns that of the answer.

        :raises ServerFailed: the answer has another status than 200.
        """
        connection = self._connection(30)
        try:
            connection.request("POST", path, iter([body]) if chunked else body, encode_chunked=chunked)
            response = connection.getresponse()
            if response.status != 200:
                raise self.failure(f"POST {path} was answered with {response.status}")
            return response.read()
        finally:
            connection.close()

    def _connection(self, timeout: float = 5) -> http.client.HTTPConnection:
        if not self.kind.tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the certificate is made for this run
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=context)

    def failure(self, what: str) -> ServerFailed:
        """Returns an error about this server, with the end of its output."""
        tail = self.output.read_text(errors="replace")[-2000:]
        return ServerFailed(f"{self.kind.name}: {what}\n{tail}")

    def empty_logs(self) -> None:
        """Empty the server's logs: some write 10 MB a second."""
        for path in (self.output, *self.logs.glob(f"access-{self.port}.log*")):
            os.truncate(path, 0)
