"""SIGTERM in the middle of downloads: they are finished; at their own deadline they are cut, and named."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clients import Connection, Failure, digest, request
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.nginx import Nginx
from tests.support.server import Server
from tests.support.tls import Certificate, TLSConnection
from tests.support.upstream import Upstream, silent
from tests.support.waiting import wait_for

MIB = 1024 * 1024
DATA = os.urandom(8 * MIB)
"""More than the kernel's buffers hold, on the way to a client with a small one."""

APPLICATION = "handover:application"
MANY = 100
QUICK = ("--idle-grace", "0.5")


@pytest.fixture
def files(home: Home) -> Path:
    """A directory with a file."""
    files = home.path / "files"
    files.mkdir()
    (files / "file").write_bytes(DATA)
    return files


@pytest.fixture
def nginx(home: Home, files: Path) -> Iterator[Nginx]:
    """An nginx that has the file, too."""
    with Nginx(home.path, files) as nginx:
        yield nginx


def begun(stack: ExitStack, server: Server, target: str) -> Connection:
    """Begin a download whose client takes nothing for now."""
    connection = stack.enter_context(Connection(server.port, receive_buffer=65536))
    connection.send(request(target))
    assert connection.socket.recv(8, socket.MSG_PEEK) == b"HTTP/1.1"
    return connection


def test_a_stop_finishes_100_downloads_and_answers_100_parked_requests(home: Home, nginx: Nginx, files: Path) -> None:
    """With 100 downloads and 100 requests that wait, all of the former arrive, all of the latter are answered.

    Who waits is answered when the sockets are closed: by the application in a thread, or else with 204.
    """
    ways = (
        f"/download?target={nginx.url}/file",
        f"/download?target={files}/file",
        f"/wrapped?path={files}/file",
        "/store/file",
        "/files/file",
    )
    options = (*QUICK, "--threads", "4", "--download", f"/store={nginx.url}", "--download", f"/files={files}")
    with Server(home, *options, application=APPLICATION) as server, ExitStack() as stack:
        waiting = [stack.enter_context(Connection(server.port)) for _ in range(MANY)]
        for number, connection in enumerate(waiting):
            connection.send(request(f"/park?name={number}" + ("&drain=1" if number % 2 else "")))
        downloads = [begun(stack, server, ways[number % len(ways)]) for number in range(MANY)]
        wait_for(lambda: server.in_flight("parked") == MANY)
        assert server.in_flight("downloading") == MANY
        server.terminate()
        server.wait_closed()
        for number, connection in enumerate(waiting):
            answer = connection.answer()
            if number % 2:
                assert answer.status == 200
                assert answer.body.startswith(f"come back, {number} (from graceful-aside".encode())
            else:
                assert (answer.status, answer.body) == (204, b"")
            assert answer.says_close
            connection.end()
        server.settle(MANY)  # it has yet to see that some clients have closed
        with ThreadPoolExecutor(10) as executor:
            for answer in executor.map(Connection.answer, downloads):
                assert digest(answer.body) == digest(DATA)
        for connection in downloads:
            connection.close()
        assert server.wait() == 0
        assert server.drained() == (2 * MANY, 0, 0)


def test_a_download_is_cut_visibly_at_its_deadline(home: Home, nginx: Nginx, files: Path, tmp_path: Path) -> None:
    """At `--download-deadline` a download is cut visibly and named, with 70; the next instance completes it."""
    mappings = ("--download", f"/store={nginx.url}", "--download", f"/files={files}")
    deadlines = ("--deadline", "0", "--download-deadline", "1.5", *QUICK)
    part = tmp_path / "part"
    with Server(home, *mappings, *deadlines) as server, ExitStack() as stack:
        targets = ("/store/file", "/files/file")
        connections = {target: begun(stack, server, target) for target in targets}
        server.terminate()
        for target, connection in connections.items():
            got: list[bytes] = []
            server.wait_line(
                rf"taking down exchange \d+ GET {target} .*: downloading for .*, \d+ of {len(DATA)} bytes sent"
            )
            with pytest.raises(Failure, match=r"truncated|reset"):
                connection.answer(consume=got.append)
            part.write_bytes(b"".join(got))
            assert 0 < part.stat().st_size < len(DATA)
        assert server.wait() == 70
        assert server.drained() == (0, 2, 0)
    with Server(home, *mappings, *QUICK) as server:
        url = f"http://127.0.0.1:{server.port}/files/file"
        subprocess.run(["curl", "--silent", "--fail", "-C", "-", "-o", part, url], check=True, timeout=20)
    assert digest(part.read_bytes()) == digest(DATA)


@pytest.mark.parametrize(("stuck", "status"), [("/gate", 70), ("/doze", 71)])
def test_deadline_of_a_thread_beside_a_download(
    home: Home, nginx: Nginx, files: Path, stuck: str, status: int
) -> None:
    """At `--deadline` a stuck thread's exchange is taken down; downloads beside it go on to their end.

    The status tells of the thread, whether it has ended since (70) or not (71).
    """
    options = ("--deadline", "1", *QUICK, "--download", f"/store={nginx.url}")
    with (
        Server(home, *options, "--download", f"/files={files}", application=APPLICATION) as server,
        Gate(home.path / "gate") as gate,
        ExitStack() as stack,
        Connection(server.port) as working,
    ):
        targets = ("/store/file", "/files/file", f"/download?target={files}/file", f"/wrapped?path={files}/file")
        downloads = [begun(stack, server, target) for target in targets]
        working.send(request(gate.target(stuck)))
        if stuck == "/gate":
            gate.wait_reached()
        wait_for(lambda: server.in_flight("in the application") == 1)
        server.terminate()
        assert working.answer().status == 503
        working.end()
        server.wait_line(rf"taking down exchange \d+ GET {stuck}")
        gate.open()
        assert server.stays(2.5)
        for connection in downloads:
            assert digest(connection.answer().body) == digest(DATA)
            connection.close()
        assert server.wait() == status
        assert server.drained() == (4, 1, 1 if status == 71 else 0)


def test_nothing_has_come_yet(home: Home) -> None:
    """A download whose upstream has not answered is waited for as well; at its deadline it is a 503."""
    deadlines = ("--deadline", "0", "--download-deadline", "1")
    with Upstream(silent) as upstream, Server(home, *deadlines, application=APPLICATION) as server:
        with Connection(server.port) as connection:
            connection.send(request(f"/download?target={upstream.url}/file"))
            visit = upstream.visit()
            server.terminate()
            answer = connection.answer()
            assert (answer.status, answer.says_close) == (503, True)
            connection.end()
        assert visit.left.wait(3)
        assert server.wait() == 70


def test_sigquit_cuts_downloads(home: Home, nginx: Nginx) -> None:
    """SIGQUIT cuts downloads as it does everything."""
    with Server(home, "--download", f"/store={nginx.url}") as server, ExitStack() as stack:
        connection = begun(stack, server, "/store/file")
        os.kill(server.pid, 3)
        with pytest.raises(Failure, match=r"truncated|reset"):
            connection.answer()
        assert server.wait() == 70


def test_a_stop_waits_for_downloads_over_tls(home: Home, nginx: Nginx, files: Path, tmp_path: Path) -> None:
    """Over TLS downloads arrive as well, whole and in part, and a stop waits for them."""
    certificate = Certificate(tmp_path)
    mappings = ("--download", f"/store={nginx.url}", "--download", f"/files={files}")
    with (
        Server(home, *mappings, *QUICK, listen=[certificate.endpoint]) as server,
        ExitStack() as stack,
    ):
        port = int(server.wait_line(r"socket ssl:127\.0\.0\.1:(\d+) open")[1])
        slow = []
        for target in ("/store/file", "/files/file", f"/wrapped?path={files}/file"):
            connection = stack.enter_context(TLSConnection(port, certificate.context()))
            assert digest(connection.get(target).body) == digest(DATA)
            if not target.startswith("/wrapped"):
                part = connection.get(target, "Range: bytes=1000-5000999")
                assert (part.status, digest(part.body)) == (206, digest(DATA[1000:5_001_000]))
            slow.append(stack.enter_context(TLSConnection(port, certificate.context(), receive_buffer=65536)))
            slow[-1].send(request(target))
        wait_for(lambda: server.in_flight("downloading") == len(slow))
        server.terminate()
        server.wait_closed()
        for connection in slow:
            assert digest(connection.answer().body) == digest(DATA)
            connection.end()
        assert server.wait() == 0
        assert server.drained()[1:] == (0, 0)
