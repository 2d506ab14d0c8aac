"""Deploying with workers: the next release, one worker at a time, the way back, and supervisors that take over."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Connection, Failure, get, request
from tests.support.command import status_of
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.load import Load
from tests.support.processes import alive, children_of
from tests.support.releases import FOLLOWS, RELEASE, Releases, deploy_broken
from tests.support.server import Server
from tests.support.waiting import wait_for

SHORT = ("--idle-grace", "0.5")
DEPLOYED = "deployed: all workers run"
TOOK_OVER = r"took over from process (\d+)"


@contextmanager
def served(home: Home, releases: Releases, *options: str, workers: int = 2) -> Iterator[Server]:
    """A supervisor of the current release."""
    with Server(
        home,
        *SHORT,
        *("--workers", str(workers), "--chdir", str(releases.current)),
        *options,
        application="release:application",
    ) as server:
        yield server


def releases_of(server: Server) -> set[bytes]:
    """Which releases answer."""
    return {get(server.port, "/release").body for _ in range(20)}


def pids(home: Home) -> list[int]:
    """The workers that serve."""
    return [one["pid"] for one in status_of(home)["workers"] if one["state"] == "serving"]


# -- the next release -------------------------------------------------------------------------------------


def test_the_next_release_of_all(home: Home) -> None:
    """A hang-up brings what the link leads to now; one that is restarted runs what was deployed last."""
    releases = Releases(home)
    old = releases.make("41")
    with served(home, releases) as server:
        before = pids(home)
        new = releases.make("42")
        assert releases_of(server) == {b"41"}
        os.kill(before[0], signal.SIGKILL)
        home.disturbed = True
        server.wait_line(r"worker 1, process \d+, accepts", count=2)
        assert releases_of(server) == {b"41"}
        server.send_signal(signal.SIGHUP)
        server.wait_line(rf"deploy: workers that run {re.escape(str(new))} \(was {re.escape(str(old))}\)")
        server.wait_line(DEPLOYED)
        assert releases_of(server) == {b"42"}
        assert not set(before) & set(pids(home))
        assert status_of(home)["pid"] == server.pid


def test_a_release_that_fails_at_once(home: Home) -> None:
    """One that cannot be imported, or hangs, replaces nobody."""
    releases = Releases(home)
    releases.make("41")
    with served(home, releases, "--takeover-timeout", "5") as server:
        before = pids(home)
        deploy_broken(releases, server)
        with Gate(home.path / "gate") as gate:
            releases.make("hangs", f"open({str(gate.path)!r}).read()")
            server.send_signal(signal.SIGHUP)
            gate.wait_reached()
            server.wait_line("no deploy: it has not accepted within 5 s; the old release serves on")
        assert pids(home) == before
        assert releases_of(server) == {b"41"}
        home.disturbed = True  # one was killed


@pytest.mark.parametrize("fails", [False, True])
def test_a_release_that_comes_during_a_deploy(home: Home, fails: bool) -> None:
    """It is deployed afterwards, whether that deploy succeeds or fails."""
    releases = Releases(home)
    releases.make("41")
    with served(home, releases) as server, Gate(home.path / "gate") as gate:
        text = "raise RuntimeError('no database here')" if fails else RELEASE % "42"
        mark = str(home.path / "mark")
        once = f"import os\nif not os.path.exists({mark!r}):\n    open({mark!r}, 'w').close()\n"
        releases.make("42", f"{once}    open({str(gate.path)!r}).read()\n{text}")  # the first worker waits
        server.send_signal(signal.SIGHUP)
        gate.wait_reached()
        new = releases.make("43")
        for _ in range(2):
            server.send_signal(signal.SIGHUP)
        server.wait_line(FOLLOWS)
        gate.open()
        server.wait_line(f"{DEPLOYED} {new}")
        assert releases_of(server) == {b"43"}
        assert len(server.log.find_all("deploy: workers that run")) == 2


def test_the_way_back(home: Home) -> None:
    """When a later worker cannot start, those that were replaced go back to the release from before."""
    releases = Releases(home)
    releases.make("41")
    with served(home, releases, workers=3) as server:
        mark = home.path / "mark"
        text = (
            f"import os\nfrom basic import application\n"
            f"number = len(os.listdir({str(mark)!r}))\nopen({str(mark)!r} + f'/{{number}}', 'w').close()\n"
            f"if number == 2:\n    raise MemoryError('the third is too many')\n"
        )
        mark.mkdir()
        releases.make("42", text)
        server.send_signal(signal.SIGHUP)
        server.wait_line("no deploy: .*the third is too many.*; back to the old release in 2")
        server.wait_line("all workers run .*41 again")
        assert releases_of(server) == {b"41"}
        assert len(pids(home)) == 3


def test_nobody_notices_deploys(home: Home) -> None:
    """Under five kinds of clients, workers are replaced again and again, and nobody is ever refused."""
    options = ("--idle-grace", "1", "--threads", "30", "--spool", str(home.spool), "--workers", "2")
    with Server(home, *options) as server, Load(server.port) as load:
        load.mark()
        for count in range(1, 4):
            server.send_signal(signal.SIGHUP)
            server.wait_line(DEPLOYED, count=count, timeout=30)
            load.mark()
        load.stop().check()


def test_process_1_of_a_container(home: Home) -> None:
    """Where a process with the number 1 must stay, it stays, and its workers are replaced all the same."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    prefix = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    with ExitStack() as stack:
        server = Server(home, *SHORT, "--workers", "2", prefix=prefix, wait_open=False)
        stack.callback(server.kill)
        server.start()
        server.wait_open()
        (first,) = children_of(server.pid)
        os.kill(first, signal.SIGHUP)
        server.wait_line(DEPLOYED)
        assert get(server.port, "/echo?x").body == b"x"
        os.kill(first, signal.SIGTERM)
        server.wait_line(r"socket tcp:127.0.0.1:\d+ closed \(pid 1\)")
        assert server.wait() == 0
        home.disturbed = False


# -- supervisors that take over ---------------------------------------------------------------------------


def successor(old: Server, workers: int, **others: Any) -> Server:
    """A server that takes over from another, in its directory."""
    more = ("--workers", str(workers)) if workers > 1 else ()
    return Server(old.home, "--takeover", *SHORT, *more, port=old.port, **others)


@pytest.mark.parametrize("daemon", [False, True], ids=["-n", "daemon"])
def test_from_one_to_another(home: Home, daemon: bool) -> None:
    """A supervisor takes over from a single process, from one with as many workers, more and fewer, and back."""
    with ExitStack() as stack:
        old = stack.enter_context(Server(home, *SHORT, daemon=daemon))
        for workers in (2, 2, 3, 2, 1):
            new = stack.enter_context(successor(old, workers, daemon=daemon))
            new.wait_line(TOOK_OVER)
            if daemon:
                wait_for(lambda new=new, old=old: new.daemon_pid() not in (0, old.pid))  # type: ignore[misc]
                new.pid = new.daemon_pid()
            old.wait_line(rf"socket tcp:127.0.0.1:{old.port} handed to {new.pid}$")
            assert old.wait() == 0
            assert old.drained()[1:] == (0, 0)
            for _ in range(20):
                assert get(old.port, "/echo?x").body == b"x"
            status = status_of(home)
            assert (status["pid"], status["state"]) == (new.pid, "serving")
            assert len(status.get("workers", [])) == (workers if workers > 1 else 0)
            old = new


def test_nobody_notices_takeovers_of_supervisors(home: Home) -> None:
    """Under five kinds of clients, supervisors take over from each other, and nobody is ever refused."""
    options = ("--idle-grace", "1", "--threads", "30", "--spool", str(home.spool), "--workers")
    with ExitStack() as stack:
        server = stack.enter_context(Server(home, *options, "2"))
        port = server.port
        load = stack.enter_context(Load(port))
        for workers in ("2", "3", "2"):
            load.mark()
            new = stack.enter_context(Server(home, "--takeover", *options, workers, port=port))
            new.wait_line(TOOK_OVER, timeout=30)
            server = new
        load.mark()
        load.stop().check()


def test_a_successor_that_fails(home: Home) -> None:
    """Whatever happens to the new supervisor before its workers accept, the old one serves on."""
    with ExitStack() as stack:
        old = stack.enter_context(Server(home, *SHORT, "--workers", "2"))
        failed = successor(old, 2, application="broken_import:application").run()
        assert failed.returncode != 0
        assert "broken_import cannot be imported" in failed.stdout
        old.wait_line("no takeover: process .* has ended before it accepted; .*; this one serves on")
        gate = stack.enter_context(Gate(home.path / "gate"))
        (home.path / "own.py").write_text(f"open({str(gate.path)!r}).read()\nfrom basic import application")
        environment = {"PYTHONPATH": f"{home.path}:{Path(__file__).parent.parent / 'apps'}"}
        hanging = successor(old, 2, application="own:application", environment=environment, wait_open=False)
        stack.callback(hanging.kill)
        hanging.start()
        gate.wait_reached()
        wait_for(lambda: len(children_of(hanging.pid)) == 2)
        workers = children_of(hanging.pid)
        hanging.kill()
        wait_for(lambda: not any(map(alive, workers)))  # though they hang in the import
        old.wait_line("no takeover: process .* has ended before it accepted", count=2)
        assert len(pids(home)) == 2
        assert get(old.port, "/echo?x").body == b"x"
        home.disturbed = True


def test_what_was_begun_is_finished(home: Home) -> None:
    """The workers of a supervisor that was taken over finish what they have, and are seen meanwhile."""
    with ExitStack() as stack:
        old = stack.enter_context(Server(home, *SHORT, "--workers", "2"))
        gate = stack.enter_context(Gate(home.path / "gate"))
        waiting = stack.enter_context(Connection(old.port))
        waiting.send(request(gate.target()))
        gate.wait_reached()
        new = stack.enter_context(successor(old, 2))
        new.wait_line(TOOK_OVER)
        wait_for(lambda: [one["in_flight_count"] for one in status_of(home)["draining"]] == [1])
        gate.open()
        assert waiting.answer().body == b"passed"
        waiting.close()
        assert old.wait() == 0
        assert old.drained() == (1, 0, 0)


def test_an_address_less(home: Home) -> None:
    """What the new command line leaves out is closed by the old workers, with what is in flight on it finished."""
    with ExitStack() as stack:
        listen = ["tcp:0:interface=127.0.0.1", "tcp:0:interface=127.0.0.1"]
        old = stack.enter_context(Server(home, *SHORT, "--workers", "2", listen=listen))
        wait_for(lambda: len(old.ports) == 2)
        kept, dropped = old.ports
        gate = stack.enter_context(Gate(home.path / "gate"))
        waiting = stack.enter_context(Connection(dropped))
        waiting.send(request(gate.target()))
        gate.wait_reached()
        new = stack.enter_context(
            Server(home, "--takeover", *SHORT, "--workers", "2", listen=[f"tcp:{kept}:interface=127.0.0.1"])
        )
        new.wait_line(TOOK_OVER)
        old.wait_line(rf"socket tcp:127.0.0.1:{dropped} closed \(pid {old.pid}\)")
        with pytest.raises(Failure, match="refused"):
            Connection(dropped)
        gate.open()
        assert waiting.answer().body == b"passed"
        waiting.close()
        assert old.wait() == 0
