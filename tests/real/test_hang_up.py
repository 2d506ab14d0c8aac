"""SIGHUP to a real process: its successor runs what the paths of the first command line lead to now."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.clients import Connection, Failure, request
from tests.support.command import status_of
from tests.support.gate import Gate
from tests.support.home import UNPRIVILEGED, Home
from tests.support.releases import FOLLOWS, RELEASE, Releases
from tests.support.server import KEEPS_READING, Server, become_subreaper
from tests.support.waiting import wait_for

SHORT = ("--idle-grace", "0.5")


@contextmanager
def served(home: Home, releases: Releases, *options: str, daemon: bool) -> Iterator[Server]:
    """A server of the current release; whatever has become of it is ended."""
    become_subreaper()
    with ExitStack() as stack:
        server = Server(
            home, *SHORT, "--chdir", str(releases.current), *options, application="release:application", daemon=daemon
        )
        stack.callback(end, server, home)
        server.start()
        server.wait_open()
        yield server


def end(server: Server, home: Home) -> None:
    """End a server, or what has taken over from it."""
    with suppress(OSError, ValueError):
        pid = int((home.run / "twistd.pid").read_text())
        if pid == server.pid:
            server.terminate()
            assert server.wait() == 0
        else:
            os.kill(pid, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    server.kill()
    home.disturbed = False


def release_of(server: Server) -> bytes:
    """Which release answers."""
    with Connection(server.port) as connection:
        answer = connection.get("/release")
        connection.close()
        return answer.body


def log_of(server: Server) -> str:
    """The whole log, of everybody who writes there."""
    return server.log_file.read_text() if server.daemon else str(server.log)


def pid_of(home: Home) -> int:
    """Who serves, by the pid file."""
    return int((home.run / "twistd.pid").read_text())


@pytest.mark.parametrize("daemon", [False, True], ids=["-n", "daemon"])
def test_the_next_release(home: Home, daemon: bool) -> None:
    """A hang-up starts what the link leads to now, from release to release; the log says from where to where."""
    releases = Releases(home)
    old = releases.make("41")
    with served(home, releases, daemon=daemon) as server:
        assert release_of(server) == b"41"
        pid = server.pid
        for name in ("42", "43"):
            new = releases.make(name)
            os.kill(pid, signal.SIGHUP)
            line = rf"deploy: successor, process \d+, runs {re.escape(str(new))} \(was {re.escape(str(old))}\)"
            wait_for(lambda line=line: re.search(line, log_of(server)) is not None)  # type: ignore[misc]
            wait_for(lambda pid=pid: f"took over from process {pid}" in log_of(server))  # type: ignore[misc]
            wait_for(lambda pid=pid: pid_of(home) != pid)  # type: ignore[misc]
            assert release_of(server) == name.encode()
            old, pid = new, pid_of(home)
            assert (status_of(home)["pid"], status_of(home)["state"]) == (pid, "serving")
        assert "Traceback" not in log_of(server)


def test_a_release_that_fails(home: Home) -> None:
    """One that cannot be imported, or does not come to its end in time, changes nothing; the next deploy does."""
    releases = Releases(home)
    releases.make("41")
    with served(home, releases, "--takeover-timeout", "5", daemon=False) as server:
        releases.make("broken", "raise RuntimeError('no database here')")
        server.send_signal(signal.SIGHUP)
        server.wait_line("graceful: release cannot be imported: RuntimeError: no database here")
        server.wait_line("no takeover: process .* has ended before it accepted; .*this one serves on")
        assert (release_of(server), pid_of(home)) == (b"41", server.pid)

        with Gate(home.path / "gate") as gate:
            hang = f"import time\nopen({str(gate.path)!r}).read()\ntime.sleep(60)"
            releases.make("hangs", hang)
            server.send_signal(signal.SIGHUP)
            gate.wait_reached()
            gate.open()
            server.wait_line("no deploy: the successor has not accepted within 5 s; this one serves on")
            server.wait_line("no takeover: process .* has ended before it accepted", count=2)
            assert (release_of(server), pid_of(home)) == (b"41", server.pid)

        releases.make("42")
        server.send_signal(signal.SIGHUP)
        server.wait_line(f"took over from process {server.pid}")
        assert release_of(server) == b"42"
        assert len(server.log.find_all("Traceback")) == 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_release_that_comes_during_a_deploy(home: Home, fails: bool) -> None:
    """It is deployed afterwards: by the process that has taken over, or by the old one if none could."""
    releases = Releases(home)
    releases.make("41")
    with served(home, releases, daemon=False) as server, Gate(home.path / "gate") as gate:
        text = "raise RuntimeError('no database here')" if fails else RELEASE % "42"
        releases.make("42", f"open({str(gate.path)!r}).read()\n{text}")
        server.send_signal(signal.SIGHUP)
        gate.wait_reached()
        releases.make("43")
        for _ in range(2):
            server.send_signal(signal.SIGHUP)
        server.wait_line(FOLLOWS)
        gate.open()
        server.wait_line("took over from process", count=1 if fails else 2)
        assert release_of(server) == b"43"
        assert len(server.log.find_all("deploy: successor")) == 2
        assert len(server.log.find_all("Traceback")) == 0


def test_a_directory_that_is_gone(home: Home) -> None:
    """What cannot be started at all is said in one line."""
    releases = Releases(home)
    releases.make("41")
    with served(home, releases, daemon=False) as server:
        home.run.rename(home.path / "moved")
        try:
            server.send_signal(signal.SIGHUP)
            server.wait_line("no deploy: .* cannot be started in .*: No such file or directory; this one serves on")
        finally:
            (home.path / "moved").rename(home.run)
        assert release_of(server) == b"41"


def test_no_deploy_of_one_that_stops(home: Home) -> None:
    """One that is stopping starts nobody."""
    with Server(home, "--idle-grace", "3") as server, Connection(server.port) as connection:
        assert connection.get("/").status == 200
        server.terminate()
        server.wait_closed()
        server.send_signal(signal.SIGHUP)
        server.wait_line("no deploy: it is stopping")
        connection.close()
        began = time.monotonic()
        assert server.wait() == 0
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("daemon", [False, True], ids=["-n", "daemon"])
def test_a_stop_ends_a_deploy(home: Home, daemon: bool) -> None:
    """Who stops a server in the middle of a deploy has stopped it: nobody serves on, and who connects is refused."""
    releases = Releases(home)
    releases.make("41")
    with served(home, releases, daemon=daemon) as server, Gate(home.path / "gate") as gate:
        releases.make("hangs", f"import time\nopen({str(gate.path)!r}).read()\ntime.sleep(60)")
        server.send_signal(signal.SIGHUP)
        gate.wait_reached()
        server.terminate()
        wait_for(lambda: f"closed (pid {server.pid})" in log_of(server))
        with pytest.raises(Failure, match="refused"):
            Connection(server.port)
        assert server.wait() == 0
        assert "no deploy: it is stopping" in log_of(server)
        assert "this one serves on" not in log_of(server)
        assert not (home.run / "twistd.pid").exists()


def test_successor_is_an_orphan_when_it_is_named(home: Home) -> None:
    """systemd does not wait for a main process that is the child of another process at the moment it is named."""
    become_subreaper()
    with ExitStack() as stack:
        manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        manager.bind(str(home.path / "notify"))
        manager.settimeout(20)
        gate = stack.enter_context(Gate(home.path / "gate"))
        server = Server(home, *SHORT, environment={"NOTIFY_SOCKET": str(home.path / "notify")})
        stack.callback(end, server, home)
        server.start()
        server.wait_open()
        client = stack.enter_context(Connection(server.port))
        client.send(request(gate.target()))  # keeps the predecessor, and with it every child that it has
        gate.wait_reached()
        server.send_signal(signal.SIGHUP)
        named = server.pid
        while named == server.pid:
            said = dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())
            named = int(said.get("MAINPID", named))
        assert server.stays(0)
        assert parent_of(named) == os.getpid()
        assert int(server.wait_line(r"deploy: successor, process (\d+), runs")[1]) == named
        gate.open()
        assert client.answer().status == 200
        client.close()
        assert server.wait() == 0


def test_a_successor_that_crashes_is_logged(home: Home) -> None:
    """A predecessor that still finishes a request says that no process serves; nothing else can."""
    releases = Releases(home)
    releases.make("41")
    with served(home, releases, daemon=False) as server, Gate(home.path / "gate") as gate:
        with Connection(server.port) as client:
            client.send(request(gate.target()))
            gate.wait_reached()
            server.send_signal(signal.SIGHUP)
            server.wait_line(f"took over from process {server.pid}")
            successor = int(server.wait_line(r"deploy: successor, process (\d+), runs")[1])
            os.kill(successor, signal.SIGKILL)
            home.disturbed = True
            server.wait_line(
                f"the successor, process {successor}, has crashed: no process answers at .*graceful.sock"
            )
            os.waitpid(successor, 0)
            for left in ("twistd.pid", "graceful.sock"):
                (home.run / left).unlink()
            gate.open()
            assert client.answer().status == 200
            client.end()
        assert server.wait() == 0


def parent_of(pid: int) -> int:
    """Returns the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_hang_up_after_uid_starts_a_successor_without_privileges(home: Home) -> None:
    """With --uid, the successor is started without privileges, and gets sockets and pid file all the same."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    become_subreaper()
    options = ("--uid", str(UNPRIVILEGED), "--gid", str(UNPRIVILEGED))
    server = Server(home, *SHORT, twistd_options=options, prefix=KEEPS_READING)
    with ExitStack() as stack:
        stack.callback(lambda: setattr(home, "disturbed", True))  # who may not write there may not remove either
        stack.callback(end, server, home)
        server.start()
        server.wait_open()
        server.send_signal(signal.SIGHUP)
        server.wait_line(f"took over from process {server.pid}")
        wait_for(lambda: pid_of(home) != server.pid)
        assert status_of(home)["pid"] == pid_of(home)
        assert Path(f"/proc/{pid_of(home)}").stat().st_uid == UNPRIVILEGED
