"""A real supervisor and its workers: what takes a worker away takes no request with it, or only the worker's own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Connection, Failure, get, request
from tests.support.command import graceful, status_of
from tests.support.gate import Gate
from tests.support.home import UNPRIVILEGED, Home
from tests.support.load import Load
from tests.support.processes import alive
from tests.support.reports import reports
from tests.support.server import CLOSED, KEEPS_READING, OPEN, Server
from tests.support.waiting import wait_for

SHORT = ("--idle-grace", "0.5")
ACCEPTS = r"worker (\d+), process (\d+), accepts"
DIES = """
import os
from basic import application

if os.path.exists({flag!r}):
    raise RuntimeError("the flag is set")
"""
WAITS = """
import os
from basic import application

if os.path.exists({flag!r}):
    with open({flag!r}) as gate:
        gate.read()
"""
GROWS = """
from basic import application as basic

kept = []

def application(environ, start_response):
    kept.append(b"x" * (1 << 19))
    return basic(environ, start_response)
"""


def supervisor(home: Home, *options: str, workers: int = 3, **others: Any) -> Server:
    """A supervisor with its workers."""
    return Server(home, "--workers", str(workers), *SHORT, *options, **others)


def workers_of(home: Home) -> dict[int, int]:
    """The workers that serve, by their numbers."""
    return {one["number"]: one["pid"] for one in status_of(home)["workers"] if one["state"] == "serving"}


def complete(home: Home, count: int = 3, without: int = 0) -> dict[int, int]:
    """Wait until there are so many workers, and one of them is gone; return who they are."""
    found: dict[int, int] = {}

    def look() -> bool:
        found.clear()
        found.update(workers_of(home))
        return len(found) == count and without not in found.values()

    wait_for(look)
    return found


def served(port: int, times: int = 30) -> Counter[bytes]:
    """Make some requests, each on a connection of its own; return which process has answered how many."""
    return Counter(get(port, "/pid").body for _ in range(times))


def application(home: Home, text: str) -> dict[str, Any]:
    """A module of its own for a server, and how it is named."""
    (home.path / "own.py").write_text(text)
    environment = {"PYTHONPATH": f"{home.path}:{Path(__file__).parent.parent / 'apps'}"}
    return {"application": "own:application", "environment": environment}


# -- serving and stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("daemon", [False, True], ids=["-n", "daemon"])
def test_connections_are_spread_over_all_workers(home: Home, daemon: bool) -> None:
    """Connections are spread over all workers; the supervisor is the one to order about, and says when it is over."""
    with supervisor(home, daemon=daemon) as server:
        answered = served(server.port, 60)
        workers = workers_of(home)
        assert {str(pid).encode() for pid in workers.values()} == set(answered)
        assert min(answered.values()) > 5  # of 20 on average
        assert server.pid not in workers.values()
        assert {os.getpgid(pid) for pid in workers.values()}.isdisjoint({os.getpgid(server.pid)})
        server.terminate()
        assert server.wait() == 0
        assert [match["pid"] for _, match in server.log.find_all(CLOSED)] == [str(server.pid)]
        assert len(server.log.find_all(r"drained in")) == 1
        for pid in workers.values():
            assert not alive(pid)


def test_stopped_under_load(any_home: Home) -> None:
    """Workers close their sockets side by side, and nothing that was accepted is lost."""
    options = ("--threads", "30", "--spool", str(any_home.spool))
    for _ in range(2):
        with supervisor(any_home, *options) as server, Load(server.port) as load:
            load.mark()
            told = server.terminate()
            assert server.wait() == 0
            load.stop().check([(told, time.monotonic())])


def test_the_worst_exit_status(home: Home) -> None:
    """One deadline for all, the sums of what they have done, and the worst of their exit statuses."""
    with ExitStack() as stack:
        server = stack.enter_context(supervisor(home, "--deadline", "3", workers=2))
        gate, other = (stack.enter_context(Gate(home.path / name)) for name in ("gate", "other"))
        stuck, quick = (stack.enter_context(Connection(server.port)) for _ in range(2))
        stuck.send(request(gate.target()))
        quick.send(request(other.target()))
        gate.wait_reached()
        other.wait_reached()
        server.terminate()
        server.wait_closed()
        other.open()
        assert quick.answer().status == 200
        assert stuck.answer().status == 503
        gate.open()
        assert server.wait() == 70
        assert server.drained() == (1, 1, 0)


def test_a_lame_duck(home: Home) -> None:
    """While a balancer is to look elsewhere, all accept; an order to hurry goes to all."""
    with supervisor(home, "--lame-duck", "60") as server:
        pids = workers_of(home)
        assert graceful(home, "stop").returncode == 0
        wait_for(lambda: status_of(home)["state"] == "lame-duck")
        assert len(served(server.port)) == len(pids)
        assert get(server.port, "/+haproxy").status == 503
        server.send_signal(signal.SIGQUIT)
        assert server.wait() == 0


def test_orders_reach_the_workers(home: Home) -> None:
    """Leaving and entering, more time, and the taking down of one exchange reach the workers."""
    with ExitStack() as stack:
        server = stack.enter_context(supervisor(home))
        gate = stack.enter_context(Gate(home.path / "gate"))

        def healths() -> set[int]:
            return {get(server.port, "/+haproxy").status for _ in range(20)}

        assert graceful(home, "leave").returncode == 0
        assert healths() == {503}
        os.kill(workers_of(home)[1], signal.SIGKILL)
        server.wait_line(ACCEPTS, count=4)
        assert healths() == {503}  # the new one as well
        assert graceful(home, "enter").returncode == 0
        assert healths() == {200}
        assert graceful(home, "extend", "100").returncode == 0
        assert 312 <= status_of(home)["latest_exit"] < 330
        connection = stack.enter_context(Connection(server.port))
        connection.send(request(gate.target()))
        gate.wait_reached()
        (exchange,) = status_of(home)["in_flight"]
        assert exchange["worker"] in workers_of(home).values()
        taken = graceful(home, "takedown", str(exchange["id"]))
        assert taken.returncode == 0, taken
        assert connection.answer().status == 503
        gate.open()
        connection.close()


def test_sockets_of_other_kinds(home: Home) -> None:
    """A Unix socket and a descriptor are one for all workers, and are closed as carefully."""
    path = home.path / "app.socket"
    with socket.create_server(("127.0.0.1", 0)) as given:
        given.listen(100)
        listen = [f"unix:{path}", f"fd:{given.fileno()}"]
        with supervisor(home, listen=listen, pass_fds=[given.fileno()]) as server:
            server.wait_line(OPEN, count=2)
            for address in (str(path), given.getsockname()[1]):
                assert get(address, "/echo?x").body == b"x"
            pids = workers_of(home)
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
            home.disturbed = True
            assert get(str(path), "/echo?x").body == b"x"  # it waits for whoever comes
            server.terminate()
            server.wait_line(rf"socket unix:{re.escape(str(path))} closed \(pid {server.pid}\)")
            assert server.wait() == 0
        assert not path.exists()


def test_endpoints_that_cannot_be_shared(home: Home) -> None:
    """What a plugin listens on cannot be passed on: that is said."""
    failed = supervisor(home, listen=["ssl:0:privateKey=x:certKey=y"]).run()
    assert failed.returncode != 0
    assert "only tcp, tcp6, tls, tls6, unix, fd and systemd can be shared by workers" in failed.stdout


def test_an_address_that_is_taken(home: Home) -> None:
    """Two supervisors of one user do not share a port by mistake, though their sockets could."""
    with supervisor(home, workers=2) as server:
        failed = supervisor(home, "--control", "other.sock", port=server.port, twistd_options=("--pidfile=",)).run()
        assert failed.returncode != 0
        assert f"port {server.port} is in use" in failed.stdout


# -- workers that go --------------------------------------------------------------------------------------


def test_a_killed_worker_takes_only_its_own_exchanges_with_it(home: Home) -> None:
    """A worker that is killed takes only its own exchanges with it, which are named; another one takes its place."""
    with ExitStack() as stack:
        server = stack.enter_context(supervisor(home, "--reports", str(home.logs)))
        gate = stack.enter_context(Gate(home.path / "gate"))
        others = [stack.enter_context(Connection(server.port)) for _ in range(9)]
        lost = stack.enter_context(Connection(server.port))
        lost.send(request(gate.target()))
        gate.wait_reached()
        wait_for(lambda: status_of(home)["in_flight_count"] == 1)
        (exchange,) = status_of(home)["in_flight"]
        with suppress(Failure):  # one that the same worker has accepted is lost with it
            for connection in others:
                connection.get("/echo?1")
        os.kill(exchange["worker"], signal.SIGKILL)
        home.disturbed = True
        with pytest.raises(Failure):
            lost.answer()
        server.wait_line(rf"worker \d, process {exchange['worker']}, has ended with signal 9; it had 1 in flight")
        (line,) = json.loads(server.wait_line(r"interrupted: (.*)$")[1])
        assert (line["url"], line["outcome"]) == ("/gate", "lost")
        wait_for(lambda: [one["id"] for one in reports(home)] == [line["report"]])
        complete(home, without=exchange["worker"])
        assert sum(served(server.port).values()) == 30
        assert status_of(home)["finished"] >= 1  # what it had counted is not forgotten


def test_a_sibling_accepts(home: Home) -> None:
    """While a worker is replaced, clients that the kernel sends its way are accepted by another one."""
    flag = home.path / "flag"
    with supervisor(home, **application(home, WAITS.format(flag=str(flag)))) as server:
        home.disturbed = True
        for number in (1, 2):
            with Gate(flag) as gate:
                os.kill(workers_of(home)[number], signal.SIGKILL)
                gate.wait_reached()
                assert len(workers_of(home)) == 2
                assert sum(served(server.port, 50).values()) == 50
            complete(home)
        assert sum(served(server.port).values()) == 30


def test_no_client_is_refused_if_all_workers_are_killed(home: Home) -> None:
    """When all are killed at once, clients wait for the next ones, and nobody is refused."""
    with supervisor(home) as server:
        home.disturbed = True
        for pid in workers_of(home).values():
            os.kill(pid, signal.SIGKILL)
        assert sum(served(server.port).values()) == 30
        complete(home)


def test_told_to_stop_by_somebody_else(home: Home) -> None:
    """A worker that gets a SIGTERM of its own finishes what it has, and is replaced without loss."""
    with ExitStack() as stack:
        server = stack.enter_context(supervisor(home, "--threads", "30", "--spool", str(home.spool)))
        load = stack.enter_context(Load(server.port))
        load.mark()
        for number in (1, 2):
            pid = workers_of(home)[number]
            os.kill(pid, signal.SIGTERM)
            server.wait_line(rf"worker {number}, process {pid}, was told to stop by somebody else")
            complete(home, without=pid)
            load.mark()
        load.stop().check()


def test_everybody_told_to_stop_at_once(home: Home) -> None:
    """systemd sends SIGTERM to all processes of a unit, in any order: that is one stop, and nothing is lost."""
    options = ("--threads", "30", "--spool", str(home.spool))
    for first in ("workers", "supervisor"):
        with supervisor(home, *options) as server, Load(server.port) as load:
            load.mark()
            workers = list(workers_of(home).values())
            told = time.monotonic()
            if first == "supervisor":
                server.terminate()
            for pid in workers:
                os.kill(pid, signal.SIGTERM)
            if first == "workers":
                server.wait_line(r"worker \d stops", count=3)
                server.terminate()
            assert server.wait() == 0
            load.stop().check([(told, time.monotonic())])
            assert not server.log.find_all("another one starts")


def test_one_that_dies_at_the_start(home: Home) -> None:
    """An application that cannot be imported ends the start-up, with the reason in the terminal and nothing left."""
    for daemon in (False, True):
        server = supervisor(home, application="broken_import:application", daemon=daemon)
        failed = server.run()
        assert failed.returncode != 0
        lines = [line for line in failed.stdout.splitlines() if line.startswith("graceful: ")]
        assert len(lines) == 1
        assert "broken_import cannot be imported" in lines[0]
        assert home.left_behind() == []


def test_a_release_that_cannot_start_again(home: Home) -> None:
    """One that cannot be started again is tried with growing pauses while the others serve, and comes back."""
    flag = home.path / "flag"
    with supervisor(home, workers=2, **application(home, DIES.format(flag=str(flag)))) as server:
        home.disturbed = True
        flag.touch()
        os.kill(workers_of(home)[1], signal.SIGKILL)
        server.wait_line(r"worker 1, process \d+, cannot start: own cannot be imported.*another one starts in 0.25 s")
        server.wait_line(r"cannot start.*1 of 2 workers accept, another one starts in 0.5 s")
        assert sum(served(server.port, 20).values()) == 20
        flag.unlink()
        complete(home, 2)


def test_the_supervisor_gives_up_if_no_worker_can_start(home: Home) -> None:
    """When no worker can be started any more, the supervisor gives up, aloud."""
    flag = home.path / "flag"
    with supervisor(home, workers=2, **application(home, DIES.format(flag=str(flag)))) as server:
        home.disturbed = True
        flag.touch()
        for pid in workers_of(home).values():
            os.kill(pid, signal.SIGKILL)
        server.wait_line(r"no worker can be started: .*the flag is set")
        assert server.wait() == 1
        home.disturbed = False  # it has cleaned up itself


def test_the_supervisor_is_killed(home: Home) -> None:
    """Workers without a supervisor finish what they have, and go."""
    with ExitStack() as stack:
        server = stack.enter_context(supervisor(home))
        gate = stack.enter_context(Gate(home.path / "gate"))
        waiting = stack.enter_context(Connection(server.port))
        waiting.send(request(gate.target()))
        gate.wait_reached()
        workers = workers_of(home).values()
        server.kill()
        with pytest.raises(Failure, match="refused"):
            wait_for(lambda: sum(served(server.port, 1).values()) == 0)
        gate.open()
        assert waiting.answer().body == b"passed"
        waiting.close()
        wait_for(lambda: not any(alive(pid) for pid in workers))


@pytest.mark.parametrize("option", [("--max-requests", "300+-80"), ("--max-rss", "120M")], ids=["requests", "rss"])
def test_recycled_workers_lose_no_request(home: Home, option: tuple[str, str]) -> None:
    """Workers that have served enough, or have become too large, are replaced, and nobody notices."""
    with ExitStack() as stack:
        others = application(home, GROWS) if option[0] == "--max-rss" else {}
        server = stack.enter_context(
            supervisor(home, *option, "--threads", "30", "--spool", str(home.spool), **others)
        )
        load = stack.enter_context(Load(server.port))
        why = r"has served \d+ requests" if option[0] == "--max-requests" else r"holds \d+ MiB"
        for count in (1, 2):
            server.wait_line(rf"worker \d, process \d+, {why}: another one takes its place", count=count)
        server.wait_line(ACCEPTS, count=5)
        load.mark()
        load.stop().check()


def test_with_uid_all_workers_run_as_that_user(home: Home) -> None:
    """With --uid, workers run as that user, also those that are started later, in a directory of root's."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    home.disturbed = True  # who may not write there may not remove either
    options = ("--uid", str(UNPRIVILEGED), "--gid", str(UNPRIVILEGED))
    with supervisor(home, twistd_options=options, prefix=KEEPS_READING) as server:
        for number in (1, 2):
            pid = workers_of(home)[number]
            assert os.stat(f"/proc/{pid}").st_uid == UNPRIVILEGED
            os.kill(pid, signal.SIGKILL)
            complete(home, without=pid)
        assert sum(served(server.port).values()) == 30
