"""Measures one cell of the tables: one server under one kind of load for a few seconds.

The rate that wrk prints is not enough.  A figure only means something if every answer was good, and if no other
process used the two cpus meanwhile.  The server's own CPU time for a request tells more than a rate, since it does
not depend on the speed of wrk.  So each cell has all of these.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from attrs import evolve, frozen

from servers import Server, all_pids, read_stat

CONNECTIONS = 32
STREAMS = int(os.environ.get("BENCH_STREAMS", "10000"))
"""Clients of event streams; on a machine that is too small for so many, the environment says how many."""
HERE = Path(__file__).parent
WARM_UP = 1
"""Seconds of load on a server before it is measured."""
NOISE = 0.06
"""The share of one cpu that other processes may use during a cell."""
ATTEMPTS = 4
"""How often a cell is measured at most, until other processes leave the cpus alone."""
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
    :param path: the path of its requests.
    :param headers: the header fields of its requests, beside `Host`.
    :param upload: bytes of the body of each request, which then is a POST.
    :param script: makes wrk's requests: the name of a file beside this one.
    :param load: makes the load: `wrk`, or one of `LOADS`.
    :param connections: how many.
    :param interface: of the applications that it loads.
    """

    name: str
    title: str
    path: str
    headers: dict[str, str]
    upload: int = 0
    script: str = ""
    load: str = "wrk"
    connections: int = CONNECTIONS
    interface: str = "wsgi"


LOADS = {"websocket": "asgi_load.py", "events": "asgi_load.py", "open": "open_loop.py"}
"""What else makes load, and the program that does: it prints as wrk does."""

MIX = "mix.lua"
"""The script of the scenario that has bodies of several kinds."""
UNIQUE_SCRIPT = "unique.lua"
"""The script of the scenario whose requests have a value that never comes again."""
HANDSHAKES = "handshake"
"""The name of the scenario that wrk cannot do."""

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("small", "`/`, 13 bytes", "/", {}),
        Scenario("sleep", "`/sleep`, an application that takes 10 ms", "/sleep", {}),
        Scenario("big", "`/big`, 1 MiB", "/big", {}),
        Scenario("headers", "`/` with 9 headers as a browser sends them", "/", BROWSER),
        Scenario(HANDSHAKES, "`/`, a TLS handshake for each request", "/", {}),
        Scenario("unique", "`/` with these and one that never comes again", "/", BROWSER, script=UNIQUE_SCRIPT),
        Scenario("post", "a POST of 10 KiB", "/upload", {}, upload=10 << 10),
        Scenario("mix", "GET, POST and chunked POST in turns", "/", {}, script=MIX),
        Scenario("small-256", "`/`, 256 connections", "/", {}, connections=256),
        Scenario("small-1000", "`/`, 1,000 connections", "/", {}, connections=1000),
        Scenario("open", "`/`, 2,000 requests begin each second, whatever is answered", "/", {}, load="open"),
        Scenario("close", "`/`, a new connection for each request", "/", {"Connection": "close"}),
        Scenario("asgi", "ASGI: `/`, 13 bytes", "/", {}, interface="asgi"),
        Scenario("asgi-json", "ASGI: 1 KiB of JSON through Starlette", "/json", {}, interface="asgi"),
        Scenario("asgi-big", "ASGI: 1 MiB", "/big", {}, interface="asgi"),
        Scenario(
            "asgi-upload",
            "ASGI: an upload of 10 MiB",
            "/upload",
            {},
            upload=10 << 20,
            connections=4,
            interface="asgi",
        ),
        Scenario("asgi-echo", "ASGI: WebSocket echo, 32 clients", "/ws", {}, load="websocket", interface="asgi"),
        Scenario(
            *("asgi-events", "ASGI: 10,000 event streams, one message a second", "/events", {}),
            load="events",
            connections=STREAMS,
            interface="asgi",
        ),
    )
}


class LoadFailed(Exception):
    """A server does not bear a load: connections are refused, or end, or are not answered in time."""


@frozen
class Cell:
    """The figures of one server under one kind of load.

    :param rate: answers a second.
    :param cpu: CPU time of all the server's processes for one request, in microseconds.
    :param p50: the median time until an answer was complete, in milliseconds.
    :param p99: the time that 99 of 100 answers took at most, in milliseconds.
    :param p999: the time that 999 of 1,000 took at most; None from wrk, which asks again when it has its answer, and
        so leaves out the requests that would have come meanwhile.
    :param foreign: CPU time that other processes than the server and wrk used, as a share of one cpu.
    :param attempts: how often the cell was measured until `foreign` was small enough, or `ATTEMPTS`.
    :param faults: the complaints of wrk or the server; if there are any, the figures mean nothing.
    """

    server: str
    scenario: str
    round: int
    rate: float
    cpu: float
    p50: float
    p99: float
    p999: float | None
    foreign: float
    attempts: int
    faults: list[str]

    @property
    def noisy(self) -> bool:
        """Whether other processes used so much of the cpus that the cell has to be measured again."""
        return self.foreign > NOISE


def cpu_time(pid: int) -> float:
    """Returns the CPU time so far of a process and those of its children that have ended, in seconds.

    :raises FileNotFoundError: the process has ended.
    """
    return sum(map(int, read_stat(pid)[11:15])) / TICKS


def exact_time(pid: int) -> float:
    """Returns the CPU time so far of a process's threads, in seconds, of which the kernel counts each nanosecond.

    Of threads that have ended it knows nothing; no server here ends any while it is measured.

    :raises FileNotFoundError: the process has ended.
    """
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as stat:
            total += int(stat.read().split()[0])
    return total / 1e9


def server_time(server: Server) -> float:
    """Returns the CPU time so far of all the processes of a server, in seconds.

    :raises ServerFailed: one of them has ended.
    """
    try:
        return sum(map(exact_time, server.pids))
    except (FileNotFoundError, ProcessLookupError):
        raise server.failure("one of its processes has ended") from None


def foreign_time(own: Collection[int]) -> float:
    """Returns the CPU time so far of all other processes, and of the hypervisor, in seconds.

    The sums of `/proc/stat` would be simpler, but most kernels sample them, which was found to be wrong by 8 % of a
    cpu over one second; each process's own time is exact.

    :param own: the ids of the processes to leave out.
    """
    total = 0.0
    for pid in all_pids():
        if pid not in own:
            try:
                total += cpu_time(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
    with open("/proc/stat") as stat:
        stolen = int(stat.readline().split()[8])
    return total + stolen / TICKS


def run_handshakes(server: Server, seconds: int, cpu: int) -> str:
    """Have `openssl s_time` open a connection after the other, and ask once on each.  Returns what wrk would print.

    wrk goes on with the TLS session of the connection before, which is no whole handshake.

    :raises ServerFailed: it failed.
    """
    command = ["taskset", "--cpu-list", str(cpu), "openssl", "s_time", "-new", "-www", "/", "-time", str(seconds)]
    begin = time.monotonic()
    timed = subprocess.run(
        [*command, "-connect", f"127.0.0.1:{server.port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    found = re.search(r"^(\d+) connections in \d+ real seconds", timed.stdout, re.MULTILINE)
    if timed.returncode or found is None:
        raise server.failure(f"openssl s_time ended with exit status {timed.returncode}: {timed.stdout}")
    count, took = int(found[1]), time.monotonic() - begin
    each = f"{took / max(count, 1) * 1e3:.3f}ms"  # the mean: it tells no more
    return f"  50% {each}\n  99% {each}\n  {count} requests in {took:.2f}s\nRequests/sec: {count / took:.2f}\n"


def _load(server: Server, scenario: Scenario, seconds: int) -> list[str]:
    if scenario.load != "wrk":
        numbers = map(str, (server.port, scenario.connections, seconds))
        return [sys.executable, str(HERE / LOADS[scenario.load]), scenario.load, *numbers]
    headers = [f"--header={name}: {value}" for name, value in scenario.headers.items()]
    script = "upload.lua" if scenario.upload else scenario.script
    body = [f"--script={HERE / script}"] if script else []
    shape = ["--threads=1", f"--connections={scenario.connections}", f"--duration={seconds}s", "--latency"]
    return ["wrk", *shape, *headers, *body, f"{server.url}{scenario.path}"]


def run_load(server: Server, scenario: Scenario, seconds: int, cpu: int) -> str:
    """Load a server for some seconds from one cpu.  Returns the output of wrk, or of what prints as wrk does.

    :raises LoadFailed: the server does not bear it.
    """
    if scenario.name == HANDSHAKES:
        return run_handshakes(server, seconds, cpu)
    load = subprocess.run(
        ["taskset", "--cpu-list", str(cpu), *_load(server, scenario, seconds)],
        capture_output=True,
        text=True,
        env={**os.environ, "BODY": str(scenario.upload)},
    )
    if load.returncode:
        said = (load.stdout + load.stderr).strip().splitlines() or ["nothing"]
        raise LoadFailed(f"{scenario.load} ended with exit status {load.returncode}: {said[-1]}")
    return load.stdout


def _find(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise ValueError(f"not what wrk prints:\n{text}")
    return match


def read_wrk(said: str) -> tuple[int, float, float, float, float | None]:
    """Returns from wrk's output: requests, requests a second, and the latencies p50, p99 and p99.9 in milliseconds.

    :raises ValueError: the text is not wrk's output.
    """
    requests = int(_find(r"^\s*(\d+) requests in ", said)[1])
    rate = float(_find(r"^Requests/sec:\s*([0-9.]+)", said)[1])
    found = re.findall(r"^\s*(50|99|99\.9)%\s+([0-9.]+)(us|ms|s|m) *$", said, re.MULTILINE)
    latency = {part: float(number) * UNITS[unit] for part, number, unit in found}
    if not {"50", "99"} <= set(latency):
        raise ValueError(f"not what wrk prints:\n{said}")
    return requests, rate, latency["50"], latency["99"], latency.get("99.9")


def complaints(said: str) -> list[str]:
    """Returns the lines of wrk's output that report failures."""
    lines = [line.strip() for line in said.splitlines()]
    found = [line for line in lines if line.startswith(("Non-2xx", "Socket errors"))]
    return found if read_wrk(said)[0] else [*found, "no answer at all"]


def measure_once(server: Server, scenario: Scenario, number: int, seconds: int, cpu: int, attempt: int) -> Cell:
    """Measure one cell, whatever other processes do meanwhile.  For the parameters see `measure`."""
    own = {*server.pids, os.getpid()}
    begin, foreign, used = time.monotonic(), foreign_time(own), server_time(server)
    said = run_load(server, scenario, seconds, cpu)
    used = server_time(server) - used
    foreign = (foreign_time(own) - foreign) / (time.monotonic() - begin)
    requests, rate, p50, p99, p999 = read_wrk(said)
    return Cell(
        server=server.kind.name,
        scenario=scenario.name,
        round=number,
        rate=rate,
        cpu=used / max(requests, 1) * 1e6,
        p50=p50,
        p99=p99,
        p999=p999,
        foreign=foreign,
        attempts=attempt,
        faults=complaints(said),
    )


def measure(server: Server, scenario: Scenario, number: int, seconds: int, cpu: int) -> Cell:
    """Measure one cell, and again if other processes used too much of the cpus; the quietest attempt counts.

    :param number: the number of the round.
    :param seconds: the seconds of load, after a warm-up.
    :param cpu: the number of wrk's cpu.
    :raises ServerFailed: the server did not survive the load.
    """
    cells: list[Cell] = []
    # To open ten thousand streams takes longer than to measure them: other processes are never quiet for that long.
    attempts = 1 if scenario.load == "events" else ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            run_load(server, scenario, WARM_UP, cpu)
            cells.append(measure_once(server, scenario, number, seconds, cpu, attempt))
        except LoadFailed as error:
            server_time(server)  # that of a server which has ended cannot be told
            return Cell(server.kind.name, scenario.name, number, 0, 0, 0, 0, None, 0, attempt, [str(error)])
        server.empty_logs()
        if cells[-1].faults or not cells[-1].noisy:
            return cells[-1]
    return evolve(min(cells, key=lambda cell: cell.foreign), attempts=attempts)
