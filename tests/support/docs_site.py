"""The directory in which the commands of the documentation are run, as a reader would.

The commands are taken as they stand, but for ports, paths and users that a test machine cannot spare.  What is put in
their place is said by each test, and has to be there: a text that has changed is found out.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.support.docs_blocks import by_name
from tests.support.files import be_newer
from tests.support.home import Home
from tests.support.server import APPLICATIONS, LOOPBACK, PROGRAMS, Server

ANYWHERE = LOOPBACK.format(port=0)
LISTEN = {"graceful-app": f"graceful-app --listen {ANYWHERE}"}
SERVE = {"graceful serve": f"graceful serve --listen {ANYWHERE}"}
"""What to put in place where a command does not say where to listen."""

_DIFFERS = re.compile(
    r"/srv/site/\S*(?=/graceful/)"  # where graceful is installed
    r"|\b[0-9a-f]{4}-[0-9a-f]{8}-\d+"  # an id of a request
    r"|OOPS-[0-9a-f]+"
    r"|\b[A-Z][a-z]{2}(?=/\d{4})"  # a month
    r"|\d+"
)
"""What differs from one log to the next; a number may stand for any other."""


def shown(name: str, places: Mapping[str, str] | None = None) -> str:
    """Return the text of a block.

    :param name: the block's.
    :param places: what to replace by what; each must be there.
    """
    return replaced(by_name()[name].text, places or {})


def replaced(text: str, places: Mapping[str, str]) -> str:
    """Return a text with some parts replaced, each of which must be there.

    All at once: what is put in place of one port may contain another.
    """
    for old in places:
        assert old in text, f"{old!r} is no longer in this:\n{text}"
    if not places:
        return text
    return re.sub("|".join(map(re.escape, places)), lambda match: places[match[0]], text)


def pattern(line: str) -> str:
    """Return a pattern for a log line that is shown."""
    found, end = "", 0
    line = line.strip()
    for match in _DIFFERS.finditer(line):
        found += re.escape(line[end : match.start()]) + (r"\d+" if match[0].isdigit() else r"[\w/.-]+")
        end = match.end()
    return found + re.escape(line[end:]) + "$"


def check_lines(name: str, lines: Iterable[str]) -> None:
    """Assert that the lines of a block come, in their order; others may stand between them."""
    rest = iter(lines)
    for line in shown(name).splitlines():
        wanted = pattern(line)
        assert any(re.search(wanted, other) for other in rest), f"{line!r} does not come, or earlier: {wanted}"


def lines_of(server: Server) -> list[str]:
    """Return the lines that a server has logged so far."""
    return [match.string for _, match in server.log.find_all("")]


def fetch(port: int, path: str = "/") -> bytes:
    """Return the body of an answer with status 200."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        body: bytes = answer.read()
        return body


def gone(pid: int, within: float = 0.0) -> bool:
    """Whether a process, whoever's it is, has ended or does so within some seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within)[0])
    finally:
        os.close(descriptor)


#: Seconds from the last line that a server logs until it has ended.
LAST_STEPS = 5.0


class Site:
    """A directory with a site in it, and the processes that are started there.

    :ivar path: the directory.
    """

    def __init__(self) -> None:
        self.home = Home(os.getuid())
        self.home.disturbed = True  # a reader's directory is not empty
        self.path: Path = self.home.run
        self.environment = {
            **os.environ,
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONPATH": str(APPLICATIONS),
        }
        self._pids: set[int] = set()
        self._servers: list[Server] = []
        self._over = threading.Event()
        self._reaper = threading.Thread(target=self._reap, name="reaper", daemon=True)

    def __enter__(self) -> Site:
        self._reaper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._look()
        # One that has said its last line may still be about to end.
        left = [pid for pid in self._pids - self._children() if not gone(pid, LAST_STEPS)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            gone(pid, 10)
        self._over.set()
        self._reaper.join()
        self.home.remove()
        assert kind is not None or not left, f"daemons were still running: {left}"

    def _children(self) -> set[int]:
        """Return our own children, 0 for one that is just being started.

        A server in the foreground has a pid file as well, and whoever collects it has its status.
        """
        return {server.pid for server in self._servers}

    def _look(self) -> None:
        for file in self.path.glob("*.pid*"):
            with suppress(OSError, ValueError):
                self._pids.add(int(file.read_text()))

    def collect(self) -> None:
        """Let daemons that have ended be gone, for scripts that wait for it.

        Other tests make this process the parent of all daemons; it has to collect them.
        """
        self._look()
        children = self._children()
        if 0 in children:
            return  # its pid file may be there before its number is known here
        for pid in self._pids - children:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def _reap(self) -> None:
        while not self._over.wait(0.02):
            self.collect()

    def write(self, name: str, text: str) -> Path:
        """Write a file of the site."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        former = path.stat().st_mtime if path.exists() else 0.0
        path.write_text(text)
        be_newer(path, former)
        return path

    def module(self) -> None:
        """Have a `mysite.wsgi` that is not Django, and answers as the clients of `support.load` expect it."""
        self.write("mysite/wsgi.py", "from basic import application\n")

    def shell(self, text: str, *, status: int = 0, timeout: float = 60.0) -> str:
        """Run a script to its end, and return what it says.

        :raises AssertionError: it does not end, or not with this status.
        """
        script = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.path,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        try:
            said, _ = script.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"does not end in {timeout} s: {late.output!r}\n{text}") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
        assert script.returncode == status, f"status {script.returncode}: {said}\n{text}"
        return said

    def server(self, command: str, *, pass_fds: Sequence[int] = (), wait_open: bool = True) -> Server:
        """Return a server that a script starts in the foreground, as the last thing it does."""
        server = Server(self.home, command=["bash", "-euc", command], pass_fds=pass_fds, wait_open=wait_open)
        server.environment.update(self.environment, TMPDIR=str(self.home.temporary))
        server.without_tls()
        self._servers.append(server)
        return server
