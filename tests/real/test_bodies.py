"""Slow and large bodies in both directions: what they may hold, and for how long."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clients import Connection, Failure, ask, get, request
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import Server
from tests.support.waiting import PATIENCE

MIB = 1024 * 1024
PATTERN = bytes(range(256)) * 4096


def test_slow_uploads_hold_no_thread(home: Home) -> None:
    """With one thread and five clients in the middle of their uploads, another request is answered."""
    with Server(home, "--threads", "1", "--spool", str(home.spool)) as server, ExitStack() as stack:
        uploads = [stack.enter_context(Connection(server.port)) for _ in range(5)]
        for upload in uploads:
            head = request("/upload", f"Content-Length: {MIB}", "Connection: close", method="POST")
            upload.send(head + PATTERN[: MIB // 2])
        assert get(server.port).status == 200
        # Not even a crash would leave anything: the files have no names.
        assert list(home.spool.iterdir()) == []
        for upload in uploads:
            upload.send(PATTERN[MIB // 2 :])
            assert upload.answer("POST").body == f"{MIB} {hashlib.sha256(PATTERN).hexdigest()}".encode()


def test_slow_readers_hold_no_thread(home: Home) -> None:
    """With two threads and ten clients that do not read their MiB, another request is answered."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # Connections inherit this from their listening socket, so that the kernel does not take a whole MiB.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        number, port = listening.fileno(), listening.getsockname()[1]
        options = ("--threads", "2")
        with Server(home, *options, listen=[f"fd:{number}"], pass_fds=[number]), ExitStack() as stack:
            readers = [stack.enter_context(Connection(port, receive_buffer=4096)) for _ in range(10)]
            for reader in readers:
                reader.send(request(f"/one?bytes={MIB}", "Connection: close"))
            assert get(port).status == 200
            for reader in readers:
                assert reader.answer().body == PATTERN
                reader.end()


def test_large_answers_to_slow_readers_are_whole(home: Home) -> None:
    """More clients than threads, each with an answer far larger than all buffers, get every byte."""
    size = 12 * MIB
    expected = hashlib.sha256(PATTERN * 12).digest()
    with Server(home, "--threads", "2") as server, ExitStack() as stack:
        readers = [stack.enter_context(Connection(server.port, receive_buffer=16384)) for _ in range(4)]
        for reader in readers:
            reader.send(request(f"/big?bytes={size}", "Connection: close"))
        for reader in readers:
            digest = hashlib.sha256()
            reader.answer(consume=digest.update)
            assert digest.digest() == expected
            reader.end()


def test_disconnect_frees_a_thread_that_waits_for_a_reader(home: Home) -> None:
    """A thread that waits for a slow reader goes on to others when the reader goes away."""
    with (
        Server(home, "--threads", "1") as server,
        Connection(server.port, receive_buffer=4096) as reader,
        Connection(server.port) as other,
    ):
        reader.send(request(f"/big?bytes={50 * MIB}"))
        reader.socket.recv(1000)
        other.send(request("/echo?freed"))
        reader.reset()
        assert other.answer().body == b"freed"


def test_a_client_that_reads_nothing_loses_its_connection(home: Home) -> None:
    """A client that reads nothing for `--send-timeout` loses its connection, and others get the thread."""
    with (
        Server(home, "--threads", "1", "--send-timeout", "1") as server,
        Connection(server.port, receive_buffer=4096) as reader,
        Connection(server.port) as other,
    ):
        reader.send(request(f"/big?bytes={50 * MIB}"))
        assert reader.socket.recv(8, socket.MSG_PEEK) == b"HTTP/1.1"
        other.send(request("/echo?freed"))
        assert other.answer().body == b"freed"
        with pytest.raises(Failure, match=r"reset|truncated"):
            reader.answer()


def test_upload_that_stops(home: Home) -> None:
    """A client that sends nothing more of its body for `--send-timeout` gets 408 and a close."""
    with Server(home, "--send-timeout", "1") as server, Connection(server.port) as connection:
        connection.send(request("/upload", "Content-Length: 10", method="POST") + b"12345")
        answer = connection.answer("POST")
        assert (answer.status, answer.says_close) == (408, True)
        connection.end()


def test_a_full_queue_answers_503_at_once(home: Home) -> None:
    """With all threads taken and the queue full, further requests get 503 with Retry-After at once."""
    with (
        Server(home, "--threads", "1", "--queue", "2") as server,
        Gate(home.path / "queue") as gate,
        Connection(server.port) as first,
        ExitStack() as stack,
    ):
        first.send(request(gate.target()))
        gate.wait_reached()
        others = [stack.enter_context(Connection(server.port)) for _ in range(7)]
        for other in others:
            other.send(request("/echo?queued", "Connection: close"))
        # Five can be answered without the thread: only then may the gate open.
        refused = wait_readable(others, 5)
        gate.open()
        for other in others:
            answer = other.answer()
            if other in refused:
                assert (answer.status, answer.says_close) == (503, True)
                assert int(answer.header("Retry-After") or 0) > 0
            else:
                assert (answer.status, answer.body) == (200, b"queued")
            other.end()
        assert first.answer().body == b"passed"


def wait_readable(connections: list[Connection], number: int) -> list[Connection]:
    """Wait until `number` of the connections have something to read, and return these."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        readable = [connection for connection in connections if select.select([connection.socket], [], [], 0)[0]]
        if len(readable) >= number:
            return readable
        time.sleep(0.01)
    raise AssertionError(f"{len(readable)} answers instead of {number}")


def tiny_disk(path: Path) -> list[str]:
    """Return a command that starts another one, for which alone a file system of two MiB is mounted there."""
    namespaces = ["--mount"] if os.getuid() == 0 else ["--mount", "--user", "--map-root-user"]
    script = 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"'
    return ["unshare", *namespaces, "sh", "-c", script, str(path)]


def test_a_body_without_room_on_the_disk_gets_507(home: Home) -> None:
    """A body for which the disk has no room gets 507; everyone else is served, small bodies too."""
    with Server(home, "--spool", str(home.spool), prefix=tiny_disk(home.spool)) as server:
        with Connection(server.port) as idle, Connection(server.port) as connection:
            assert idle.get("/").status == 200
            connection.send(request("/upload", method="POST", body=os.urandom(5 * MIB)))
            answer = connection.answer("POST")
            assert (answer.status, answer.says_close) == (507, True)
            assert idle.get("/").status == 200
        # The room that the failed one has taken is free again.
        for size in (5, MIB, MIB):
            upload = request("/upload", "Connection: close", method="POST", body=os.urandom(size))
            assert ask(server.port, upload, "POST").body.startswith(b"%d " % size)
