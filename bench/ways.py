"""The ways in which servers are redeployed, each as the server's own manual says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

HERE: Final = Path(__file__).parent
PROGRAMS: Final = Path(sys.executable).parent
APPS: Final = HERE.parent / "tests" / "apps"
sys.path.insert(0, str(HERE.parent))

from tests.support.clients import Connection, Failure  # noqa: E402

THREADS: Final = "30"
#: Requests that a worker answers before it is replaced, where that is measured.
RECYCLED_AFTER: Final = "500"
#: Seconds that a start or a redeploy may take.
SETTLES_IN: Final = 30.0


class Stuck(Exception):
    """A server has not done in time what it should."""


@define(eq=False)
class Site:
    """The server at a port, through all its replacements.

    :ivar directory: the working directory of the server's processes.
    :ivar environment: what they have in their environment besides.
    :ivar started: the processes that were started here; :meth:`end` stops all of them.
    """

    port: int
    directory: Path
    environment: Mapping[str, str] = field(factory=lambda: {"PYTHONPATH": str(APPS)})
    started: list[subprocess.Popen[bytes]] = field(factory=list)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command in the directory."""
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process

    def log(self) -> str:
        """Returns what all processes have logged so far."""
        return (self.directory / "log").read_text(errors="replace")

    def pid(self) -> int:
        """Returns the process id in the pid file; 0 if there is none."""
        with suppress(OSError, ValueError):
            return int((self.directory / "site.pid").read_text())
        return 0

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition is true.

        :param what: names the condition in the error.
        :raises Stuck: it is not true within `SETTLES_IN` seconds.
        """
        end = time.monotonic() + SETTLES_IN
        while not condition():
            if time.monotonic() > end:
                raise Stuck(f"not in {SETTLES_IN:g} s: {what}\n{self.log()[-3000:]}")
            time.sleep(0.005)

    def answers(self) -> bool:
        """Whether a server answers at the port."""
        with suppress(Failure), Connection(self.port) as connection:
            return connection.get("/").status == 200
        return False

    def end(self) -> None:
        """Stop all processes."""
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
    :ivar again: replaces the server, and returns when the new one serves and the old one accepts no more.
    :ivar websockets: whether its application has them.
    """

    name: str
    first: Callable[[Site], object]
    again: Callable[[Site], None]
    websockets: bool = False


def _ours(site: Site, *options: str, application: str = "basic:application") -> subprocess.Popen[bytes]:
    listen = f"tcp:{site.port}:interface=127.0.0.1"
    twistd = [str(PROGRAMS / "twistd"), "-n", "--pidfile=site.pid", "graceful-app", "--listen", listen]
    return site.start(*twistd, "--threads", THREADS, *options, application)


def _asgi(site: Site, *options: str) -> subprocess.Popen[bytes]:
    return _ours(site, *options, application="asgi_basic:application")


def _changes_hands(site: Site, redeploy: Callable[[], object]) -> None:
    before = site.pid()
    redeploy()
    site.wait(lambda: f"took over from process {before}\n" in site.log(), "a takeover")
    site.wait(lambda: site.pid() not in (0, before), "another pid file")


def _recycling(site: Site) -> subprocess.Popen[bytes]:
    return _workers(site, "--max-requests", RECYCLED_AFTER)


def _recycled(site: Site) -> None:
    _booted(site, lambda: None, "another one takes its place")


def _takeover(site: Site) -> None:
    _changes_hands(site, lambda: _ours(site, "--takeover"))


def _hang_up(site: Site) -> None:
    _changes_hands(site, lambda: os.kill(site.pid(), signal.SIGHUP))


def _asgi_takeover(site: Site) -> None:
    _changes_hands(site, lambda: _asgi(site, "--takeover"))


def _asgi_workers(site: Site) -> subprocess.Popen[bytes]:
    return _asgi(site, "--workers", "2")


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
    os.kill(old, signal.SIGTERM)  # as its manual says: then the old master finishes, and ends
    site.wait(lambda: site.pid() not in (0, old), "another pid file")


def _uwsgi(site: Site) -> None:
    # uWSGI sends answers without a length; without this field, clients could not know where they end, and with it
    # they keep no connection.
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
        Way("ASGI takeover", _asgi, _asgi_takeover, websockets=True),
        Way("ASGI SIGHUP", _asgi, _hang_up, websockets=True),
        Way("ASGI SIGHUP with workers", _asgi_workers, _workers_hang_up, websockets=True),
        Way("recycled workers", _recycling, _recycled),
        Way("restart", _ours, _restart),
        Way("gunicorn HUP", _gunicorn, _gunicorn_hup),
        Way("gunicorn USR2", _gunicorn, _gunicorn_usr2),
        Way("uWSGI HUP", _uwsgi, _uwsgi_hup),
        Way("granian HUP", _granian, _granian_hup),
    )
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
