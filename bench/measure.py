"""One cell of the tables: one server under one kind of load for a few seconds.

What wrk says is half of it.  A figure is only worth something if every answer was good, and if nobody else
used the two cpus meanwhile; and the server's own CPU time for a request tells more than a rate, since it does
not depend on how fast wrk is.  So each cell has all of this.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Collection

from attrs import evolve, frozen

from servers import Server, all_pids, read_stat

CONNECTIONS = 32
WARM_UP = 1
"""How long a server is loaded before it is measured, in seconds."""
NOISE = 0.06
"""How much of one cpu others may use during a cell."""
ATTEMPTS = 4
"""How often a cell is measured at most, until others leave the cpus alone."""
TICKS = os.sysconf("SC_CLK_TCK")
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
"""wrk's units of time, in milliseconds."""

BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Referer": "http://www.example.com/articles/2026/an-article-about-servers",
    "Cookie": "sessionid=0123456789abcdef0123456789abcdef; csrftoken=fedcba9876543210fedcba9876543210",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Mode": "navigate",
    "Cache-Control": "max-age=0",
}


@frozen
class Scenario:
    """A kind of load.

    :param name: what `--scenarios` calls it.
    :param title: what the tables call it.
    :param path: what is asked for.
    :param headers: what is sent beside `Host`.
    """

    name: str
    title: str
    path: str
    headers: dict[str, str]


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("small", "`/`, 13 bytes", "/", {}),
        Scenario("sleep", "`/sleep`, an application that takes 10 ms", "/sleep", {}),
        Scenario("big", "`/big`, 1 MiB", "/big", {}),
        Scenario("headers", "`/` with 9 headers as a browser sends them", "/", BROWSER),
        Scenario("close", "`/`, a new connection for each request", "/", {"Connection": "close"}),
    )
}


@frozen
class Cell:
    """What was measured.

    :param rate: answers a second.
    :param cpu: CPU time of all the server's processes for one request, in microseconds.
    :param p50: the median time until an answer was complete, in milliseconds.
    :param p99: the time that one in a hundred answers took longer than, in milliseconds.
    :param foreign: CPU time that processes with no part in it used, as a share of one cpu.
    :param attempts: how often it was measured until `foreign` was small enough, or hope was given up.
    :param faults: what wrk or the server complained of; if there is any, the figures mean nothing.
    """

    server: str
    scenario: str
    round: int
    rate: float
    cpu: float
    p50: float
    p99: float
    foreign: float
    attempts: int
    faults: list[str]

    @property
    def noisy(self) -> bool:
        """Whether others used so much of the cpus that it is worth another try."""
        return self.foreign > NOISE


def cpu_time(pid: int, with_dead_children: bool = False) -> float:
    """Return the CPU time of a process so far, user and system, in seconds.

    :param with_dead_children: add that of its children that have ended.
    :raises FileNotFoundError: if it has ended itself.
    """
    fields = read_stat(pid)
    return sum(map(int, fields[11 : 15 if with_dead_children else 13])) / TICKS


def server_time(server: Server) -> float:
    """Return the CPU time so far of all the processes of a server, in seconds.

    :raises ServerFailed: if one of them has ended.
    """
    try:
        return sum(map(cpu_time, server.pids))
    except (FileNotFoundError, ProcessLookupError):
        raise server.failure("one of its processes has ended") from None


def foreign_time(own: Collection[int]) -> float:
    """Return the CPU time so far of all processes but some, in seconds, and what a hypervisor took away.

    The sums of `/proc/stat` would be simpler, but most kernels take them by sampling, which over one second
    was found to be wrong by 8 % of a cpu; each process's own time is exact.
    """
    total = 0.0
    for pid in all_pids():
        if pid not in own:
            try:
                total += cpu_time(pid, with_dead_children=True)
            except (FileNotFoundError, ProcessLookupError):
                continue
    with open("/proc/stat") as stat:
        stolen = int(stat.readline().split()[8])
    return total + stolen / TICKS


def run_wrk(server: Server, scenario: Scenario, seconds: int, cpu: int) -> str:
    """Load a server for some seconds from one cpu, and return what wrk printed.

    :raises ServerFailed: if wrk failed.
    """
    headers = [f"--header={name}: {value}" for name, value in scenario.headers.items()]
    load = ["--threads=1", f"--connections={CONNECTIONS}", f"--duration={seconds}s", "--latency"]
    command = ["taskset", "--cpu-list", str(cpu), "wrk", *load, *headers]
    wrk = subprocess.run(
        [*command, f"http://127.0.0.1:{server.port}{scenario.path}"], stdout=subprocess.PIPE, text=True
    )
    if wrk.returncode:
        raise server.failure(f"wrk ended with exit status {wrk.returncode}: {wrk.stdout}")
    return wrk.stdout


def _find(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise ValueError(f"not what wrk prints:\n{text}")
    return match


def read_wrk(said: str) -> tuple[int, float, float, float]:
    """Return from wrk's report: requests, requests a second, and the latencies p50 and p99 in milliseconds.

    :raises ValueError: if it is no such report.
    """
    requests = int(_find(r"^\s*(\d+) requests in ", said)[1])
    rate = float(_find(r"^Requests/sec:\s*([0-9.]+)", said)[1])
    p50, p99 = (
        float(match[1]) * UNITS[match[2]]
        for match in (_find(rf"^\s*{part}%\s+([0-9.]+)(us|ms|s|m)$", said) for part in (50, 99))
    )
    return requests, rate, p50, p99


def complaints(said: str) -> list[str]:
    """Return from wrk's report what says that not all went well."""
    lines = [line.strip() for line in said.splitlines()]
    found = [line for line in lines if line.startswith(("Non-2xx", "Socket errors"))]
    return found if read_wrk(said)[0] else [*found, "no answer at all"]


def measure_once(server: Server, scenario: Scenario, number: int, seconds: int, cpu: int, attempt: int) -> Cell:
    """Measure one cell, whatever others do meanwhile.  For the arguments see `measure`."""
    own = {*server.pids, os.getpid()}
    begin, foreign, used = time.monotonic(), foreign_time(own), server_time(server)
    said = run_wrk(server, scenario, seconds, cpu)
    used = server_time(server) - used
    foreign = (foreign_time(own) - foreign) / (time.monotonic() - begin)
    requests, rate, p50, p99 = read_wrk(said)
    return Cell(
        server=server.kind.name,
        scenario=scenario.name,
        round=number,
        rate=rate,
        cpu=used / max(requests, 1) * 1e6,
        p50=p50,
        p99=p99,
        foreign=foreign,
        attempts=attempt,
        faults=complaints(said),
    )


def measure(server: Server, scenario: Scenario, number: int, seconds: int, cpu: int) -> Cell:
    """Measure one cell, again while others use too much of the cpus; the quietest attempt counts.

    :param number: the number of the round.
    :param seconds: how long, after a warm-up.
    :param cpu: the number of wrk's.
    :raises ServerFailed: if the server did not survive it.
    """
    cells: list[Cell] = []
    for attempt in range(1, ATTEMPTS + 1):
        run_wrk(server, scenario, WARM_UP, cpu)
        cells.append(measure_once(server, scenario, number, seconds, cpu, attempt))
        server.empty_logs()
        if cells[-1].faults or not cells[-1].noisy:
            return cells[-1]
    return evolve(min(cells, key=lambda cell: cell.foreign), attempts=ATTEMPTS)
