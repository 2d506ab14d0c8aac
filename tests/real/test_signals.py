"""Signals at the worst moments, and what each of them does."""

from __future__ import annotations

import glob
import os
import select
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from email.utils import parsedate_to_datetime

import pytest

from tests.support.clients import Connection, Failure, get, request
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.preload import library
from tests.support.server import OPEN, Server
from tests.support.waiting import wait_for

MIB = 1024 * 1024
IN_FLIGHT = r"(\d+) in flight"


def importing(home: Home, gate: Gate, *, daemon: bool) -> Server:
    """Return a server whose application's import stops at the gate."""
    environment = {"IMPORT_GATE": str(gate.path)}
    return Server(home, application="slow_import", environment=environment, daemon=daemon, wait_open=False)


def test_sigterm_during_start_up(home: Home) -> None:
    """SIGTERM while the application is being imported ends the process soon, and nothing is left behind."""
    with Gate(home.path / "gate") as gate, importing(home, gate, daemon=False) as server:
        gate.wait_reached()
        server.terminate()
        assert server.wait(5) != 0
        assert not server.log.find_all(OPEN)


def test_sigterm_during_start_up_of_a_daemon(home: Home) -> None:
    """SIGTERM to a daemon that is importing ends it, and the waiting parent as well, with a word."""
    with Gate(home.path / "gate") as gate:
        server = importing(home, gate, daemon=True)
        with ThreadPoolExecutor(1) as executor:
            parent = executor.submit(server.run)
            gate.wait_reached()
            wait_for(lambda: importers(gate) != [])  # it has yet to come back from opening it
            (pid,) = importers(gate)
            daemon = os.pidfd_open(pid)
            os.kill(pid, signal.SIGTERM)
            ended = parent.result()
        has_ended = select.select([daemon], [], [], 5)[0]
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(daemon, signal.SIGKILL)
        os.close(daemon)
        assert has_ended
        assert ended.returncode != 0
        assert "SIGTERM" in ended.stdout
        assert len(ended.stdout.splitlines()) == 1


def importers(gate: Gate) -> list[int]:
    """Return the processes that have the gate open: the one that is importing, and nobody else."""
    found = []
    for descriptor in glob.iglob("/proc/[0-9]*/fd/*"):  # Path.glob trips over processes that end meanwhile
        with suppress(OSError):
            if os.readlink(descriptor) == str(gate.path):
                found.append(int(descriptor.split("/")[2]))
    return sorted(set(found) - {os.getpid()})


def test_no_connection_at_all(any_home: Home) -> None:
    """A server that nobody is connected to is gone at once."""
    with Server(any_home) as server:
        told = server.terminate()
        assert server.wait(5) == 0
        assert time.monotonic() - told < 2
        assert server.drained() == (0, 0, 0)


def test_a_second_sigterm_logs_and_changes_nothing(home: Home) -> None:
    """A second SIGTERM says what is still running, and changes nothing."""
    with Server(home) as server, Gate(home.path / "gate") as gate, Connection(server.port) as connection:
        connection.send(request(gate.target()))
        gate.wait_reached()
        server.terminate()
        server.wait_closed()
        assert not server.log.find_all(r"/gate\?path=")
        server.terminate()
        server.wait_line(r"/gate\?path=")
        gate.open()
        assert connection.answer().body == b"passed"
        assert server.wait() == 0
        assert server.drained() == (1, 0, 0)


def test_500_idle_connections(home: Home) -> None:
    """Of 500 idle connections, those that ask once more are answered, and the others closed in their time."""
    with Server(home, "--idle-grace", "2") as server, ExitStack() as stack:
        connections = [stack.enter_context(Connection(server.port)) for _ in range(500)]
        for connection in connections[:400]:
            connection.get("/")
        told = server.terminate()
        server.wait_closed()
        for connection in connections[::2]:
            answer = connection.get("/echo?last")
            assert (answer.body, answer.says_close) == (b"last", True)
        for connection in connections:
            connection.end()
        assert server.wait() == 0
        assert time.monotonic() - told < 6


def test_half_sent_heads(home: Home) -> None:
    """A request whose head is half sent at the signal is served if the rest comes, and else ends with 408."""
    with (
        Server(home, "--idle-grace", "1", "--header-timeout", "3") as server,
        Connection(server.port) as completed,
        Connection(server.port) as forgotten,
    ):
        data = request("/echo?completed")
        completed.send(data[:20])
        forgotten.send(data[:20])
        with Connection(server.port) as other:
            other.get("/")
        server.terminate()
        server.wait_closed()
        completed.send(data[20:])
        answer = completed.answer()
        assert (answer.body, answer.says_close) == (b"completed", True)
        completed.end()
        assert forgotten.answer().status == 408
        forgotten.end()
        assert server.wait() == 0


def test_client_that_never_reads(home: Home) -> None:
    """A client that reads nothing does not hold the process longer than `--send-timeout`."""
    with (
        Server(home, "--send-timeout", "1", "--idle-grace", "0.5") as server,
        Connection(server.port, receive_buffer=4096) as reader,
    ):
        reader.send(request(f"/big?bytes={50 * MIB}"))
        assert reader.socket.recv(8, socket.MSG_PEEK) == b"HTTP/1.1"
        told = server.terminate()
        assert server.wait(15) == 0
        assert time.monotonic() - told < 5
        server.wait_line(r"GET /big\?bytes=\d+ .*cut")
        with pytest.raises(Failure, match=r"truncated|reset"):
            reader.answer()


def test_client_that_half_closes(home: Home) -> None:
    """A client that has said it sends no more is still answered after the signal."""
    with Server(home) as server, Gate(home.path / "gate") as gate, Connection(server.port) as connection:
        connection.send(request(gate.target()))
        connection.half_close()
        gate.open_in_a_stop(server)
        assert connection.answer().body == b"passed"
        connection.end()
        assert server.wait() == 0


def test_no_descriptors_left(any_home: Home) -> None:
    """Clients that the server had no descriptors to accept are served before it closes its socket."""
    options = ("--max-connections", "1000", "--idle-grace", "0.5")
    with Server(any_home, *options, open_files=64) as server, ExitStack() as stack:
        connections = [stack.enter_context(Connection(server.port)) for _ in range(100)]
        for number, connection in enumerate(connections):
            connection.send(request(f"/echo?{number}"))
        server.wait_line("(?i)descriptors|too many open files|EMFILE")
        server.terminate()
        for number, connection in enumerate(connections):
            assert connection.answer().body == b"%d" % number
            connection.close()
        assert server.wait() == 0


def test_no_room_for_more_connections(any_home: Home) -> None:
    """Clients beyond `--max-connections` wait in the queue, and are served before the socket is closed."""
    options = ("--max-connections", "10", "--idle-grace", "0.5")
    with Server(any_home, *options) as server, ExitStack() as stack:
        connections = [stack.enter_context(Connection(server.port)) for _ in range(50)]
        for number, connection in enumerate(connections):
            connection.send(request(f"/echo?{number}"))
        assert connections[0].answer().body == b"0"
        server.terminate()
        for number, connection in list(enumerate(connections))[1:]:
            assert connection.answer().body == b"%d" % number
        stack.close()
        assert server.wait() == 0


def test_a_jump_of_the_wall_clock_ends_nothing(home: Home) -> None:
    """A wall clock that jumps ahead ends nothing: no deadline, no idle time, no drain."""
    stepped = home.path / "stepped"
    with (
        Server(
            home,
            "--idle-grace",
            "60",
            preload=library("clock_step", home.path),
            environment={"CLOCK_STEP_FILE": str(stepped)},
        ) as server,
        Gate(home.path / "gate") as gate,
        Connection(server.port) as connection,
        Connection(server.port) as idle,
        Connection(server.port) as draining,
    ):
        before = wall_clock(server)
        idle.get("/")
        draining.get("/")
        connection.send(request(gate.target()))
        gate.wait_reached()
        stepped.touch()
        wait_for(lambda: wall_clock(server) - before > 999 * 3600)
        assert idle.get("/").status == 200
        idle.close()
        server.terminate()
        server.wait_closed()
        assert draining.get("/").status == 200
        gate.open()
        assert connection.answer().body == b"passed"
        assert server.wait() == 0


def wall_clock(server: Server) -> float:
    """Return what time the server thinks it is, in seconds since the epoch."""
    date = get(server.port).header("Date")
    assert date is not None
    return parsedate_to_datetime(date).timestamp()


def test_sigint_closes_idle_connections_and_a_second_one_takes_down(home: Home) -> None:
    """SIGINT closes idle connections at once and finishes what is in flight; a second one takes it down."""
    with (
        Server(home, "--idle-grace", "60") as server,
        Gate(home.path / "gate") as gate,
        Connection(server.port) as connection,
        Connection(server.port) as idle,
    ):
        idle.get("/")
        connection.send(request(gate.target()))
        gate.wait_reached()
        server.settle(1)
        server.send_signal(signal.SIGINT)
        server.wait_closed()
        idle.end()
        assert not connection.closed_while_idle()
        server.send_signal(signal.SIGINT)
        answer = connection.answer()
        assert answer.status == 503
        gate.open()
        assert server.wait() == 70
        assert server.drained() == (0, 1, 0)


def test_sigquit_takes_down_what_is_in_flight(home: Home) -> None:
    """SIGQUIT takes down at once what is in flight."""
    with Server(home) as server, Gate(home.path / "gate") as gate, Connection(server.port) as connection:
        connection.send(request(gate.target()))
        gate.wait_reached()
        server.send_signal(signal.SIGQUIT)
        answer = connection.answer()
        assert (answer.status, answer.header("Retry-After") is None) == (503, False)
        gate.open()
        assert server.wait() == 70
        server.wait_closed()


def test_sigusr1_reopens_logs(home: Home) -> None:
    """After logs were moved away, SIGUSR1 makes the server write new ones; no line is lost."""
    access = home.logs / "access.log"
    with Server(home, "--access-log", str(access), daemon=True) as server:
        get(server.port, "/echo?first")
        moved_access = access.rename(home.logs / "access.log.1")
        moved_log = server.log_file.rename(home.logs / "moved.log")
        server.send_signal(signal.SIGUSR1)
        wait_for(access.exists)
        wait_for(server.log_file.exists)
        get(server.port, "/echo?second")
        server.terminate()
        assert server.wait() == 0
    assert "/echo?second" in access.read_text()
    assert "/echo?first" in moved_access.read_text() + access.read_text()
    assert " open (pid" in moved_log.read_text()
    assert "drained in" in server.log_file.read_text()
    assert sorted(path.name for path in home.logs.iterdir()) == [
        "access.log",
        "access.log.1",
        "moved.log",
        "twistd.log",
    ]


def test_sigusr1_in_the_foreground(home: Home) -> None:
    """SIGUSR1 does not kill a server that logs to its terminal."""
    with Server(home) as server:
        server.send_signal(signal.SIGUSR1)
        assert get(server.port).status == 200


def test_sigusr2_logs_every_exchange_with_its_stack(home: Home) -> None:
    """SIGUSR2 logs every exchange in flight, with its phase and its thread's stack."""
    with (
        Server(home, "--threads", "1") as server,
        Gate(home.path / "gate") as gate,
        Connection(server.port) as running,
        Connection(server.port) as waiting,
        Connection(server.port) as sending,
    ):
        sending.send(request("/upload", "Content-Length: 10", method="POST") + b"12345")
        running.send(request(gate.target()))
        gate.wait_reached()
        waiting.send(request("/echo?waits"))
        wait_for(lambda: logged_phases(server) == {"in the application", "queued", "receiving"})
        server.wait_line(r"basic\.py.*in gate")
        gate.open()
        assert waiting.answer().body == b"waits"
        sending.send(b"67890")
        assert sending.answer("POST").status == 200


def logged_phases(server: Server) -> set[str]:
    """Send SIGUSR2, and return the phases of what is logged."""
    before = len(server.log)
    said = len(server.log.find_all(IN_FLIGHT))
    server.send_signal(signal.SIGUSR2)
    number = int(server.wait_line(IN_FLIGHT, count=said + 1)[1])
    phases = r"exchange \d+ .*: (receiving|queued|in the application|sending|lingering)"
    wait_for(lambda: len(server.log.find_all(phases, before)) >= number)
    return {match[1] for _, match in server.log.find_all(phases, before)}
