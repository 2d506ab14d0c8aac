"""Stopping a server with an ASGI application: told in time, waited for, taken down honestly, however it behaves."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Connection, Failure, get, request
from tests.support.command import status_of
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import Server
from tests.support.waiting import wait_for

APPLICATION = "asgi_starlette:app"
SHORT = ("--idle-grace", "0.5", "--deadline", "2")


@contextmanager
def served(home: Home, *options: str, **more: Any) -> Iterator[Server]:
    """A server that is expected to take something down."""
    with Server(home, *options, application=APPLICATION, **more) as server:
        yield server
        server.tracebacks = None


def test_a_stop_waits_for_tasks_and_ends_the_lifespan_last(home: Home) -> None:
    """A request in a task is finished, then the lifespan ends, then the server."""
    with served(home, *SHORT) as server, Connection(server.port) as busy, Connection(server.port) as working:
        busy.send(request("/slow"))
        assert working.get("/background").body == b"answered"
        server.terminate()
        server.wait_closed()
        answer = busy.answer()
        assert (answer.body, answer.says_close) == (b"slow", True)
        server.wait_line("background: done")
        assert server.wait() == 0
        text = str(server.log)
        assert text.index("on_drain: called") < text.index("background: done") < text.index("lifespan: stopped")
        assert text.index("lifespan: stopped") < text.index("drained in")
        assert text.index("on_drain: ran in the loop") < text.index("background: done")
        assert server.drained() == (2, 0, 0)


@pytest.mark.parametrize("path", ["/events", "/scope-events"])
def test_an_event_stream_is_told_of_the_stop(home: Home, path: str) -> None:
    """A stream that waits for `drain_begins`, imported or from its scope, ends by itself, whole and at once."""
    with served(home, "--idle-grace", "0.5", "--deadline", "60") as server:
        pieces: list[bytes] = []

        def take(piece: bytes) -> None:
            if not pieces:
                server.terminate()
            pieces.append(bytes(piece))

        with Connection(server.port) as stream:
            stream.send(request(path))
            stream.answer(consume=take)
        assert b"".join(pieces).startswith(b"data: first\n\n")
        assert b"True" in b"".join(pieces)
        assert server.wait() == 0
        assert server.drained() == (1, 0, 0)


def test_what_is_left_at_the_deadline_is_taken_down(home: Home) -> None:
    """A request that hangs gets 503, a stream is cut visibly, and the report shows every await."""
    reports = home.logs / "reports"
    with served(home, *SHORT, "--reports", str(reports)) as server:
        with Connection(server.port) as hanging, Connection(server.port) as stream:
            hanging.send(request("/hang"))
            stream.send(request("/endless"))
            with pytest.raises(Failure, match="truncated"):
                stream.answer(consume=lambda piece: server.terminate())
            assert hanging.answer().status == 503
        assert server.wait() == 70
        assert server.drained() == (0, 2, 0)
        server.wait_line(r"taking down exchange \d+ GET /hang .*, its task is here:")
        server.wait_line(r"await asyncio\.Event\(\)\.wait\(\)")
        server.wait_line("lifespan: stopped")
        (report,) = [text for path in _files(reports) if "/hang" in (text := path.read_text(errors="replace"))]
        assert "in inner" in report
        assert "cancelled its task" in report


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_a_task_that_refuses_to_end_is_named_and_abandoned(home: Home) -> None:
    """A task that swallows its cancellation is cancelled again, named, and abandoned: exit status 71."""
    with served(home, *SHORT) as server, Connection(server.port) as client:
        client.send(request("/swallow"))
        wait_for(lambda: status_of(home)["in_flight_count"] == 1)
        server.terminate()
        assert client.answer().status == 503
        server.wait_line(r"its task could not be brought down \(cancelled its task \d times\) and is abandoned")
        assert server.wait() == 71
        assert server.drained() == (0, 1, 1)


def test_a_blocked_loop_blocks_only_the_application(home: Home) -> None:
    """With a blocked loop the server accepts, answers, stops, and frees the loop: exit status 70."""
    with served(home, *SHORT) as server, Connection(server.port) as client:
        client.send(request("/block?seconds=60"))
        server.wait_line("blocking")
        assert get(server.port, "/+haproxy").status == 200
        with Connection(server.port) as waiting:
            waiting.send(request("/"))
            wait_for(lambda: status_of(home)["in_flight_count"] == 2)
            server.wait_line(r"the asyncio loop has been blocked for \d s")
            server.wait_line("in block")
            server.terminate()
            assert client.answer().status == 503
            assert waiting.answer().status == 503
        assert server.wait() == 70
        assert server.drained() == (0, 2, 0)
        server.wait_line("lifespan: stopped")


def test_a_request_limit_ends_a_task(home: Home) -> None:
    """`--request-timeout` takes a task down while the server runs, and the others go on."""
    limit = ("--request-timeout", "/hang=1", "--idle-grace", "0.5")
    with served(home, *limit) as server, Connection(server.port) as connection:
        connection.send(request("/hang"))
        assert connection.answer().status == 503
        server.wait_line("its task has come down")
        assert connection.get("/").body == b"Hello, world!"


def test_an_application_that_cannot_start_ends_the_start(home: Home) -> None:
    """A lifespan that fails ends the start, in one clear line, and the port stays closed."""
    said = Server(home, application=APPLICATION, environment={"ASGI_FAILS": "1"}).run()
    assert said.returncode == 1
    lines = [line for line in said.stdout.splitlines() if line.startswith("graceful: ")]
    assert lines == ["graceful: the application's start-up failed: RuntimeError: the database is not there"]
    assert "open (pid" not in said.stdout


def test_sigterm_ends_a_start_up_that_hangs(home: Home) -> None:
    """A lifespan that hangs is named after a while, and SIGTERM ends the start."""
    server = Server(home, application=APPLICATION, environment={"ASGI_HANGS": "1"}, wait_open=False)
    server.start()
    try:
        server.wait_line("hanging in start-up", timeout=30)
        server.wait_line(r"start-up \(lifespan.startup\) is not complete after 10 s")
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 1
        server.wait_line("stopped by SIGTERM while starting")
    finally:
        server.kill()


def test_a_lifespan_that_hangs_at_the_end_is_named_and_left(home: Home) -> None:
    """The shutdown has 5 seconds; then the server ends without it, and says so.  No request was harmed."""
    with served(home, *SHORT, environment={"ASGI_HANGS_AT_THE_END": "1"}) as server:
        assert get(server.port, "/").status == 200
        server.settle()
        server.terminate()
        server.wait_line("hanging in shutdown")
        server.wait_line(r"Lifespan.shutdown of .* has not returned in 5 s")
        assert server.wait() == 0
        assert server.drained() == (0, 0, 0)


def test_an_upload_goes_on_through_a_stop(home: Home) -> None:
    """A body that the application reads while it arrives is read to its end in a drain."""
    with served(home, "--idle-grace", "0.5", "--deadline", "30") as server, Connection(server.port) as client:
        client.send(request("/upload", "Content-Length: 200000", method="POST") + b"x" * 100_000)
        wait_for(lambda: status_of(home)["in_flight_count"] == 1)
        server.terminate()
        server.wait_closed()
        client.send(b"x" * 100_000)
        answer = client.answer("POST")
        assert (answer.body[:7], answer.says_close) == (b"200000 ", True)
        assert server.wait() == 0


def test_a_takeover_moves_what_is_idle_and_finishes_what_runs(home: Home) -> None:
    """At SIGHUP a request in a task is finished by the old process; its connection goes on with the new one."""
    with served(home, "--idle-grace", "0.5", daemon=True) as server, Connection(server.port) as busy:
        first = server.pid
        assert busy.get("/").body == b"Hello, world!"
        with Gate(home.path / "gate") as gate:
            busy.send(request(gate.target()))
            gate.wait_reached()
            server.send_signal(signal.SIGHUP)
            server.wait_line("stopping: 1 in flight", timeout=30)
            gate.open()
            assert busy.answer().body == b"passed"
        server.wait_line("lifespan: started", count=2)
        server.wait_line("lifespan: stopped")
        assert busy.get("/state").body == b"hello"
        server.wait_line(r"drained in [0-9.]+ s: 1 finished, 0 taken down, 0 abandoned, 1 connections moved")
        assert server.wait() == 0
        server.pid, server.status = server.daemon_pid(), None
        assert server.pid != first
        assert json.dumps(status_of(home)["moved"]) == '{"in": 1, "out": 0}'
