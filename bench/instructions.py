"""Counts the instructions that servers execute for a request, by valgrind's callgrind.

    python bench/instructions.py --servers ours,uwsgi,granian --scenarios small,headers,close

Rates and CPU times differ from hour to hour on a machine that others share; this count hardly does.  It is of user
code alone: what the kernel does for a request is not in it.  One client asks, one request after the other.  In the
count of a thousand requests by TLS (`ours-tls`, `granian-tls`) there is one handshake.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from attrs import evolve

import servers
from measure import SCENARIOS, UNIQUE_SCRIPT, Scenario
from servers import Kind, Server, ServerFailed
from throughput import leave_well
from tls_servers import ALL_KINDS, make_certificate

#: Requests before the count begins: what is remembered has been seen by then.
WARM_UP: Final = 300
REQUESTS: Final = 1000
#: A connection carries so many, unless each request has its own; behind a handshake of millions of instructions, all.
AT_ONCE: Final = 100
#: Values that never come again, as the script for wrk has them.
UNIQUE: Final = (f"{number:016x}" for number in itertools.count())
#: Seconds that a server may take to start, some thirty times slower than without callgrind.
START: Final = 180.0


def watched(kind: Kind) -> Kind:
    """Returns a kind of server that runs in callgrind, which counts nothing yet."""

    def command(port: int, logs: Path) -> list[str]:
        out = f"--callgrind-out-file={logs}/{kind.name}-%p.callgrind"
        options = ["--tool=callgrind", "--instr-atstart=no", "--trace-children=yes", out]
        return ["valgrind", *options, *kind.command(port, logs)]

    return evolve(kind, command=command)


def ask(server: Server, scenario: Scenario, count: int) -> None:
    """Make so many requests.

    :raises ServerFailed: one is not answered with 200.
    """
    alone = "Connection" in scenario.headers
    at_once = 1 if alone else REQUESTS if server.kind.tls else AT_ONCE
    ids = UNIQUE if scenario.script == UNIQUE_SCRIPT else None
    for first in range(0, count, at_once):
        server.get(scenario.path, scenario.headers, min(at_once, count - first), ids)


def switch(how: str) -> None:
    """Have all processes that run in callgrind count, or not."""
    subprocess.run(["callgrind_control", "-i", how], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def total(logs: Path, name: str) -> int:
    """Returns the instructions that all processes of a server have counted."""
    texts = [file.read_text() for file in logs.glob(f"{name}-*.callgrind")]
    return sum(int(found) for text in texts for found in re.findall(r"^totals: (\d+)", text, re.M))


def count(kind: Kind, scenario: Scenario) -> float:
    """Returns the instructions of a server for a request."""
    with tempfile.TemporaryDirectory(prefix="graceful-bench-") as place:
        logs = Path(place)
        if kind.tls:
            make_certificate(logs)
        with Server(watched(kind), 0, logs) as server:
            server.wait_until_ready()
            ask(server, scenario, WARM_UP)
            switch("on")
            ask(server, scenario, REQUESTS)
            switch("off")
        return total(logs, kind.name) / REQUESTS


def main() -> None:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(description="Count the instructions of servers for a request.")
    parser.add_argument("--servers", default="ours,uwsgi,granian", metavar="A,B,...", help="which ones")
    parser.add_argument("--scenarios", default="small,headers,close", metavar="A,B,...", help="which loads")
    options = parser.parse_args()
    servers.START_TIMEOUT = START
    names = options.scenarios.split(",")
    print(f"| server | {' | '.join(SCENARIOS[name].title for name in names)} |")
    print(f"|---|{'---:|' * len(names)}")
    for name in options.servers.split(","):
        kind = ALL_KINDS[name]
        figures = [f"{count(kind, SCENARIOS[one]):,.0f}" if kind.can(one, "wsgi") else "–" for one in names]
        print(f"| {name} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    leave_well()
    try:
        main()
    except ServerFailed as error:
        sys.exit(f"instructions: {error}")
