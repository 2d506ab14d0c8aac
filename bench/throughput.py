"""Compares the requests a second of several servers, in one run on one machine.

Figures of different days or machines cannot be compared.  So all servers run at the same time, and are measured in
turns, in random order, for some rounds: WSGI servers with one application, ASGI servers with another.  The server has
the first cpu that this process may use, the load the second one: wrk with 32 kept-alive connections, or
`asgi_load.py` for WebSockets and event streams.  Before the first round, every server has to give the same answers.

    python bench/throughput.py --rounds 5
    python bench/throughput.py --servers ours,ours-nolog --scenarios small --rounds 15 --control
    python bench/throughput.py --tls

The second command shows differences of 2 %.  The third one compares servers that speak TLS themselves.  Prints tables
in Markdown; exits 1 if any cell was invalid.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

from attrs import asdict

from app import BIG, SMALL
from asgi_app import RECORD
from interpreter import interpreter
from measure import HANDSHAKES, MIX, SCENARIOS, Cell, Scenario, measure
from report import report
from servers import COMPILED, Kind, Server, ServerFailed, versions
from tls_servers import ALL_KINDS, TLS_KINDS, make_certificate

PEERS = ("stock", "gunicorn", "waitress", "cheroot", "uwsgi", "granian", "fastpysgi")
ASGI_PEERS = ("uvicorn", "gunicorn-asgi", "hypercorn", "daphne", "granian-asgi")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""

    def some_of(names: Sequence[str], text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in names:
                raise argparse.ArgumentTypeError(f"no {name!r}; there are {', '.join(names)}")
        return chosen

    def at_least(least: int, text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"at least {least}")
        return int(text)

    parser = argparse.ArgumentParser(
        description="Compare the throughput of WSGI and ASGI servers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--servers",
        type=lambda text: some_of(list(ALL_KINDS), text),
        metavar="A,B,...",
        help=f"which ones: {', '.join(ALL_KINDS)}; with --tls only those",
    )
    parser.add_argument(
        "--scenarios",
        type=lambda text: some_of(list(SCENARIOS), text),
        metavar="A,B,...",
        help=f"which loads: {', '.join(SCENARIOS)}",
    )
    parser.add_argument("--rounds", type=lambda text: at_least(1, text), default=3, metavar="N", help="how many")
    parser.add_argument(
        "--seconds",
        type=lambda text: at_least(1, text),
        default=2,
        metavar="N",
        help="how long each cell takes",
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="measure a second instance of ours, to see how far equal servers differ",
    )
    parser.add_argument("--tls", action="store_true", help="compare servers that speak TLS, and their handshakes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every cell to this file")
    options = parser.parse_args(arguments)
    own, own_asgi = ["ours"], ["ours-asgi"]
    if COMPILED.exists():
        own.append("ours-compiled")
        own_asgi.append("ours-asgi-compiled")
    options.servers = options.servers or (list(TLS_KINDS) if options.tls else [*PEERS, *own, *ASGI_PEERS, *own_asgi])
    plain = [name for name in SCENARIOS if name != HANDSHAKES]
    options.scenarios = options.scenarios or (["small", "big", HANDSHAKES] if options.tls else plain)
    if options.control and "ours2" not in options.servers:
        options.servers.append("ours2")
    return options


def check_answers(server: Server, scenario: Scenario) -> None:
    """Check that a server gives the same answer as all others.

    :raises ServerFailed: it gives another one.
    """
    if scenario.load != "wrk":
        return  # it checks every answer itself
    if scenario.upload or scenario.script == MIX:
        for chunked in (False, True) if scenario.script == MIX else (False,):
            sent = scenario.upload or 20
            got = server.post("/upload", bytes(sent), chunked)
            if got != str(sent).encode():
                raise server.failure(f"of {sent} bytes{' in chunks' * chunked} the application got {got[:40]!r}")
        return
    expected = BIG if scenario.path == "/big" else SMALL
    closing = "Connection" in scenario.headers
    times = 1 if closing else 2
    bodies, left_open = server.get(scenario.path, scenario.headers, times)
    if scenario.path == "/json":
        bodies = [expected if json.loads(body) == RECORD else body for body in bodies]
    if bodies != [expected] * times:
        raise server.failure(f"GET {scenario.path} was answered with {[body[:40] for body in bodies]}")
    if left_open == closing:
        raise server.failure("it keeps a connection that it was asked to close, or the other way round")


def machine(kinds: dict[str, Kind]) -> dict[str, object]:
    """Returns what the figures depend on: machine, kernel, versions, date."""
    with open("/proc/cpuinfo") as info:
        models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    wrk = subprocess.run(["wrk", "--version"], stdout=subprocess.PIPE, text=True).stdout
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release().partition("-")[0],
        "python": interpreter(),
        "wrk": wrk.split()[1],
        "versions": versions(kinds),
    }


def machine_line(facts: dict[str, object]) -> str:
    """Returns the facts of `machine` as one line for people."""
    found = facts["versions"]
    assert isinstance(found, dict)
    servers = ", ".join(f"{name} {number}" for name, number in sorted(found.items()))
    return (
        f"{facts['date']}; {facts['cpu']}, {facts['cores']} cores; Linux {facts['kernel']}; "
        f"CPython {facts['python']}; {servers}; wrk {facts['wrk']}"
    )


@contextmanager
def another(server: Server) -> Iterator[Server]:
    """A server of the same kind, for one cell."""
    with Server(server.kind, server.cpu, server.logs) as other:
        other.wait_until_ready()
        yield other


def cells(
    servers: Sequence[Server], scenarios: Sequence[str], options: argparse.Namespace, wrk_cpu: int
) -> Iterator[Cell]:
    """Measure all cells, round by round, and in a round all servers of a scenario one after the other."""
    for number in range(1, options.rounds + 1):
        for name in random.sample(scenarios, len(scenarios)):
            for server in random.sample(servers, len(servers)):
                scenario = SCENARIOS[name]
                if server.kind.can(name, scenario.interface):
                    # Some go on for minutes with the streams of clients that have left, beside what is measured next.
                    with another(server) if scenario.load == "events" else nullcontext(server) as loaded:
                        yield measure(loaded, scenario, number, options.seconds, wrk_cpu)


def run(options: argparse.Namespace) -> int:
    """Start the servers, measure, and print the tables.  Returns the exit status."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise ServerFailed("two cpus are needed: one for the server, one for wrk")
    for program in ("wrk", "taskset"):
        if shutil.which(program) is None:
            raise ServerFailed(f"{program} is not installed")
    server_cpu, wrk_cpu = usable[:2]
    kinds = {name: ALL_KINDS[name] for name in options.servers}
    facts = machine(kinds)
    measured: list[Cell] = []
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graceful-bench-")))
        if any(kind.tls for kind in kinds.values()):
            make_certificate(logs)
        servers = [stack.enter_context(Server(kind, server_cpu, logs)) for kind in kinds.values()]
        for server in servers:
            server.wait_until_ready()
        for server in servers:
            for name in options.scenarios:
                if server.kind.can(name, SCENARIOS[name].interface):
                    check_answers(server, SCENARIOS[name])
        for cell in cells(servers, options.scenarios, options, wrk_cpu):
            measured.append(cell)
            trouble = f"  INVALID: {'; '.join(cell.faults)}" if cell.faults else ""
            figures = f"{cell.rate:9,.0f}/s {cell.cpu:7.1f} µs, others {cell.foreign:4.1%}, attempt {cell.attempts}"
            print(f"round {cell.round}  {cell.scenario:8} {cell.server:16} {figures}{trouble}", file=sys.stderr)
    print(machine_line(facts))
    print()
    print(report(measured, options.servers, options.scenarios))
    if options.json is not None:
        options.json.write_text(
            json.dumps({"machine": facts, "cells": [asdict(cell) for cell in measured]}, indent=1)
        )
    return 1 if any(cell.faults for cell in measured) else 0


def _leave(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


def leave_well() -> None:
    """Have a signal end the servers before it ends this process."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _leave)


if __name__ == "__main__":
    leave_well()
    try:
        sys.exit(run(parse_arguments()))
    except ServerFailed as error:
        sys.exit(f"throughput: {error}")
