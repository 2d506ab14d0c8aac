"""HAProxy's own connections to a server survive the server's deploys, by HAProxy's own count."""

from __future__ import annotations

import csv
import os
import signal
import threading
from contextlib import ExitStack

from tests.support.clients import Connection
from tests.support.gate import Gate
from tests.support.haproxy import HAProxy
from tests.support.home import Home
from tests.support.server import Server, become_subreaper
from tests.support.waiting import wait_for

DEPLOYS = 8
CLIENTS = 12
KEPT = "http-reuse always\n    default-server pool-purge-delay 60s"


def test_no_deploy_makes_haproxy_connect_again(home: Home) -> None:
    """A dozen connections that HAProxy shares among all clients carry every request through eight deploys."""
    become_subreaper()
    with Server(home) as server:
        with HAProxy(home.path, server.port, server.port, KEPT) as balancer:
            open_all(balancer, home)
            connects, reused = counters(balancer)
            assert connects == CLIENTS
            pid, requests = deployed(balancer, home, server.pid)
            for _ in range(2 * CLIENTS):
                assert int(ask(balancer.port, "/pid")) == pid
                requests += 1
            assert counters(balancer) == (connects, reused + requests)
        os.kill(pid, signal.SIGTERM)
        assert server.wait() == 0
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def open_all(balancer: HAProxy, home: Home) -> None:
    """Have the balancer open a connection for each of some requests that are in the application at once."""
    with ExitStack() as stack:
        gates = [stack.enter_context(Gate(home.path / f"gate-{number}")) for number in range(CLIENTS)]
        asking = [threading.Thread(target=ask, args=(balancer.port, gate.target())) for gate in gates]
        for thread in asking:
            thread.start()
        for gate in gates:
            gate.wait_reached()
        for gate in gates:
            gate.open()
        for thread in asking:
            thread.join()


def deployed(balancer: HAProxy, home: Home, pid: int) -> tuple[int, int]:
    """Deploy in place, again and again, while requests come at any moment of it.

    :param pid: the process that serves.
    :returns: the process that serves now, and how many requests were answered.
    """
    seen, requests = {pid}, 0
    for _ in range(DEPLOYS):
        os.kill(pid, signal.SIGHUP)
        while pid in seen:
            pid = int(ask(balancer.port, "/pid"))
            requests += 1
        seen.add(pid)
        wait_for(lambda now=pid: int((home.run / "twistd.pid").read_text() or "0") == now)
    return pid, requests


def ask(port: int, target: str) -> bytes:
    """Ask on a connection of one's own, as one of many clients of the balancer."""
    with Connection(port) as connection:
        answer = connection.get(target, "Connection: close")
        assert answer.status == 200, answer
        return answer.body


def counters(balancer: HAProxy) -> tuple[int, int]:
    """Returns how many connections to both servers HAProxy has opened, and how many requests found one open."""
    rows = list(csv.DictReader(balancer.ask("show stat").lstrip("# ").splitlines()))
    servers = [row for row in rows if row["pxname"] == "site" and row["svname"] in ("one", "two")]
    return sum(int(row["connect"]) for row in servers), sum(int(row["reuse"]) for row in servers)
