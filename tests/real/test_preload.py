"""`--preload`: workers are forked from a process that has imported the application, and what can go wrong then."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clients import Connection, get, request
from tests.support.command import graceful, status_of
from tests.support.files import edit
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.load import Load
from tests.support.processes import alive, children_of, descendants_of, pause
from tests.support.releases import RELEASE, Releases, deploy_broken
from tests.support.server import Server
from tests.support.waiting import wait_for

PRELOAD = ("--workers", "2", "--preload", "--idle-grace", "0.5")
DEPLOYED = "deployed: all workers run"
IMPORTED = r"fork server, process (\d+), has imported"
EACH = "each worker imports the application"


def served(home: Home, releases: Releases, *options: str, **more: object) -> Server:
    """Returns a supervisor of the current release, with a fork server."""
    chdir = ("--chdir", str(releases.current))
    return Server(home, *PRELOAD, *chdir, *options, application="release:application", **more)  # type: ignore[arg-type]


def fork_server(home: Home) -> int:
    """Returns the process of the only fork server."""
    (one,) = status_of(home)["fork_servers"]
    return int(one["pid"])


def workers(home: Home) -> list[int]:
    """Returns the processes that serve."""
    return [one["pid"] for one in status_of(home)["workers"] if one["state"] == "serving"]


def shared(pid: int) -> float:
    """Returns the part of a process's memory that it shares."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rss, clean, dirty = (
        int(re.search(rf"^{name}:\s+(\d+)", text, re.M)[1])  # type: ignore[index]
        for name in ("Rss", "Shared_Clean", "Shared_Dirty")
    )
    return (clean + dirty) / rss


# -- what it is for ---------------------------------------------------------------------------------------


def test_the_application_is_imported_once(home: Home, stack: ExitStack) -> None:
    """By one process for all workers, which share most of what they have; a deploy loads new code."""
    releases = Releases(home)
    mark = home.path / "mark"
    counted = f"import os\nopen({str(mark)!r}, 'a').write(f'{{os.getpid()}}\\n')\nBIG = bytearray(64 << 20)\n"
    releases.make("41", counted + RELEASE % "41")
    server = stack.enter_context(served(home, releases))
    first = int(server.wait_line(IMPORTED)[1])
    assert mark.read_text().split() == [str(first)]
    assert sorted(children_of(first)) == sorted(workers(home))
    assert min(map(shared, workers(home))) > 0.6
    releases.make("42", counted + RELEASE % "42")
    server.send_signal(signal.SIGHUP)
    server.wait_line(DEPLOYED)
    second = int(server.wait_line(IMPORTED, count=2)[1])
    assert mark.read_text().split() == [str(first), str(second)]
    assert {get(server.port, "/release").body for _ in range(10)} == {b"42"}
    wait_for(lambda: not alive(first))
    assert status_of(home)["fork_servers"] == [
        {"pid": second, "application": str(home.path / "42"), "workers": 2, "state": "ready"}
    ]
    assert f"fork server  process {second}: 2 workers, {home.path / '42'}" in graceful(home, "status").stdout


def test_nobody_notices_deploys_with_preload(home: Home) -> None:
    """Under five kinds of clients, workers are forked again and again, and nobody is ever refused."""
    options = ("--workers", "2", "--preload", "--idle-grace", "1", "--threads", "30", "--spool", str(home.spool))
    with Server(home, *options) as server, Load(server.port) as load:
        load.mark()
        for count in range(1, 4):
            server.send_signal(signal.SIGHUP)
            server.wait_line(DEPLOYED, count=count, timeout=30)
            load.mark()
        load.stop().check()


def test_an_asgi_application_is_forked(home: Home, stack: ExitStack) -> None:
    """Its loop, its lifespan and its WebSockets are each worker's own."""
    server = stack.enter_context(Server(home, *PRELOAD, application="asgi_starlette:app"))
    server.wait_line(IMPORTED)
    assert sorted(children_of(fork_server(home))) == sorted(workers(home))
    assert get(server.port, "/").status == 200
    server.send_signal(signal.SIGHUP)
    server.wait_line(DEPLOYED, timeout=30)
    assert get(server.port, "/").status == 200


def test_hooks_of_the_application_run_in_workers(home: Home, stack: ExitStack) -> None:
    """What it registers with atexit at its import runs at the end of each worker, and not in the fork server."""
    releases, mark = Releases(home), home.path / "mark"
    text = f"import atexit, os\natexit.register(lambda: open({str(mark)!r}, 'a').write(f'{{os.getpid()}}\\n'))\n"
    releases.make("41", text + RELEASE % "41")
    server = stack.enter_context(served(home, releases))
    served_by = workers(home)
    server.terminate()
    assert server.wait() == 0
    assert sorted(map(int, mark.read_text().split())) == sorted(served_by)


# -- applications that cannot be forked, or not imported ---------------------------------------------------


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (r"1 thread \(poller\)", "import threading as t, time\n"
         "t.Thread(None, time.sleep, 'poller', [600], daemon=True).start()\n"),
        ("a connection to 127.0.0.1, port ", "import socket\nlistening = socket.create_server(('127.0.0.1', 0))\n"
         "connection = socket.create_connection(listening.getsockname())\n"),
        ("an open SQLite database", "import sqlite3\nDB = sqlite3.connect('site.sqlite')\n"
         "DB.execute('create table if not exists a(b)')\n"),
        ("Twisted's reactor", "from twisted.internet import reactor\n"),
    ],
    ids=["thread", "connection", "database", "reactor"],
)  # fmt: skip
def test_an_application_that_cannot_be_forked_is_served(home: Home, stack: ExitStack, what: str, text: str) -> None:
    """One line says what its import leaves behind, and each worker imports it."""
    releases = Releases(home)
    releases.make("41", text + RELEASE % "41")
    server = stack.enter_context(served(home, releases))
    server.wait_line(f"no preload: its import leaves behind .*{what}.*; {EACH}")
    assert get(server.port, "/release").body == b"41"
    assert status_of(home)["fork_servers"] == []
    assert sorted(children_of(server.pid)) == sorted(workers(home))


def test_a_random_generator_is_told_of(home: Home, stack: ExitStack) -> None:
    """It is forked with its state; that of the module is not."""
    releases = Releases(home)
    releases.make("41", "import random\nDICE = random.Random()\n" + RELEASE % "41")
    server = stack.enter_context(served(home, releases))
    server.wait_line("preload: 1 random.Random made at import gives the same numbers in each worker")


def test_a_start_with_a_broken_import_fails(home: Home) -> None:
    """In one line, as without --preload."""
    releases = Releases(home)
    releases.make("broken", "raise RuntimeError('no database here')")
    with served(home, releases, wait_open=False) as server:
        assert server.wait() == 1
        said = [line for line in str(server.log).splitlines() if "no database here" in line]
        assert len(said) == 1 and "graceful: release cannot be imported: RuntimeError: no database here" in said[0]


def test_a_deploy_of_a_broken_release_changes_nothing(home: Home, stack: ExitStack) -> None:
    """One that cannot be imported, or that hangs; and a stop in the middle of an import ends it."""
    releases = Releases(home)
    releases.make("41")
    server = stack.enter_context(served(home, releases, "--takeover-timeout", "8"))
    before = workers(home)
    deploy_broken(releases, server)
    with Gate(home.path / "gate") as gate:
        releases.make("hangs", f"open({str(gate.path)!r}).read()")
        server.send_signal(signal.SIGHUP)
        gate.wait_reached()
        server.wait_line("no deploy: it has not been imported within 8 s; the old release serves on")
    assert workers(home) == before
    releases.make("42")
    server.send_signal(signal.SIGHUP)
    server.wait_line(DEPLOYED, timeout=30)
    with Gate(home.path / "gate2") as gate:
        releases.make("stopped", f"open({str(gate.path)!r}).read()")
        server.send_signal(signal.SIGHUP)
        gate.wait_reached()
        everything = descendants_of(server.pid)
        server.terminate()
        assert server.wait() == 0
        wait_for(lambda: not [pid for pid in everything if alive(pid)])


# -- a fork server in trouble ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_lost_fork_server_costs_memory_only(home: Home, stack: ExitStack, how: str) -> None:
    """Its workers serve on, crashed ones come back, a deploy makes another one, and a stop is clean."""
    releases = Releases(home)
    releases.make("41")
    server = stack.enter_context(served(home, releases))
    lost, (one, other) = fork_server(home), workers(home)
    if how == "killed":
        os.kill(lost, signal.SIGKILL)
        server.wait_line("the fork server, process .*, is lost: it has ended with signal 9; until the next deploy")
    else:
        pause(lost)
    home.disturbed = True
    os.kill(one, signal.SIGKILL)
    wait_for(lambda: len(workers(home)) == 2 and one not in workers(home), 30)
    assert other in workers(home)
    assert {get(server.port, "/release").body for _ in range(10)} == {b"41"}
    releases.make("42")
    server.send_signal(signal.SIGHUP)
    server.wait_line(DEPLOYED, timeout=30)
    wait_for(lambda: not alive(lost) and not alive(other))
    assert sorted(children_of(fork_server(home))) == sorted(workers(home))
    server.terminate()
    assert server.wait() == 0


def test_a_worker_that_crashes_is_forked_again(home: Home, stack: ExitStack) -> None:
    """Its exit status is known, and what it had in flight is reported."""
    releases = Releases(home)
    releases.make("41")
    server = stack.enter_context(served(home, releases))
    one, other = workers(home)
    os.kill(one, signal.SIGKILL)
    home.disturbed = True
    server.wait_line(rf"worker 1, process {one}, has ended: signal 9")
    server.wait_line(r"worker 1, process \d+, accepts", count=2)
    assert other in workers(home)
    assert sorted(children_of(fork_server(home))) == sorted(workers(home))


def test_a_takedown_in_a_forked_worker_is_in_the_status(home: Home, stack: ExitStack) -> None:
    """A stuck request is taken down at the deadline, reported, and the exit status says so."""
    server = stack.enter_context(Server(home, *PRELOAD, "--deadline", "1"))
    gate = stack.enter_context(Gate(home.path / "gate"))
    stuck = stack.enter_context(Connection(server.port))
    stuck.send(request(gate.target()))
    gate.wait_reached()
    server.terminate()
    assert stuck.answer().status == 503
    gate.open()
    assert server.wait() == 70


@pytest.mark.parametrize("victim", ["supervisor", "all"])
def test_nothing_outlives_a_killed_supervisor(home: Home, stack: ExitStack, victim: str) -> None:
    """The fork server ends, and the workers drain; a SIGTERM to all processes at once is an ordinary stop."""
    server = stack.enter_context(Server(home, *PRELOAD))
    everything = descendants_of(server.pid)
    assert len(everything) == 3
    if victim == "supervisor":
        os.kill(server.pid, signal.SIGKILL)
        home.disturbed = True
        server.tracebacks = None
    else:
        for pid in [*everything, server.pid]:
            os.kill(pid, signal.SIGTERM)
    assert server.wait() == (-signal.SIGKILL if victim == "supervisor" else 0)
    wait_for(lambda: not [pid for pid in everything if alive(pid)])


def test_workers_come_and_go_with_preload(home: Home, stack: ExitStack) -> None:
    """`graceful workers`, and recycling after a number of requests, fork them."""
    server = stack.enter_context(Server(home, *PRELOAD, "--max-requests", "20"))
    assert graceful(home, "workers", "3").returncode == 0
    wait_for(lambda: len(workers(home)) == 3)
    seen: set[int] = set()
    until = time.monotonic() + 30
    with Connection(server.port) as client:
        while len(seen) < 6 and time.monotonic() < until:
            seen.add(int(client.get("/pid").body))
    assert len(seen) >= 6
    assert graceful(home, "workers", "1").returncode == 0
    wait_for(lambda: len(children_of(fork_server(home))) == 1)
    assert int(get(server.port, "/pid").body) in children_of(fork_server(home))


# -- other ways to start ----------------------------------------------------------------------------------


def test_a_takeover_between_preloaded_instances(home: Home, stack: ExitStack) -> None:
    """Connections move from the workers of one fork server to those of another, and nothing of the old one stays."""
    old = stack.enter_context(Server(home, *PRELOAD))
    client = stack.enter_context(Connection(old.port))
    assert int(client.get("/pid").body) in workers(home)
    everything = descendants_of(old.pid)
    listen = [f"tcp:{old.port}:interface=127.0.0.1"]
    new = stack.enter_context(Server(home, *PRELOAD, "--takeover", listen=listen))
    new.wait_line(r"took over from process \d+")
    assert old.wait() == 0
    wait_for(lambda: not [pid for pid in everything if alive(pid)])
    assert int(client.get("/pid").body) in children_of(fork_server(home))


def test_an_edit_is_forked_with_reload(home: Home, stack: ExitStack) -> None:
    """Broken code is shown with its stack while the former goes on."""
    site = home.path / "edited.py"
    site.write_text(RELEASE % "first")
    environment = {"PYTHONPATH": f"{home.path}:{Path(__file__).parent.parent / 'apps'}"}
    options = ("--preload", "--reload", "--idle-grace", "0.5")
    server = stack.enter_context(Server(home, *options, application="edited", environment=environment))
    server.tracebacks = 1
    for text, shown in (("second", b"second"), ("third", b"third")):
        edit(site, RELEASE % text)
        wait_for(lambda shown=shown: get(server.port, "/release").body == shown)  # type: ignore[misc]
    edit(site, "TEXT = broken\n")
    server.wait_line("no deploy: .*name 'broken' is not defined.*the old release serves on")
    message = b"NameError: name &#x27;broken&#x27; is not defined"
    wait_for(lambda: message in get(server.port, "/", "Accept: text/html").body)  # the workers are told afterwards
    assert get(server.port, "/release").body == b"third"


def test_preload_needs_workers(home: Home) -> None:
    """One line, and no start."""
    with Server(home, "--preload", wait_open=False) as server:
        assert server.wait() == 2
        assert "--preload is for workers: give --workers 2, or more" in str(server.log)
