"""What clients notice of redeploys: mixed load, the server replaced again and again, everything counted by class.

The clients are those of the tests (`tests.support.load`): fresh connections, kept-alive ones with a moment between
looking and sending, requests of a second, slow uploads, slow downloads; and a prober that asks for `/` all the time,
on fresh connections, and knows how long each answer took.  Each way to redeploy is what the server's own manual says.

    python bench/redeploy.py --redeploys 10
    python bench/redeploy.py --ways takeover --redeploys 100 --requests 1000000

Prints a table in Markdown.  "Lost" is what was neither answered nor refused: reset, cut short, answered wrongly.  Of
nothing lost in N requests, a share of 3/N can still be lost with 95 % confidence.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

HERE: Final = Path(__file__).parent
PROGRAMS: Final = Path(sys.executable).parent
APPS: Final = HERE.parent / "tests" / "apps"
sys.path.insert(0, str(HERE.parent))

from tests.support.clients import Connection, Failure, request  # noqa: E402
from tests.support.load import Load, Report  # noqa: E402

THREADS: Final = "30"
SETTLES_IN: Final = 30.0
PAUSE: Final = 1.0


class Stuck(Exception):
    """A server does not do what it should."""


@define(eq=False)
class Site:
    """What serves at a port, whoever that is just now.

    :ivar directory: where it runs.
    :ivar started: what we have started; all of it is ended at the end.
    """

    port: int
    directory: Path
    started: list[subprocess.Popen[bytes]] = field(factory=list)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command line in the directory."""
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(APPS)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process

    def log(self) -> str:
        """What everybody has logged so far."""
        return (self.directory / "log").read_text(errors="replace")

    def pid(self) -> int:
        """Who is the server, by the pid file; 0 for nobody."""
        with suppress(OSError, ValueError):
            return int((self.directory / "site.pid").read_text())
        return 0

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something."""
        end = time.monotonic() + SETTLES_IN
        while not condition():
            if time.monotonic() > end:
                raise Stuck(f"not in {SETTLES_IN:g} s: {what}\n{self.log()[-3000:]}")
            time.sleep(0.005)

    def answers(self) -> bool:
        """Whether somebody answers."""
        with suppress(Failure), Connection(self.port) as connection:
            return connection.get("/").status == 200
        return False

    def end(self) -> None:
        """End everything."""
        pids = {self.pid(), *(process.pid for process in self.started if process.poll() is None)} - {0}
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@frozen
class Way:
    """One way to redeploy.

    :ivar first: starts the server.
    :ivar again: replaces it, and returns when the new one serves and the old one does no more.
    """

    name: str
    first: Callable[[Site], object]
    again: Callable[[Site], None]


def _ours(site: Site, *options: str) -> subprocess.Popen[bytes]:
    listen = f"tcp:{site.port}:interface=127.0.0.1"
    twistd = [str(PROGRAMS / "twistd"), "-n", "--pidfile=site.pid", "graceful-app", "--listen", listen]
    return site.start(*twistd, "--threads", THREADS, *options, "basic:application")


def _changes_hands(site: Site, redeploy: Callable[[], object]) -> None:
    before = site.pid()
    redeploy()
    site.wait(lambda: f"took over from process {before}\n" in site.log(), "a takeover")
    site.wait(lambda: site.pid() not in (0, before), "another pid file")


def _takeover(site: Site) -> None:
    _changes_hands(site, lambda: _ours(site, "--takeover"))


def _hang_up(site: Site) -> None:
    _changes_hands(site, lambda: os.kill(site.pid(), signal.SIGHUP))


def _workers(site: Site, *options: str) -> subprocess.Popen[bytes]:
    return _ours(site, "--workers", "2", *options)


def _workers_hang_up(site: Site) -> None:
    _booted(site, lambda: os.kill(site.pid(), signal.SIGHUP), "deployed: all workers run")


def _workers_takeover(site: Site) -> None:
    _changes_hands(site, lambda: _workers(site, "--takeover"))


def _restart(site: Site) -> None:
    pid = site.pid()
    os.kill(pid, signal.SIGTERM)
    site.wait(lambda: f"closed (pid {pid})" in site.log(), "closed sockets")
    _ours(site)
    site.wait(lambda: site.pid() not in (0, pid) and site.answers(), "an answer")


def _gunicorn(site: Site) -> None:
    bind, threads = f"--bind=127.0.0.1:{site.port}", f"--threads={THREADS}"
    site.start(
        str(PROGRAMS / "gunicorn"), "--worker-class=gthread", threads, bind, "--pid=site.pid", "basic:application"
    )


def _booted(site: Site, redeploy: Callable[[], object], sign: str) -> None:
    before = site.log().count(sign)
    redeploy()
    site.wait(lambda: site.log().count(sign) > before, sign)


def _gunicorn_hup(site: Site) -> None:
    _booted(site, lambda: os.kill(site.pid(), signal.SIGHUP), "Booting worker")


def _gunicorn_usr2(site: Site) -> None:
    old = site.pid()
    _booted(site, lambda: os.kill(old, signal.SIGUSR2), "Booting worker")
    os.kill(old, signal.SIGTERM)  # as its manual has it: then the old master finishes, and leaves
    site.wait(lambda: site.pid() not in (0, old), "another pid file")


def _uwsgi(site: Site) -> None:
    # It gives answers no length: without this, clients could not know where they end.
    listen = [f"--http-socket=127.0.0.1:{site.port}", "--add-header=Connection: close"]
    manners = [
        f"--binary-path={sys.executable}",
        "--master",
        "--need-app",
        "--disable-logging",
        "--pidfile=site.pid",
        "--lazy-apps",
    ]
    site.start(str(PROGRAMS / "pyuwsgi"), *listen, f"--threads={THREADS}", *manners, "--module=basic:application")


def _uwsgi_hup(site: Site) -> None:
    _booted(site, lambda: os.kill(site.pid(), signal.SIGHUP), "spawned uWSGI worker")


def _granian(site: Site) -> None:
    where = ["--host=127.0.0.1", f"--port={site.port}", "--http=1", "--pid-file=site.pid"]
    threads = ["--workers=1", f"--blocking-threads={THREADS}"]
    site.start(str(PROGRAMS / "granian"), "--interface=wsgi", *where, *threads, "basic:application")


def _granian_hup(site: Site) -> None:
    _booted(site, lambda: os.kill(site.pid(), signal.SIGHUP), "Started worker")


WAYS: Final = {
    way.name: way
    for way in (
        Way("takeover", _ours, _takeover),
        Way("SIGHUP", _ours, _hang_up),
        Way("SIGHUP with workers", _workers, _workers_hang_up),
        Way("takeover with workers", _workers, _workers_takeover),
        Way("restart", _ours, _restart),
        Way("gunicorn HUP", _gunicorn, _gunicorn_hup),
        Way("gunicorn USR2", _gunicorn, _gunicorn_usr2),
        Way("uWSGI HUP", _uwsgi, _uwsgi_hup),
        Way("granian HUP", _granian, _granian_hup),
    )
}


class Prober:
    """Asks for `/` all the time, and knows how long that took, and when.

    :ivar took: when each answer had come, and how long it took; seconds.
    :ivar lost: how many did not come, by kind.
    """

    def __init__(self, port: int) -> None:
        self.took: list[tuple[float, float]] = []
        self.lost: Counter[str] = Counter()
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def end(self) -> None:
        """Ask no more."""
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(0.002):
            began = time.monotonic()
            try:
                with Connection(self._port) as connection:
                    connection.send(request("/", "Connection: close"))
                    connection.answer()
            except Failure as failure:
                self.lost[failure.outcome] += 1
                continue
            self.took.append((began, time.monotonic() - began))

    def slowest(self, spans: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
        """The slowest answer within some spans, the slowest outside, and how long 99 of 100 took there; seconds."""
        within: list[float] = []
        outside: list[float] = []
        for began, took in self.took:
            meanwhile = any(start <= began + took and began <= end for start, end in spans)
            (within if meanwhile else outside).append(took)
        outside.sort()
        return (
            max(within, default=0.0),
            max(outside, default=0.0),
            outside[len(outside) * 99 // 100] if outside else 0.0,
        )


def run(way: Way, redeploys: int, requests: int) -> str:
    """Redeploy under load; a row of the table."""
    with tempfile.TemporaryDirectory(prefix="graceful-bench-") as directory:
        site = Site(_free_port(), Path(directory))
        spans: list[tuple[float, float]] = []
        try:
            way.first(site)
            site.wait(site.answers, "an answer")
            with Load(site.port) as load:
                prober = Prober(site.port)
                try:
                    for number in range(redeploys):
                        time.sleep(PAUSE)
                        while load.count() + len(prober.took) < requests * (number + 1) / redeploys:
                            time.sleep(PAUSE)
                        began = time.monotonic()
                        way.again(site)
                        spans.append((began, time.monotonic()))
                    time.sleep(PAUSE)
                finally:
                    prober.end()
                report = load.stop()
        finally:
            site.end()
    return _row(way, report, prober, spans)


def _row(way: Way, report: Report, prober: Prober, spans: Sequence[tuple[float, float]]) -> str:
    outcomes: Counter[str] = Counter(prober.lost)
    for counts in report.counts.values():
        outcomes.update(counts)
    outcomes["ok"] += len(prober.took)
    lost = sum(count for outcome, count in outcomes.items() if outcome not in ("ok", "refused"))
    total = outcomes["ok"] + lost
    worst, usual, most = prober.slowest(spans)
    ways = {outcome: count for outcome, count in outcomes.items() if outcome not in ("ok", "refused")}
    kinds = Counter(failure["kind"] for failure in report.failures)
    details = f" ({_said(ways)}; {_said(kinds)})" if lost else ""
    bound = f"< {3 / total:.1e}" if not lost else f"{lost / total:.1e}"
    cells = (
        way.name,
        len(spans),
        f"{total:,}",
        f"{lost}{details}",
        f"{lost / len(spans):.2f}",
        outcomes["refused"],
        bound,
        f"{1e3 * worst:.0f}",
        f"{1e3 * usual:.0f}",
        f"{1e3 * most:.1f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _said(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--ways", default=",".join(WAYS), help="which, parted by commas")
    parser.add_argument("--redeploys", type=int, default=10)
    parser.add_argument("--requests", type=int, default=0, help="spread over at least so many requests")
    given = parser.parse_args()
    print("| way | redeploys | requests | lost | each | refused | share (95 %) | slowest `/`, ms | else | p99 |")
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for name in given.ways.split(","):
        try:
            print(run(WAYS[name.strip()], given.redeploys, given.requests), flush=True)
        except Stuck as stuck:
            print(f"{name}: {stuck}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
