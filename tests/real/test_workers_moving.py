"""Connections that move between workers: deploys, recycling and takeovers of supervisors close none."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from graceful.control.client import ControlClient
from tests.support.clients import Connection, request
from tests.support.command import status_of
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.processes import pause
from tests.support.server import Server
from tests.support.waiting import wait_for

#: An idle connection ends soon in a drain, and not at all before it.
TIMES = ("--idle-grace", "0.5", "--keep-alive", "60", "--header-timeout", "60")
DEPLOYED = "deployed: all workers run"
LEFT = r"worker (\d+) has drained and is gone in .* 0 abandoned(?:, (\d+) connections moved)?$"
TOOK_OVER = r"took over from process \d+"


def workers_of(home: Home) -> dict[int, int]:
    """Returns the workers that serve, by their numbers."""
    return {one["number"]: one["pid"] for one in status_of(home)["workers"] if one["state"] == "serving"}


def served_by(home: Home) -> set[int]:
    """Returns the processes that serve."""
    status = status_of(home)
    return {one["pid"] for one in status["workers"]} if "workers" in status else {int(status["pid"])}


def ask(clients: Sequence[Connection]) -> Counter[int]:
    """Ask once on each connection.  Returns which process has answered how many."""
    return Counter(int(client.get("/pid").body) for client in clients)


def evenly(stack: ExitStack, port: int, workers: int, count: int) -> list[Connection]:
    """Returns connections of which each worker has as many: the kernel deals them out by chance."""
    clients: list[Connection] = []
    shares: Counter[int] = Counter()
    while len(clients) < count:
        client = stack.enter_context(Connection(port))
        (worker,) = ask([client])
        if shares[worker] < count // workers:
            shares[worker] += 1
            clients.append(client)
        else:
            client.close()
    return clients


def busy(stack: ExitStack, server: Server, count: int) -> tuple[Gate, list[Connection]]:
    """Returns clients whose requests are in the application, in both workers, and the gate that they wait at."""
    gate = stack.enter_context(Gate(server.home.path / "gate"))
    clients = evenly(stack, server.port, 2, count)
    for client in clients:
        client.send(request(gate.target()))
    gate.wait_reached()
    wait_for(lambda: status_of(server.home)["in_flight_count"] == count)
    return gate, clients


def replace(stack: ExitStack, server: Server, way: str) -> None:
    """Replace both workers, and wait until the new ones serve, and the former ones know of it."""
    if way == "SIGHUP":
        server.send_signal(signal.SIGHUP)
        server.wait_line(DEPLOYED, timeout=30)
    else:
        again = [f"tcp:{server.port}:interface=127.0.0.1"]
        stack.enter_context(instance(server.home, 2, again, "--takeover")).wait_line(TOOK_OVER)
    server.wait_line(r"worker \d stops", count=2)


def deploy(server: Server, count: int = 1) -> None:
    """Replace both workers, and wait until the former ones are gone."""
    server.send_signal(signal.SIGHUP)
    server.wait_line(DEPLOYED, count=count, timeout=30)
    server.wait_line(LEFT, count=2 * count)


def test_connections_move_at_a_deploy_of_workers(any_home: Home, stack: ExitStack) -> None:
    """On IPv4, IPv6 and a Unix socket, fresh and used: each goes on, and new code answers; spread as before."""
    home = any_home
    listen = ["tcp:0:interface=127.0.0.1", r"tcp6:0:interface=\:\:1", f"unix:{home.run}/socket"]
    server = stack.enter_context(instance(home, 2, listen))
    wait_for(lambda: len(server.ports) == 2)
    clients = [stack.enter_context(Connection(server.ports[0])) for _ in range(60)]
    clients += [stack.enter_context(Connection(server.ports[1], host="::1")) for _ in range(10)]
    clients += [stack.enter_context(Connection(f"{home.run}/socket")) for _ in range(10)]
    before = ask(clients[5:])
    for count in (1, 2):
        former = workers_of(home)
        deploy(server, count)
        after = ask(clients[5:])
        present = workers_of(home)
        assert not set(after) & set(former.values())
        assert {number: after[pid] for number, pid in present.items()} == {
            number: before[pid] for number, pid in former.items()
        }
        before = after
    ask(clients)
    moved = [int(match[2]) for _, match in server.log.find_all(LEFT)]
    assert sum(moved) == 2 * len(clients)


@pytest.mark.parametrize(("former", "new"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_connections_move_at_takeovers_of_supervisors(home: Home, stack: ExitStack, former: int, new: int) -> None:
    """From any number of workers to any other, each process of the new instance gets its share."""
    listen = ["tcp:0:interface=127.0.0.1", f"unix:{home.run}/socket"]
    old = stack.enter_context(instance(home, former, listen))
    clients = [stack.enter_context(Connection(old.port)) for _ in range(6)]
    clients += evenly(stack, old.port, former, 54)
    clients += [stack.enter_context(Connection(listen[1][5:])) for _ in range(12)]
    assert len(ask(clients[6:])) == former
    wait_for(lambda: sum(status_of(home)["connections"].values()) == len(clients))
    again = [f"tcp:{old.port}:interface=127.0.0.1", listen[1]]
    successor = stack.enter_context(instance(home, new, again, "--takeover"))
    successor.wait_line(TOOK_OVER)
    assert old.wait() == 0
    assert int(old.wait_line(r"^.*\bdrained in .* 0 abandoned, (\d+) connections moved$")[1]) == len(clients)
    after = ask(clients)
    assert set(after) == served_by(home)
    # With three sources for two workers, or the reverse, two of the three links have the same end.
    assert min(after.values()) >= len(clients) // 6


@pytest.mark.parametrize("way", ["SIGHUP", "takeover"])
def test_a_busy_connection_of_a_worker_moves_when_it_is_answered(home: Home, stack: ExitStack, way: str) -> None:
    """Its answer keeps it open, and the next request is answered by new code."""
    server = stack.enter_context(instance(home, 2))
    gate, clients = busy(stack, server, 4)
    former = served_by(home)
    replace(stack, server, way)
    gate.open()
    for client in clients:
        answer = client.answer()
        assert (answer.status, answer.says_close) == (200, False)
    assert not set(ask(clients)) & former


def test_recycled_workers_keep_their_connections(home: Home, stack: ExitStack) -> None:
    """Clients that never pause keep one connection each through eight recycled workers."""
    server = stack.enter_context(instance(home, 2, None, "--max-requests", "300"))
    clients = [stack.enter_context(Connection(server.port)) for _ in range(8)]
    seen: set[int] = set()
    until = time.monotonic() + 60
    while len(seen) < 10 and time.monotonic() < until:
        seen |= set(ask(clients))
    assert len(seen) >= 10
    assert server.log.find_all(LEFT)


def test_a_taker_that_is_killed_costs_no_other_connection(home: Home, stack: ExitStack) -> None:
    """What has not moved yet goes to another worker of the new release."""
    server = stack.enter_context(instance(home, 2))
    gate, clients = busy(stack, server, 6)
    former = served_by(home)
    server.send_signal(signal.SIGHUP)
    server.wait_line(DEPLOYED, timeout=30)
    for pid in workers_of(home).values():
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: len(workers_of(home)) == 2 and pid not in workers_of(home).values())  # type: ignore[misc]
    gate.open()
    for client in clients:
        assert not client.answer().says_close
    assert not set(ask(clients)) & former
    home.disturbed = True


@pytest.mark.parametrize("way", ["SIGHUP", "takeover"])
def test_a_taker_that_is_stopped_delays_requests_for_a_bounded_time(home: Home, stack: ExitStack, way: str) -> None:
    """A worker that takes nothing for seconds gets nothing: the former one answers what comes meanwhile."""
    server = stack.enter_context(instance(home, 2))
    gate, clients = busy(stack, server, 6)
    former = served_by(home)
    replace(stack, server, way)
    takers = list(workers_of(home).values())
    for pid in takers:
        pause(pid)
    try:
        gate.open()
        for client in clients:
            client.answer()
        began = time.monotonic()
        for client in clients:
            client.send(request("/pid"))
        seen = {int(client.answer().body) for client in clients}
        assert time.monotonic() - began < 5
        assert seen <= former
    finally:
        for pid in takers:
            os.kill(pid, signal.SIGCONT)
    server.wait_line(r"a process that takes connections does not ask any more", count=2)


def test_a_stop_moves_nothing(home: Home, stack: ExitStack) -> None:
    """Neither one of the whole instance, nor one of a worker by another process."""
    server = stack.enter_context(instance(home, 2))
    clients = [stack.enter_context(Connection(server.port)) for _ in range(10)]
    ask(clients)
    os.kill(workers_of(home)[1], signal.SIGTERM)
    server.wait_line(LEFT)
    server.terminate()
    assert server.wait() == 0
    assert all(match[2] is None for _, match in server.log.find_all(LEFT))
    assert not server.log.find_all("connections moved")


def test_descriptors_are_the_same_after_many_rounds(home: Home, stack: ExitStack) -> None:
    """Of the supervisor, and of a worker that has taken in the same connections."""
    server = stack.enter_context(instance(home, 2))
    clients = [stack.enter_context(Connection(server.port)) for _ in range(20)]
    counts = []
    for count in range(1, 6):
        deploy(server, count)
        ask(clients)
        wait_for(lambda: len(served_by(home)) == 2)  # the former ones have ended
        # Each worker lets go of the one that it has taken connections from.
        wait_for(lambda: not [file for pid in served_by(home) for file in open_files(pid) if "pidfd" in file])
        with ControlClient(str(home.run / "graceful.sock")) as control:
            for _ in range(2):  # before the second answer it has read that former clients have hung up
                workers = control.get("/status")["workers"]
            counts.append((len(open_files(server.pid)), sorted(len(open_files(one["pid"])) for one in workers)))
    assert counts[1:] == counts[:-1]


def instance(home: Home, workers: int, listen: Sequence[str] | None = None, *options: str) -> Server:
    """Returns a server with workers, or a single process."""
    more = ("--workers", str(workers)) if workers > 1 else ()
    return Server(home, *TIMES, *more, *options, listen=listen)


def open_files(pid: int) -> list[str]:
    """Returns what the descriptors of a process are open for."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(descriptor))
    return found
