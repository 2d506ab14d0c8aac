"""What is told of several workers at one door: everything of all of them, whatever becomes of one."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.chromium import Chromium
from tests.support.clients import Connection, ask, request
from tests.support.command import graceful, status_of
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.processes import pause
from tests.support.server import Server
from tests.support.waiting import wait_for

STATUS = ("--status-listen", "tcp:0:interface=127.0.0.1")
FAST = ("--idle-grace", "0.2")


def status_port(server: Server) -> int:
    """Where its status page is."""
    return int(server.wait_line(r"status page at http://127\.0\.0\.1:(\d+)/")[1])


def told(port: int, target: str) -> Any:
    """What is told at the status page's door."""
    answer = ask(port, request(target, host="127.0.0.1"))
    assert answer.status == 200, answer
    return json.loads(answer.body)


def counted(port: int) -> dict[str, float]:
    """The counters that Prometheus reads."""
    text = ask(port, request("/metrics", host="127.0.0.1")).body.decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        if family.type in ("counter", "histogram"):
            for sample in family.samples:
                found[sample.name + str(sorted(sample.labels.items()))] = sample.value
    return found


def test_counters_outlive_a_deploy(home: Home) -> None:
    """What a worker has counted since it was last asked is in its last word: after a deploy, nothing is missing."""
    with Server(home, *FAST, *STATUS, "--workers", "2") as server:
        port = status_port(server)
        for count in (1, 2):
            for _ in range(20):
                with Connection(server.port) as connection:
                    assert connection.get("/").status == 200
            server.send_signal(signal.SIGHUP)
            server.wait_line("deployed: all workers run", count=count)
            wait_for(lambda: len(told(port, "/status")["workers"]) == 2)
            assert told(port, "/status")["finished"] == 20 * count


def test_counters_outlive_workers(home: Home) -> None:
    """Requests of all workers are counted together, and not forgotten when one of them is killed and replaced."""
    with Server(home, *FAST, *STATUS, "--workers", "2") as server:
        port = status_port(server)
        for _ in range(20):
            with Connection(server.port) as connection:
                assert connection.get("/").status == 200
        requests = "graceful_requests_total[('status', '2xx')]"
        wait_for(lambda: counted(port)[requests] == 20)
        before = counted(port)
        first = status_of(home)["workers"][0]["pid"]
        wait_for(lambda: told(port, "/status")["finished"] == 20)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: first not in [worker["pid"] for worker in status_of(home)["workers"]])
        after = counted(port)
        assert {name: (value, after[name]) for name, value in before.items() if after[name] < value} == {}
        assert after[requests] == 20


def test_a_silent_worker(home: Home) -> None:
    """One that is stopped holds nobody up: it is shown as silent, with what it had in flight, until it goes on."""
    with ExitStack() as stack:
        server = stack.enter_context(Server(home, *FAST, *STATUS, "--workers", "2"))
        port = status_port(server)
        gate = stack.enter_context(Gate(home.path / "gate"))
        clients = [stack.enter_context(Connection(server.port)) for _ in range(2)]
        for client in clients:
            client.send(request(gate.target()))
        wait_for(lambda: status_of(home)["in_flight_count"] == 2)
        gate.wait_reached()
        wait_for(lambda: all("fifo.read()" in shown["stack"] for shown in told(port, "/exchanges")))
        (one, other) = status_of(home)["in_flight"]
        assert one["id"].startswith(f"{one['worker']}-")
        assert "fifo.read()" in told(port, f"/exchanges/{one['id']}")["stack"]

        pause(one["worker"])
        try:
            status = status_of(home)
            states = {worker["pid"]: worker["state"] for worker in status["workers"]}
            assert states[one["worker"]] == "silent"
            assert list(states.values()).count("serving") == 1
            assert (status["in_flight_count"], len(told(port, "/exchanges"))) == (2, 2)
            assert counted(port)["graceful_requests_total[('status', '2xx')]"] == 0
            refused = graceful(home, "takedown", one["id"])
            assert (refused.returncode, "has not answered for 4 s" in refused.stderr) == (1, True)
            assert f"process {one['worker']}: silent, " in graceful(home, "status").stdout
        finally:
            os.kill(one["worker"], signal.SIGCONT)
        wait_for(lambda: [worker["state"] for worker in status_of(home)["workers"]] == ["serving"] * 2)

        gone = graceful(home, "takedown", f"{one['worker']}-999")
        assert gone.returncode == 1
        assert f"no exchange {one['worker']}-999 is in flight" in gone.stderr
        if one["id"] in [shown["id"] for shown in status_of(home)["in_flight"]]:  # else it has obeyed, too late
            assert graceful(home, "takedown", one["id"]).stdout == f"taken down: exchange {one['id']}\n"
        wait_for(lambda: [shown["id"] for shown in status_of(home)["in_flight"]] == [other["id"]])
        assert status_of(home)["taken_down"] == 1
        gate.open()
        assert sorted(client.answer().status for client in clients) == [200, 503]


def test_a_stop_with_a_stopped_worker(home: Home) -> None:
    """A worker that is stopped when the stop begins is killed at the last limit, aloud; the stop has its end."""
    with ExitStack() as stack:
        limits = ("--deadline", "1", "--download-deadline", "1")
        server = stack.enter_context(Server(home, *FAST, *limits, "--workers", "2"))
        wait_for(lambda: all(worker["state"] == "serving" for worker in status_of(home)["workers"]))
        stopped = status_of(home)["workers"][0]["pid"]
        pause(stopped)
        server.terminate()
        assert server.wait(40.0) == 71
        assert f"process {stopped}, is still there at the last limit, and is killed" in str(server.log)


def test_workers_in_the_browser(home: Home) -> None:
    """The page shows each worker, whose an exchange is, and its stack; and through a drain to the end of all."""
    with ExitStack() as stack:
        server = stack.enter_context(Server(home, *FAST, *STATUS, "--workers", "2", "--deadline", "100"))
        gate = stack.enter_context(Gate(home.path / "gate"))
        client = stack.enter_context(Connection(server.port))
        browser = stack.enter_context(Chromium())
        page = browser.page(f"http://127.0.0.1:{status_port(server)}/")
        page.wait("document.querySelectorAll('#worker-list li .serving').length === 2")
        workers = {worker["pid"]: worker["number"] for worker in status_of(home)["workers"]}
        for pid, number in workers.items():
            assert f"worker {number}, process {pid}" in page.text("worker-list")
        assert "MiB" in page.text("worker-list")

        client.send(request(gate.target()))
        gate.wait_reached()
        page.wait("document.querySelectorAll('#exchanges tbody tr').length === 1")
        (exchange,) = status_of(home)["in_flight"]
        assert f"{exchange['id']} worker {workers[exchange['worker']]}" in page.text("exchanges")
        page.evaluate("document.querySelector('#exchanges button').click()")
        page.wait("document.querySelector('pre')?.textContent.includes('fifo.read()')")
        page.look(width=390, height=800, dark=True)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.look()

        server.terminate()
        page.wait("document.getElementById('state').textContent === 'finishing'")
        page.wait("document.getElementById('countdown').textContent.startsWith('1:')")
        assert page.text("sockets").lower().endswith("closed")
        gate.open()
        assert client.answer().status == 200
        client.end()
        page.wait("document.getElementById('state').textContent === 'gone'")
        assert server.wait() == 0
        assert "exit status 0: 1 finished, 0 taken down, 0 threads abandoned" in page.text("notice")
        assert page.complaints() == []
