"""Measures what status pages cost: throughput with fifty pages open and a scrape each second, and without.

Three instances take turns, round by round, in random order: one that cannot be watched, one that can be watched and
is not, and one with `--clients` clients at `/events`, and a scrape of `/metrics` each second.  The clients share
wrk's cpu, so the figures show the server's cost only.  Ratios are taken round by round.

    python bench/watching.py --rounds 15

Prints a table; exits 1 if any cell was invalid.  The promise is less than 3 %.
"""

from __future__ import annotations

import argparse
import os
import random
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from interpreter import interpreter
from measure import SCENARIOS, Cell, measure
from report import median_interval
from servers import Kind, Server, ServerFailed, _ours, free_port

NONE, IDLE, WATCHED = "not watchable", "watchable", "watched"


def watch(port: int, clients: int) -> None:
    """Watch a server until this process is killed: read its events, and ask for its metrics each second.

    :param port: the port of `--status-listen`.
    :param clients: the number of connections that read events.
    """
    selector = selectors.DefaultSelector()
    for _ in range(clients):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)
    scraper = socket.create_connection(("127.0.0.1", port))
    scraper.setblocking(False)
    selector.register(scraper, selectors.EVENT_READ)
    due = time.monotonic()
    while True:
        if time.monotonic() >= due:
            due += 1
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        for key, _ in selector.select(max(0.0, due - time.monotonic())):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            if not connection.recv(1 << 20):
                sys.exit("a watcher was sent away")


def run(options: argparse.Namespace) -> int:
    """Start the servers, measure in turns, and print the table.  Returns the exit status."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise ServerFailed("two cpus are needed: one for the server, one for wrk")
    server_cpu, wrk_cpu = usable[:2]
    ports = {name: free_port() for name in (IDLE, WATCHED)}
    status = {name: ("--status-listen", f"tcp:{port}:interface=127.0.0.1") for name, port in ports.items()}
    kinds = [
        Kind(NONE, "graceful-app", _ours("--control", "", "--health-path", "")),
        *(Kind(name, "graceful-app", _ours(*status[name])) for name in ports),
    ]
    scenario = SCENARIOS["small"]
    measured: dict[str, list[Cell]] = {kind.name: [] for kind in kinds}
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graceful-bench-")))
        servers = [stack.enter_context(Server(kind, server_cpu, logs)) for kind in kinds]
        for server in servers:
            server.wait_until_ready()
        for number in range(1, options.rounds + 1):
            for server in random.sample(servers, len(servers)):
                name = server.kind.name
                watchers = None
                if name == WATCHED:
                    command = [
                        sys.executable,
                        __file__,
                        "--watch",
                        str(ports[name]),
                        "--clients",
                        str(options.clients),
                    ]
                    watchers = subprocess.Popen(["taskset", "--cpu-list", str(wrk_cpu), *command])
                    time.sleep(0.5)
                try:
                    cell = measure(server, scenario, number, options.seconds, wrk_cpu)
                    if watchers is not None and watchers.poll() is not None:
                        cell.faults.append("the watchers have left")
                finally:
                    if watchers is not None:
                        watchers.kill()
                        watchers.wait()
                measured[name].append(cell)
                trouble = f"  INVALID: {'; '.join(cell.faults)}" if cell.faults else ""
                print(f"round {number}  {name:14} {cell.rate:9,.0f}/s {cell.cpu:6.2f} µs{trouble}", file=sys.stderr)
    print(f"CPython {interpreter()}")
    print(f"{options.rounds} rounds, {options.clients} clients and a scrape each second, {scenario.title}\n")
    print("| instance | requests/s | CPU µs each | against the first, round by round (95 %) |\n|---|---:|---:|---:|")
    for name, cells in measured.items():
        ratios = sorted(cell.rate / first.rate for cell, first in zip(cells, measured[NONE], strict=True))
        low, high = median_interval(ratios)
        rate, cpu = median(cell.rate for cell in cells), median(cell.cpu for cell in cells)
        print(f"| {name} | {rate:,.0f} | {cpu:.2f} | {median(ratios):.3f} ({low:.3f} to {high:.3f}) |")
    return 1 if any(cell.faults for cells in measured.values() for cell in cells) else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what it costs to be watched.")
    parser.add_argument("--rounds", type=int, default=15, metavar="N")
    parser.add_argument("--seconds", type=int, default=2, metavar="N")
    parser.add_argument("--clients", type=int, default=50, metavar="N")
    parser.add_argument("--watch", type=int, default=0, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.watch:
        watch(given.watch, given.clients)
    try:
        sys.exit(run(given))
    except ServerFailed as error:
        sys.exit(f"watching: {error}")
