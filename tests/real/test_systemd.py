"""The units of examples/ and docs/ under a real systemd, which is process 1 of a machine of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.support.clients import Connection, get, request
from tests.support.docs_blocks import by_name
from tests.support.gate import Gate
from tests.support.load import Load
from tests.support.machine import SITE, Machine
from tests.support.waiting import wait_for

EXAMPLES: Final = Path(__file__).parent.parent.parent / "examples" / "systemd"
UNITS: Final = Path("/etc/systemd/system")
#: An environment variable that skips these tests where no machine can be booted.
WITHOUT: Final = "GRACEFUL_TEST_WITHOUT_SYSTEMD"
#: Seconds that systemd and a server may take for anything, on a machine under load.
LONG: Final = 40.0
SINGLE: Final = "graceful-app"
CONTROL: Final = "/run/graceful-app/graceful.sock"
#: What makes the example's unit quick: it waits for no balancer, and for no client that might use its connection.
QUICK: Final = ("--lame-duck 5", "--idle-grace 0.2 --deadline 20")
#: The application: a request may also wait for a program that it has started.
WSGI: Final = f"""
import subprocess
from basic import application as basic

def application(environ, start_response):
    if environ["PATH_INFO"] != "/child":
        return basic(environ, start_response)
    ended = subprocess.run(["cat", "{SITE}/gate"], stdout=subprocess.DEVNULL)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(ended.returncode).encode()]
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine with the examples' units as they are."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    if os.environ.get(WITHOUT):
        pytest.skip(f"{WITHOUT} is set")
    with Machine() as machine:
        machine.path(UNITS / "x").parent.mkdir(exist_ok=True)
        for unit in EXAMPLES.glob("*.service"):
            shutil.copy(unit, machine.path(UNITS / unit.name))
        machine.path(SITE / "mysite/wsgi.py").write_text(WSGI)
        machine.run("systemctl", "daemon-reload")
        yield machine


@contextmanager
def running(machine: Machine, unit: str = SINGLE, *lines: str, quick: bool = True) -> Iterator[None]:
    """A unit that runs, and is stopped; with a drop-in that changes some of its lines."""
    file = re.sub("@.*", "@", unit) + ".service"
    text = machine.path(UNITS / file).read_text()
    changes = list(lines)
    if quick:
        changes.append("RestartSec=0.1")
        (command,) = re.findall(r"^ExecStart=((?:.*\\\n)*.*)$", text, re.MULTILINE)
        changes += ["ExecStart=", f"ExecStart={command.replace(*QUICK)}"]
    drop_in = machine.path(UNITS / f"{unit}.service.d" / "test.conf")
    drop_in.write_text("\n".join(["[Service]", *changes, ""]))
    machine.run("systemctl", "daemon-reload")
    try:
        machine.run("systemctl", "start", unit)
        yield
    except BaseException:
        print("\n".join(machine.journal(unit)[-60:]))
        raise
    finally:
        machine.try_run("systemctl", "kill", "--signal=KILL", unit)
        machine.try_run("systemctl", "stop", unit)
        machine.try_run("systemctl", "reset-failed", unit)
        drop_in.unlink()


@contextmanager
def at_gate(machine: Machine, port: int = 8080, path: str = "/gate") -> Iterator[tuple[Connection, Gate]]:
    """A request that the application works at until the gate opens."""
    with Gate(machine.path(SITE / "gate")) as gate, machine.network(), Connection(port, timeout=LONG) as client:
        client.send(request(f"{path}?path={SITE}/gate"))
        gate.wait_reached()
        yield client, gate


def reload(machine: Machine, unit: str = SINGLE, gone: bool = True) -> int:
    """Deploy by `systemctl reload`; return the new main process, when the one before is gone."""
    old = machine.main(unit)
    machine.run("systemctl", "reload", unit)
    wait_for(lambda: machine.main(unit) not in (0, old), LONG)
    if gone:
        wait_for(lambda: not lives(machine, old), LONG)
    return machine.main(unit)


def lives(machine: Machine, pid: int) -> bool:
    """Whether a process of the machine is there."""
    return machine.try_run("test", "-e", f"/proc/{pid}").returncode == 0


def says(machine: Machine, pid: int, text: str) -> bool:
    """Whether a process of the unit has logged a text."""
    return any(text in line for line in machine.journal(SINGLE, f"_PID={pid}"))


def pid_of(machine: Machine, port: int = 8080) -> int:
    """Which process answers, by its number in the machine."""
    with machine.network():
        return int(get(port, "/pid").body)


def finishes(machine: Machine, order: str, unit: str = SINGLE, port: int = 8080) -> None:
    """A request that is running when systemd is told to stop a unit is finished, and waited for."""
    with at_gate(machine, port) as (client, gate):
        pid = machine.main(unit)
        with machine.begin("systemctl", order, unit) as told:
            wait_for(lambda: any("closed (pid" in line for line in machine.journal(unit, f"_PID={pid}")), LONG)
            assert lives(machine, pid)
            assert told.poll() is None
            gate.open()
            assert client.answer().status == 200
            client.end()
            assert told.wait(LONG) == 0
    assert "drained in" in "\n".join(machine.journal(unit, f"_PID={pid}"))
    assert machine.shows(unit, "Result") == "success"


def test_no_request_is_lost_in_several_reloads_and_the_stop_after_them(machine: Machine) -> None:
    """The example's unit, literally: nothing is lost in three deploys, and the stop waits for a slow request."""
    with running(machine, quick=False):
        with machine.network(), Load(8080) as load:
            load.mark()
            seen = {machine.main(SINGLE)}
            for _ in range(3):
                seen.add(reload(machine, gone=False))
                load.mark()
            main = machine.main(SINGLE)
            wait_for(lambda: not any(lives(machine, pid) for pid in seen - {main}), LONG)
            load.stop().check()
        assert len(seen) == 4
        assert pid_of(machine) == main
        assert machine.shows(SINGLE, "StatusText") == "serving"
        finishes(machine, "stop")
        said = "\n".join(machine.journal(SINGLE))
        assert "not our child" not in said
        assert "SIGKILL" not in said
        assert machine.shows(SINGLE, "ActiveState") == "inactive"


@pytest.mark.parametrize("lines", [(), ("ExecStop=",)], ids=["the example", "without ExecStop"])
def test_restart_after_reloads_waits_for_a_slow_request(machine: Machine, lines: tuple[str, ...]) -> None:
    """After two deploys, `systemctl restart` finishes what is in flight, too, and starts again.

    Without `ExecStop=` it is systemd that signals, and waits only for a main process that is a child of its own.
    """
    with running(machine, SINGLE, *lines):
        before = {machine.main(SINGLE), reload(machine), reload(machine)}
        finishes(machine, "restart")
        assert pid_of(machine) == machine.main(SINGLE) not in before


def test_a_crash_after_a_reload_is_noticed(machine: Machine) -> None:
    """systemd starts the unit again when the main process is killed, though another process has started that."""
    with running(machine, SINGLE, "WatchdogSec=0"):
        killed = reload(machine)
        machine.run("kill", "-KILL", str(killed))
        wait_for(lambda: machine.main(SINGLE) not in (0, killed), LONG)
        assert machine.shows(SINGLE, "NRestarts") == "1"
        wait_for(lambda: machine.shows(SINGLE, "ActiveState") == "active", LONG)
        assert pid_of(machine) == machine.main(SINGLE)


def test_a_crash_while_a_predecessor_drains_is_noticed_at_once(machine: Machine) -> None:
    """The predecessor says that no process serves, finishes its request, and then the unit starts again."""
    with running(machine, SINGLE, "WatchdogSec=0"):
        with at_gate(machine) as (client, gate):
            old = machine.main(SINGLE)
            killed = reload(machine, gone=False)
            machine.run("kill", "-KILL", str(killed))
            crashed = f"the successor, process {killed}, has crashed: no process answers at {CONTROL}"
            wait_for(lambda: any(crashed in line for line in machine.journal(SINGLE, f"_PID={old}")), LONG)
            wait_for(
                lambda: any("Main process exited, code=killed" in line for line in machine.journal(SINGLE)), LONG
            )
            assert lives(machine, old)
            gate.open()
            assert client.answer().status == 200
            client.end()
        wait_for(lambda: machine.shows(SINGLE, "ActiveState") == "active", LONG)
        assert machine.shows(SINGLE, "NRestarts") == "1"
        assert pid_of(machine) == machine.main(SINGLE) not in (old, killed)


def test_a_stuck_event_loop_is_noticed_while_a_predecessor_drains(machine: Machine) -> None:
    """Without signs of life the watchdog ends the main process, whatever its predecessor says of its own drain."""
    with running(machine, SINGLE, "WatchdogSec=2", "TimeoutAbortSec=1"), at_gate(machine):
        stopped = reload(machine, gone=False)
        machine.run("kill", "-STOP", str(stopped))
        wait_for(lambda: any("Watchdog timeout" in line for line in machine.journal(SINGLE)))
        wait_for(lambda: machine.main(SINGLE) not in (0, stopped), LONG)
        wait_for(lambda: machine.shows(SINGLE, "ActiveState") == "active", LONG)


def test_a_stop_that_takes_requests_down_is_no_failure(machine: Machine) -> None:
    """A request that is stuck beyond the deadline is taken down; the unit has not failed, and stays down.

    systemd keeps the exit status of a unit that is enabled.
    """
    machine.run("systemctl", "add-wants", "test.target", SINGLE)
    with running(machine):
        pid = machine.main(SINGLE)
        with at_gate(machine) as (client, _):
            machine.run("graceful", "stop", "--control", CONTROL, "--deadline", "1")
            assert client.answer().status == 503
            wait_for(lambda: machine.shows(SINGLE, "ActiveState") == "inactive", LONG)
        assert machine.shows(SINGLE, "Result") == "success"
        assert machine.shows(SINGLE, "NRestarts") == "0"
        assert machine.shows(SINGLE, "ExecMainStatus") in ("70", "71")
        assert re.search(r"drained in .* 0 finished, 1 taken down", "\n".join(machine.journal(SINGLE, f"_PID={pid}")))


def test_sockets_from_systemd_refuse_no_client(machine: Machine) -> None:
    """The documentation's units: the first client starts the service; restarts and deploys refuse none."""
    for file, blocks in (("site.service", ("unit", "socket-service")), ("site.socket", ("socket-unit",))):
        machine.path(UNITS / file).write_text(unit_of(*blocks))
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "site.socket")
    try:
        assert machine.main("site") == 0
        first = pid_of(machine)
        assert first == machine.main("site")
        with machine.network(), Load(8080) as load:
            load.mark()
            machine.run("systemctl", "restart", "site", timeout=120)
            load.mark()
            load.stop().check()
        assert machine.main("site") not in (0, first)
        finishes(machine, "restart", "site")
    finally:
        machine.try_run("systemctl", "stop", "site.socket", "site.service", timeout=120)
        for file in ("site.service", "site.socket"):
            machine.path(UNITS / file).unlink()


def unit_of(*blocks: str) -> str:
    """Return blocks of the documentation as one unit: a later line replaces an earlier one, section by section."""
    sections: dict[str, dict[str, str]] = {}
    for block in blocks:
        section: dict[str, str] = {}
        for line in by_name()[block].text.replace("\\\n", " ").splitlines():
            if line.startswith("["):
                section = sections.setdefault(line, {})
            elif "=" in line:
                name, _, value = line.partition("=")
                section[name] = value
    return "".join(
        f"{name}\n" + "".join(f"{key}={value}\n" for key, value in section.items())
        for name, section in sections.items()
    )


def test_a_stop_spares_programs_that_requests_have_started(machine: Machine) -> None:
    """A request that waits for a program at the stop gets that program's result."""
    with (
        running(machine),
        at_gate(machine, path="/child") as (client, gate),
        machine.begin("systemctl", "stop", SINGLE) as told,
    ):
        wait_for(lambda: any("closed (pid" in line for line in machine.journal(SINGLE)[-20:]), LONG)
        gate.open()
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b"0")
        client.end()
        assert told.wait(LONG) == 0


def test_the_journal_knows_what_is_an_error(machine: Machine) -> None:
    """A traceback and `no deploy: …` have the priority of errors, in every line; the rest is informational."""
    with running(machine):
        with machine.network():
            assert get(8080, "/fail").status == 500
        broken = machine.path(SITE / "mysite/wsgi.py")
        broken.write_text("import nowhere\n")
        try:
            machine.run("systemctl", "reload", SINGLE)
            wait_for(lambda: any("no takeover" in line for line in machine.journal(SINGLE, "--priority=err")), LONG)
        finally:
            broken.write_text(WSGI)
        errors = machine.journal(SINGLE, "--priority=err")
        assert any("Traceback" in line for line in errors)
        assert any(line.strip().startswith("File ") for line in errors)
        assert any(line.startswith("graceful: mysite.wsgi cannot be imported") for line in errors)
        assert not [line for line in errors if "#info]" in line or line.startswith("<")]
        opened = "[graceful#info] socket tcp:0.0.0.0:8080 open"  # the journal has the time
        assert any(line.startswith(opened) for line in machine.journal(SINGLE, "--priority=info"))


def test_a_rotation_of_the_logs_reaches_a_predecessor(machine: Machine) -> None:
    """The documented command signals the main process, which passes it on; a request's program is left alone."""
    with running(machine), at_gate(machine, path="/child") as (client, gate):
        old = machine.main(SINGLE)
        new = reload(machine, gone=False)
        wait_for(partial(says, machine, old, "closed (pid"), LONG)
        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=USR1", SINGLE)
        for pid in (new, old):
            wait_for(partial(says, machine, pid, "log files opened anew"), LONG)
        gate.open()
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b"0")


#: How much `systemd-analyze security` may find that a unit could do without, of 10.
EXPOSED: Final = 2.0


@pytest.mark.parametrize("unit", [SINGLE, "graceful-app@8001"])
def test_units_are_hardened(machine: Machine, unit: str) -> None:
    """systemd's own rating of the units, which the other tests have serve, reload, and stop."""
    said = machine.try_run("systemd-analyze", "security", "--no-pager", unit).stdout
    rated = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert rated is not None, said
    assert float(rated[1]) <= EXPOSED, said


def test_template_and_graceful_deploy(machine: Machine) -> None:
    """`graceful deploy` with the example's file deploys two instances, without loss; a stop then waits."""
    units = [f"graceful-app@{port}" for port in (8001, 8002)]
    shutil.copy(EXAMPLES / "deploy.toml", machine.path("/etc/graceful-app/deploy.toml"))
    with running(machine, units[0], quick=False), running(machine, units[1], quick=False):
        before = [machine.main(unit) for unit in units]
        with machine.network(), Load(8001) as load:
            load.mark()
            said = machine.run("graceful", "deploy", "/etc/graceful-app/deploy.toml", "--json", timeout=120)
            load.mark()
            load.stop().check()
        verdict = json.loads(said.splitlines()[-1])
        assert (verdict["result"], verdict["taken_down"]) == ("deployed", 0)
        after = [machine.main(unit) for unit in units]
        assert [instance["pid"] for instance in verdict["instances"]] == after
        assert not set(after) & set(before)
        finishes(machine, "stop", units[0], 8001)
        assert pid_of(machine, 8002) == after[1]


def test_a_predecessor_has_the_time_that_it_needs(machine: Machine) -> None:
    """A stop waits for a predecessor's request longer than TimeoutStopSec, when the main process is long gone."""
    limit = 3
    with running(machine, SINGLE, f"TimeoutStopSec={limit}"):
        with at_gate(machine) as (client, gate):
            old = machine.main(SINGLE)
            new = reload(machine, gone=False)
            with machine.begin("systemctl", "stop", SINGLE) as told:
                began = time.monotonic()
                wait_for(lambda: not lives(machine, new), LONG)
                wait_for(lambda: time.monotonic() > began + limit + 1, LONG)
                assert lives(machine, old)
                gate.open()
                assert client.answer().status == 200
                client.end()
                assert told.wait(LONG) == 0
        assert machine.shows(SINGLE, "Result") == "success"
