"""Stopping a real process: nobody is interrupted, and what is over time is ended honestly.

GRACEFUL_TEST_DEPLOYS says how many servers follow each other under load: five if it is not set.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.support.clients import Connection, Failure, request
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.load import Load
from tests.support.ports import free_port
from tests.support.preload import library
from tests.support.server import Server
from tests.support.waiting import wait_for

GENERATIONS = int(os.environ.get("GRACEFUL_TEST_DEPLOYS", "5"))
MIB = 1024 * 1024
SHORT = ("--deadline", "1", "--idle-grace", "0.5")


def test_nobody_notices_deploys_in_a_row(any_home: Home) -> None:
    """Under five kinds of clients, servers follow each other on one port, and no request is lost.

    Each is told to stop while all clients are in the middle of something, and its successor starts as soon
    as it says that its socket is closed.  Connections are refused in between; nothing else happens to anybody.
    """
    options = ("--idle-grace", "1", "--threads", "30", "--spool", str(any_home.spool))
    port = free_port()
    unheard = []
    with ExitStack() as stack:
        server = stack.enter_context(Server(any_home, *options, port=port))
        servers = [server]
        load = stack.enter_context(Load(port))
        for _ in range(GENERATIONS):
            load.mark()
            told = server.terminate()
            server.wait_closed()
            server = stack.enter_context(Server(any_home, *options, port=port))
            servers.append(server)
            unheard.append((told, server.wait_open()))
        load.mark()
        unheard.append((server.terminate(), math.inf))
        server.wait_closed()
        with pytest.raises(Failure, match="refused"):
            Connection(port)
        report = load.stop()
        for server in servers:
            assert server.wait() == 0
            assert server.drained()[1:] == (0, 0)
        report.check(unheard)


def test_no_client_falls_into_the_gap(any_home: Home) -> None:
    """Between the last accept and the close of the socket, no client is connected only to be reset.

    Clients who try in that moment, which is made long here, are refused in the end, not told a lie before.
    """
    slow_close = library("slow_close", any_home.path)
    with Server(any_home, preload=slow_close) as server, ExitStack() as stack:
        connections: list[Connection] = []

        def connect_until_refused() -> str:
            while True:
                try:
                    connections.append(stack.enter_context(Connection(server.port)))
                except Failure as failure:
                    return failure.outcome
                time.sleep(0.0005)

        with ThreadPoolExecutor(1) as executor:
            end = executor.submit(connect_until_refused)
            wait_for(lambda: len(connections) > 10)
            server.terminate()
            assert end.result() == "refused"
        for connection in connections:
            assert connection.get("/").status == 200
            connection.end()


def test_stop_waits_for_the_application(home: Home) -> None:
    """A request in the application is finished after the socket is closed, and its answer says close."""
    with Server(home) as server, Gate(home.path / "gate") as gate, Connection(server.port) as connection:
        connection.send(request(gate.target()) + request("/echo?pipelined"))
        gate.open_in_a_stop(server)
        assert connection.answer().body == b"passed"
        last = connection.answer()
        assert (last.body, last.says_close) == (b"pipelined", True)
        connection.end()
        assert server.wait() == 0
        assert server.drained() == (2, 0, 0)


def test_pipelined_requests_are_finished(home: Home) -> None:
    """However many requests came in one packet before the signal, all are answered; the last one says close."""
    with Server(home) as server, Gate(home.path / "gate") as gate, Connection(server.port) as connection:
        connection.send(request(gate.target()) + b"".join(request(f"/echo?{n}") for n in range(100)))
        gate.open_in_a_stop(server)
        answers = [connection.answer() for _ in range(101)]
        assert [answer.body for answer in answers] == [b"passed", *(b"%d" % n for n in range(100))]
        assert [answer.says_close for answer in answers] == [False] * 100 + [True]
        connection.end()
        assert server.wait() == 0
        assert server.drained() == (101, 0, 0)


def test_a_streamed_answer_is_finished(home: Home) -> None:
    """An answer that has begun before the signal goes on after it."""
    with Server(home) as server, Gate(home.path / "gate") as gate, Connection(server.port) as connection:
        connection.send(request(gate.target("/half-gate")))
        gate.open_in_a_stop(server)
        assert connection.answer().body == b"firstafter"
        connection.close()
        assert server.wait() == 0


def test_queued_requests_are_finished(home: Home) -> None:
    """Requests that wait for a thread when the signal comes get their thread and their answer."""
    with (
        Server(home, "--threads", "1") as server,
        Gate(home.path / "gate") as gate,
        Connection(server.port) as first,
        ExitStack() as stack,
    ):
        first.send(request(gate.target()))
        gate.wait_reached()
        others = [stack.enter_context(Connection(server.port)) for _ in range(10)]
        for number, other in enumerate(others):
            other.send(request(f"/echo?{number}"))
        server.terminate()
        server.wait_closed()
        gate.open()
        for number, other in enumerate(others):
            answer = other.answer()
            assert (answer.body, answer.says_close) == (b"%d" % number, True)
        assert first.answer().body == b"passed"
        assert server.wait() == 0
        assert server.drained() == (11, 0, 0)


def test_last_request_on_an_idle_connection(home: Home) -> None:
    """An idle connection may send one last request within `--idle-grace`, and is told to close."""
    with Server(home, "--idle-grace", "5") as server, Connection(server.port) as connection:
        connection.get("/")
        server.terminate()
        server.wait_closed()
        assert server.stays(1)
        answer = connection.get("/echo?last")
        assert (answer.body, answer.says_close) == (b"last", True)
        connection.end()
        assert server.wait(2) == 0


def test_first_request_on_a_fresh_connection(home: Home) -> None:
    """A connection made before the socket was closed gets an answer to a request sent after it."""
    with Server(home, "--idle-grace", "5") as server, ExitStack() as stack:
        connections = [stack.enter_context(Connection(server.port)) for _ in range(20)]
        server.terminate()
        server.wait_closed()
        assert server.stays(1)
        for connection in connections:
            assert connection.get("/").says_close
            connection.end()
        assert server.wait(2) == 0


def test_answer_in_the_socket_when_the_process_ends(home: Home) -> None:
    """An answer that the kernel still holds for a slow reader is not lost by the exit."""
    with Server(home) as server, Connection(server.port, receive_buffer=4096) as reader:
        reader.send(request(f"/one?bytes={2 * MIB}"))
        assert reader.socket.recv(8, socket.MSG_PEEK) == b"HTTP/1.1"
        server.terminate()
        server.wait_closed()
        assert server.stays(0.5)
        assert len(reader.answer().body) == 2 * MIB
        reader.close()
        assert server.wait() == 0


def test_deadline_before_the_headers(home: Home) -> None:
    """At the deadline a request without an answer gets 503 with Retry-After.

    The log names it and says what its thread was doing; the status is 70 since the thread then ends.
    """
    with Server(home, *SHORT) as server, Gate(home.path / "gate") as gate:
        with Connection(server.port) as connection:
            connection.send(request(gate.target()))
            gate.wait_reached()
            server.terminate()
            answer = connection.answer()
            assert (answer.status, answer.says_close) == (503, True)
            assert int(answer.header("Retry-After") or 0) > 0
            connection.end()
            gate.open()
        assert server.wait() == 70
        assert server.drained() == (0, 1, 0)
        server.wait_line(r"/gate\?path=")
        server.wait_line(r"basic\.py.*in gate")


def test_deadline_in_the_body(home: Home) -> None:
    """At the deadline an answer that has begun is cut, visibly: never a second status line or a clean end."""
    with Server(home, *SHORT) as server, Gate(home.path / "gate") as gate:
        with Connection(server.port) as connection:
            connection.send(request(gate.target("/half-gate")))
            gate.wait_reached()
            server.terminate()
            with pytest.raises(Failure, match="truncated: 5 bytes"):
                connection.answer()
            gate.open()
        assert server.wait() == 70
        assert server.drained() == (0, 1, 0)
        server.wait_line(r"/half-gate\?path=")
        server.wait_line(r"basic\.py.*in half_gate")


def test_deadline_in_an_upload(home: Home) -> None:
    """At the deadline a client that still sends its body gets 503 as well."""
    with Server(home, *SHORT) as server, Connection(server.port) as connection:
        connection.send(request("/upload", "Content-Length: 10", method="POST") + b"12345")
        server.terminate()
        answer = connection.answer("POST")
        assert (answer.status, answer.says_close) == (503, True)
        connection.end()
        assert server.wait() == 70
        assert server.drained() == (0, 1, 0)


def test_deadline_in_the_queue(home: Home) -> None:
    """At the deadline a request that never got a thread gets 503, and never reaches the application."""
    with Server(home, *SHORT, "--threads", "1") as server, Gate(home.path / "gate") as gate:
        with Connection(server.port) as first, Connection(server.port) as second:
            first.send(request(gate.target()))
            gate.wait_reached()
            second.send(request("/fail"))
            server.terminate()
            assert [connection.answer().status for connection in (first, second)] == [503, 503]
            gate.open()
        assert server.wait() == 70
        assert server.drained() == (0, 2, 0)


def test_deadline_for_pipelined_requests(home: Home) -> None:
    """Requests behind one that is taken down are lost with its connection, and counted as taken down."""
    with Server(home, *SHORT) as server, Gate(home.path / "gate") as gate:
        with Connection(server.port) as connection:
            connection.send(request(gate.target()) + request("/echo?second") + request("/echo?third"))
            gate.wait_reached()
            server.terminate()
            answer = connection.answer()
            assert (answer.status, answer.says_close) == (503, True)
            connection.end()
            gate.open()
        assert server.wait() == 70
        assert server.drained() == (0, 3, 0)


def test_deadline_for_a_slow_reader(home: Home) -> None:
    """At the deadline the answer to a client that does not read is cut, and its thread's wait ends."""
    with Server(home, *SHORT) as server, Connection(server.port, receive_buffer=4096) as reader:
        reader.send(request(f"/big?bytes={50 * MIB}"))
        server.terminate()
        assert server.wait() == 70
        assert server.drained() == (0, 1, 0)
        with pytest.raises(Failure, match=r"truncated|reset"):
            reader.answer()


def test_thread_that_does_not_end(home: Home) -> None:
    """A thread that goes on after the takedown is abandoned, soon after the deadline: status 71."""
    with Server(home, *SHORT) as server, Connection(server.port) as connection:
        connection.send(request("/sleep?seconds=100"))
        with Connection(server.port) as other:
            assert other.get("/").status == 200
        told = server.terminate()
        assert connection.answer().status == 503
        assert server.wait() == 71
        assert time.monotonic() - told < 8
        # The answer to `other` may have arrived before its thread has noted it.
        assert server.drained()[1:] == (1, 1)


STUCK_BEFORE = ("own-thread", "reactor-pool", "reactor-thread")
STUCK_AFTER = ("reactor-thread", "interpreter")


@pytest.fixture(scope="module")
def stuck() -> Iterator[dict[str, Server]]:
    """Stop a server for each place in which an application can hold the process, all at once.

    Each case takes the seconds of the last limit.  The applications get stuck before the signal, or after.
    """
    servers = {}
    with ExitStack() as stack:

        def start(name: str) -> Server:
            home = Home(os.getuid())
            stack.callback(home.remove)
            server = Server(home, *SHORT, application="stuck:application")
            stack.callback(server.kill)
            server.start()
            servers[name] = server
            return server

        for place in STUCK_BEFORE:
            start(f"{place} before")
        for place in STUCK_AFTER:
            start(f"{place} after")
        for place in STUCK_BEFORE:
            server = servers[f"{place} before"]
            server.wait_open()
            with Connection(server.port) as connection:
                connection.send(request(f"/{place}"))
                server.wait_line("stuck")
            server.terminate()
        for place in STUCK_AFTER:
            server = servers[f"{place} after"]
            server.wait_open()
            with Gate(server.home.path / "gate") as gate, Connection(server.port) as connection:
                connection.send(request(gate.target(f"/{place}")))
                gate.open_in_a_stop(server)
        yield servers


@pytest.mark.parametrize("case", ["own-thread before", "reactor-pool before"])
def test_exit_does_not_wait_for_foreign_threads(stuck: dict[str, Server], case: str) -> None:
    """Threads that serve no request, the application's own or the reactor pool's, do not hold the exit."""
    assert stuck[case].wait() == 0


@pytest.mark.parametrize("case", ["reactor-thread before", "reactor-thread after"])
def test_a_blocked_reactor_does_not_hold_the_exit(stuck: dict[str, Server], case: str) -> None:
    """A reactor that is blocked for ever, before the signal or after it, does not hold the exit."""
    assert stuck[case].wait(30) == 71, str(stuck[case].log)
    stuck[case].wait_line("last limit")


def test_a_stuck_interpreter_is_ended_by_the_kernel(stuck: dict[str, Server]) -> None:
    """When C code keeps the interpreter's lock for ever, the kernel ends the process."""
    assert stuck["interpreter after"].wait(30) == -signal.SIGALRM


def test_a_client_that_breaks_off_leaves_the_queue(home: Home) -> None:
    """A request whose client has reset its connection is dropped, and is neither waited for nor taken down."""
    access = home.logs / "access.log"
    options = ("--threads", "1", "--idle-grace", "0.2", "--access-log", str(access))
    with Server(home, *options) as server, Gate(home.path / "gate") as gate, Connection(server.port) as first:
        first.send(request(gate.target()))
        gate.wait_reached()
        others = [Connection(server.port) for _ in range(5)]
        for number, other in enumerate(others):
            other.send(request(f"/dropped{number}"))
        wait_for(lambda: server.in_flight("queued") == 5)
        for other in others:
            other.reset()
        wait_for(lambda: server.in_flight("queued") == 0)  # while the only thread is busy
        server.terminate()
        server.wait_closed()
        gate.open()
        assert first.answer().status == 200
        first.end()
        assert server.wait() == 0
        assert server.drained() == (1, 0, 0)
    lines = [line for line in access.read_text().splitlines() if "/dropped" in line]
    assert len(lines) == 5
    assert all('" 0 ' in line for line in lines), lines
