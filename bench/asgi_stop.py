"""Shows what each ASGI server does at SIGTERM, with the things in hand that keep a server from ending.

Each server serves `stop_app.py` in a process of its own for each thing in hand, gets SIGTERM, and is watched from
outside: when and how the client's connection ends, and when and how the process ends.  Each server that has an option
for the time that a stop may take gets 10 seconds.  All else is as the server comes.

    python bench/asgi_stop.py
    python bench/asgi_stop.py --servers graceful,uvicorn

Prints a table in reStructuredText.  Seconds count from SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

from attrs import frozen

sys.path.insert(0, str(Path(__file__).parent.parent))

from servers import HERE, PROGRAMS, free_port, process_tree
from tests.support.frames import close, read_frames, request

#: Seconds that a server is told a stop may take.
LIMIT: Final = 10
#: Seconds after SIGTERM until a process that still runs is killed.
PATIENCE: Final = 30.0
#: Seconds after SIGTERM until a client has waited long enough: before its server is killed, which ends it.
GIVES_UP: Final = PATIENCE - 2.0
#: Seconds until a server answers at first.
STARTS_IN: Final = 60.0
#: Seconds between two requests on an idle connection.
PAUSE: Final = 0.25
#: Characters of a column.
WIDTH: Final = 16


@frozen
class Peer:
    """A server.

    :ivar distribution: its name for `pip`.
    :ivar command: returns its command line, for a port.
    """

    distribution: str
    command: Callable[[int], list[str]]


def _program(name: str) -> str:
    return str(PROGRAMS / name)


def _peers() -> Mapping[str, Peer]:
    application = "stop_app:application"
    host = "--host=127.0.0.1"
    seconds = str(LIMIT)
    return {
        "uvicorn": Peer(
            "uvicorn",
            lambda port: [
                *(_program("uvicorn"), host, f"--port={port}"),
                *("--timeout-graceful-shutdown", seconds, application),
            ],
        ),
        "gunicorn": Peer(
            "gunicorn",
            lambda port: [
                *(_program("gunicorn"), "--worker-class=asgi", f"--bind=127.0.0.1:{port}"),
                *("--graceful-timeout", seconds, application),
            ],
        ),
        "hypercorn": Peer(
            "hypercorn",
            lambda port: [
                *(_program("hypercorn"), f"--bind=127.0.0.1:{port}", "--graceful-timeout", seconds, application)
            ],
        ),
        "daphne": Peer("daphne", lambda port: [_program("daphne"), "-b", "127.0.0.1", "-p", str(port), application]),
        "granian": Peer(
            "granian",
            lambda port: [
                *(_program("granian"), "--interface=asgi", host, f"--port={port}", "--http=1"),
                *("--workers-kill-timeout", seconds, application),
            ],
        ),
        "graceful": Peer(
            "graceful-app",
            lambda port: [
                *(_program("twistd"), "-n", "--pidfile=", "graceful-app"),
                *("--listen", f"tcp:{port}:interface=127.0.0.1", "--deadline", seconds, application),
            ],
        ),
    }


PEERS: Final = _peers()


class Client:
    """One connection, and what is seen on it from SIGTERM on.

    :param port: of the server.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), 5)
        self.data = b""

    def send(self, path: str) -> None:
        """Send a request."""
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def receive(self, until: float) -> bool | None:
        """Wait for bytes; returns whether there are some, and `None` when the time is over.

        :param until: monotonic seconds.
        :raises OSError: the connection was reset.
        """
        left = until - time.monotonic()
        if left <= 0 or not select.select([self.socket], [], [], left)[0]:
            return None
        data = self.socket.recv(65536)
        self.data += data
        return bool(data)

    def answered(self) -> bool:
        """Whether the answer is complete."""
        head, end, body = self.data.partition(b"\r\n\r\n")
        if not end:
            return False
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return len(body) >= int(line.partition(b":")[2])
        return body.endswith(b"0\r\n\r\n")

    def watch(self, began: float) -> str:
        """Returns how the answer ended, and when; a client that has its answer leaves."""
        with self.socket:
            return self._watch(began)

    def _watch(self, began: float) -> str:
        try:
            while not self.answered():
                more = self.receive(began + GIVES_UP)
                if more is None:
                    return "no end"
                if not more:
                    return f"cut {_after(began)}"
        except OSError:
            return f"reset {_after(began)}"
        status = self.data.split(b" ", 2)[1].decode()
        ended = "complete" if b"data: news" in self.data else status
        return f"{ended} {_after(began)}"


def _after(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"


def asks(path: str) -> Callable[[int], Callable[[float], str]]:
    """Returns a client that sends a request before SIGTERM, and then waits for its end."""

    def begin(port: int) -> Callable[[float], str]:
        client = Client(port)
        client.send(path)
        if path == "/stream":
            client.receive(time.monotonic() + 5)
        return client.watch

    return begin


def websocket(port: int) -> Callable[[float], str]:
    """A client with a silent WebSocket; it answers a close."""
    client = Client(port)
    client.socket.sendall(request(path=b"/ws", host=b"localhost"))
    while b"\r\n\r\n" not in client.data:
        if not client.receive(time.monotonic() + 5):
            return lambda began: "not opened"
    client.data = client.data.partition(b"\r\n\r\n")[2]

    def watch(began: float) -> str:
        try:
            while True:
                frames, client.data = read_frames(client.data)
                for found in frames:
                    if found.opcode == 8:
                        code = int.from_bytes(found.payload[:2], "big")
                        client.socket.sendall(close(code))
                        client.socket.close()
                        return f"close {code or 'without a code'} {_after(began)}"
                more = client.receive(began + GIVES_UP)
                if more is None:
                    return "no end"
                if not more:
                    return f"cut {_after(began)}"
        except OSError:
            return f"reset {_after(began)}"

    return watch


def idle(port: int) -> Callable[[float], str]:
    """A client that keeps its connection, and asks again and again."""
    client = Client(port)
    client.send("/")
    while not client.answered():
        client.receive(time.monotonic() + 5)
    client.data = b""

    def watch(began: float) -> str:
        try:
            while time.monotonic() < began + GIVES_UP:
                if client.receive(time.monotonic() + PAUSE) is False:
                    return f"closed {_after(began)}"
                client.send("/")
                while not client.answered():
                    if not client.receive(began + GIVES_UP):
                        return f"request lost {_after(began)}"
                announced = b"connection: close" in client.data.lower()
                client.data = b""
                if announced:
                    client.socket.close()
                    return f"200, told to close {_after(began)}"
        except OSError:
            return f"request lost by a reset {_after(began)}"
        return "still open"

    return watch


#: What is in hand, as the table names it, and its client.
IN_HAND: Final[Mapping[str, Callable[[int], Callable[[float], str]]]] = {
    "request of 3 s": asks("/slow"),
    "endless stream": asks("/stream"),
    "WebSocket": websocket,
    "idle connection": idle,
    "blocked loop": asks("/block"),
    "swallowed cancellation": asks("/swallow"),
}


def _wait_open(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + STARTS_IN
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            client = Client(port)
            client.send("/")
            with client.socket:
                while client.receive(time.monotonic() + 2):
                    if client.answered():
                        return
        time.sleep(0.05)
    raise SystemExit(f"no answer from {process.args!r}:\n{log.read_text(errors='replace')[-2000:]}")


def observe(peer: Peer, begin: Callable[[int], Callable[[float], str]], log: Path) -> str:
    """Run a server, stop it with one thing in hand.  Returns what happened to that and to the process."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            peer.command(port),
            cwd=log.parent,
            env={**os.environ, "PYTHONPATH": str(HERE)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    tree: list[int] = []
    try:
        _wait_open(process, port, log)
        watch = begin(port)
        time.sleep(0.5)
        tree = process_tree(process.pid)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        with ThreadPoolExecutor(1) as pool:
            seen = pool.submit(watch, began)
            try:
                status = process.wait(PATIENCE)
                ended = f"exit {status} {_after(began)}" if status >= 0 else f"signal {-status} {_after(began)}"
            except subprocess.TimeoutExpired:
                ended = f"runs after {PATIENCE:.0f} s"
            _kill(tree)
            return f"{seen.result()} / {ended}"
    finally:
        _kill([*tree, process.pid] if process.poll() is None else tree)
        process.wait()


def _kill(tree: Sequence[int]) -> None:
    """End what is left of a server, which has a session of its own: an id that was given again is not in it."""
    for pid in tree:
        with suppress(ProcessLookupError):
            if os.getsid(pid) == tree[0]:
                os.kill(pid, signal.SIGKILL)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in reStructuredText whose cells have several lines."""
    widths = [WIDTH if number else max(len(row[0]) for row in rows) for number in range(len(rows[0]))]
    rule = "  ".join("=" * width for width in widths)
    lines = [rule]
    for number, row in enumerate(rows):
        cells = [
            [line for part in cell.split(" / ") for line in textwrap.wrap(part, width)]
            for cell, width in zip(row, widths, strict=True)
        ]
        for index in range(max(map(len, cells))):
            parts = [
                (cell[index] if index < len(cell) else "").ljust(width)
                for cell, width in zip(cells, widths, strict=True)
            ]
            lines.append("  ".join(parts).rstrip())
        lines.append(rule if number in (0, len(rows) - 1) else "")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--servers", default=",".join(PEERS), help="which, separated by commas")
    names = parser.parse_args().servers.split(",")
    for name in names:
        if name not in PEERS:
            parser.error(f"no {name!r}; there are {', '.join(PEERS)}")
    rows = [["server", *IN_HAND]]
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graceful-bench-")))
        pool = stack.enter_context(ThreadPoolExecutor(len(IN_HAND)))
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            found = [
                pool.submit(observe, PEERS[name], begin, logs / f"{name}-{number}.log")
                for number, begin in enumerate(IN_HAND.values())
            ]
            rows.append([name, *(one.result() for one in found)])
    print(", ".join(f"{PEERS[name].distribution} {version(PEERS[name].distribution)}" for name in names), end="\n\n")
    print(table(rows))


if __name__ == "__main__":
    main()
