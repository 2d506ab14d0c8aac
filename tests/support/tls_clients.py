"""Clients of several makes that connect by TLS again and again, and count what fails."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from tests.support.tls import TLSConnection

#: Connects, asks for `/pid` once or more, and closes.  Returns the processes that have answered.
Way = Callable[[], list[int]]


def strict(port: int, context: ssl.SSLContext) -> Way:
    """Our own client, which asks twice on each connection, and wants TLS's goodbye."""

    def ask() -> list[int]:
        pids = []
        with TLSConnection(port, context) as client:
            for _ in range(2):
                answer = client.get("/pid")
                assert answer.status == 200
                pids.append(int(answer.body))
                if answer.says_close:
                    client.end()
                    break
        return pids

    return ask


def curl(port: int, trusted: Path) -> Way:
    """The program, which asks twice, if it can on one connection."""
    url = f"https://127.0.0.1:{port}/pid"
    command = ["curl", "-sS", "--fail", "--cacert", str(trusted), "-w", " ", url, url]

    def ask() -> list[int]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.split()
        return [int(first), int(second)]

    return ask


def openssl(port: int, trusted: Path, *options: str) -> Way:
    """`openssl s_client`, which asks once."""
    verify = ["-CAfile", str(trusted), "-verify_return_error", "-verify_ip", "127.0.0.1"]
    command = ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{port}", *verify, *options]

    def ask() -> list[int]:
        said = "GET /pid HTTP/1.1\r\nHost: test.example\r\nConnection: close\r\n\r\n"
        done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=30)
        head, _, body = done.stdout.partition("\n\n")
        assert head.startswith("HTTP/1.1 200 "), (done.stdout, done.stderr)
        return [int(body)]

    return ask


class Clients:
    """Clients that connect, ask and close without a pause, each in a thread.

    :param ways: one for each client.
    :ivar asked: how many answers were right.
    :ivar failures: everything else.
    :ivar pids: which processes have answered.
    """

    def __init__(self, *ways: Way) -> None:
        self.asked = 0
        self.failures: list[str] = []
        self.pids: set[int] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(way,)) for way in ways]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, way: Way) -> None:
        while not self._over.is_set():
            try:
                pids = way()
            except Exception as error:
                self.failures.append(repr(error))
                continue
            with self._lock:
                self.asked += len(pids)
                self.pids.update(pids)
