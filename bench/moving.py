"""Measures takeovers of a server with many connections: how long they take to move, and what `/` takes beside.

    python bench/moving.py --idle 10000 --rounds 5
    python bench/moving.py --idle 1000 --downloads 50 --rounds 100

Idle clients keep one connection each, and ask after the first takeover and the last one.  Downloads are of a file, by
slow clients that check each byte.  A prober asks for `/` all the time, on fresh connections.  Prints, over all
rounds: from the moment when the new process serves, how long until the old process has ended; how many connections
were opened again; and how long `/` took during the moves and at other times.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent.parent))

from crowd import Crowd
from interpreter import interpreter
from tests.support.clients import Connection, Failure, request
from tests.support.prober import Prober
from ways import PROGRAMS, Site, Stuck, free_port

PATTERN: Final = bytes(range(256)) * 256
#: Bytes of the file that is downloaded: more than a client reads in all rounds together.
FILE_SIZE: Final = 1 << 30
#: Bytes that a download reads at once, and the seconds in between.
PIECE: Final = 16_384
PAUSE: Final = 0.05
#: Seconds of quiet before each takeover.
QUIET: Final = 1.0


class Download:
    """A slow client, with a download that goes on through all takeovers.

    :param port: where it connects to.
    :param over: says when it is to stop reading.
    :ivar lost: what went wrong, if the download did not go on.
    """

    def __init__(self, port: int, over: threading.Event) -> None:
        self._port = port
        self._over = over
        self.lost: Counter[str] = Counter()

    def run(self) -> None:
        """Read until it is over."""
        try:
            with Connection(self._port, receive_buffer=65_536) as connection:
                connection.send(request("/file/large"))
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += connection.some(1)
                at = 0
                while not self._over.wait(PAUSE) and at < FILE_SIZE:
                    piece = connection.some(PIECE)
                    start = at % len(PATTERN)
                    if piece != (PATTERN[start:] + PATTERN)[:PIECE]:
                        raise Failure("bad", f"other bytes at {at}")
                    at += PIECE
        except Failure as failure:
            self.lost[str(failure)] += 1


def start(site: Site, idle: int, *options: str) -> int:
    """Start a server, which takes over if there is one.  Returns its process."""
    listen = ["--listen", f"tcp:{site.port}:interface=127.0.0.1:backlog=1024", "--max-connections", str(idle + 1000)]
    twistd = [str(PROGRAMS / "twistd"), "-n", "--pidfile=site.pid", "graceful-app", *listen]
    # An idle connection has to be open still when the last takeover is over.
    limits = ["--queue", str(idle + 1000), "--keep-alive", "3600"]
    return site.start(*twistd, *limits, *options, "longapp:application").pid


def ask_all(clients: Sequence[Connection]) -> list[str]:
    """Ask once on each connection, of all at once; returns what went wrong."""
    wrong = []
    for client in clients:
        client.send(request("/"))
    for client in clients:
        try:
            if (answer := client.answer()).status != 200 or answer.says_close:
                wrong.append(f"{answer.status}, close: {answer.says_close}")
        except Failure as failure:
            wrong.append(str(failure))
    return wrong


def run(idle: int, downloads: int, rounds: int) -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory(prefix="graceful-bench-") as directory:
        place = Path(directory)
        with (place / "large").open("wb") as file:
            for _ in range(FILE_SIZE // len(PATTERN) if downloads else 0):
                file.write(PATTERN)
        site = Site(free_port(), place, {"BENCH_FILES": directory, "PYTHONPATH": str(Path(__file__).parent)})
        lives: list[float] = []
        spans: list[tuple[float, float]] = []
        wrong: list[str] = []
        clients: list[Connection] = []
        try:
            pid = start(site, idle)
            site.wait(site.answers, "an answer")
            clients += [Connection(site.port) for _ in range(idle)]
            wrong += ask_all(clients)
            slow, prober = Crowd(Download, site.port, downloads), Prober(site.port)
            try:
                for number in range(rounds):
                    time.sleep(QUIET)
                    new = start(site, idle, "--takeover")
                    taken_over(site, new)
                    began = time.monotonic()
                    ended(site, pid)
                    lives.append(time.monotonic() - began)
                    spans.append((began - 0.1, time.monotonic()))
                    pid = new
                    if number in (0, rounds - 1):
                        wrong += ask_all(clients)
            finally:
                prober.end()
                slow.end()
        finally:
            for client in clients:
                client.close()
            site.end()
    lives.sort()
    print(f"{idle:,} idle connections, {downloads} downloads, {rounds} takeovers")
    p99 = lives[len(lives) * 99 // 100]
    print(f"old process after the hand-over: median {median(lives):.2f} s, p99 {p99:.2f}, slowest {lives[-1]:.2f}")
    print(f"opened again or wrong: {len(wrong)} idle, {slow.lost.total()} downloads; lost probes: {len(prober.lost)}")
    for what in [*wrong[:3], *list(slow.lost.elements())[:3], *(how for _, how in prober.lost[:3])]:
        print(f"  {what}")
    during, others = prober.split(spans)
    for name, times in (("during the moves", during), ("else", others)):
        middle, most = 1e3 * median(times), 1e3 * times[-1]
        print(
            f"`/` {name}: median {middle:.1f} ms, p99 {1e3 * times[len(times) * 99 // 100]:.1f}, slowest {most:.1f}"
        )


def taken_over(site: Site, pid: int) -> None:
    """Wait until a process serves in the place of the one before."""
    site.wait(lambda: f"process {pid} has taken over" in site.log(), "a takeover")


def ended(site: Site, pid: int) -> None:
    """Wait until a process that was started here has ended."""
    process = next(process for process in site.started if process.pid == pid)
    site.wait(lambda: process.poll() is not None, f"the end of {pid}")


def median(ordered: Sequence[float]) -> float:
    """Returns the median of sorted numbers."""
    return ordered[len(ordered) // 2]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--downloads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(f"CPython {interpreter()}\n")
    try:
        run(given.idle, given.downloads, given.rounds)
    except Stuck as stuck:
        sys.exit(str(stuck))


if __name__ == "__main__":
    main()
