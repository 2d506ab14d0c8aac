"""The control socket and the `graceful` command: what is in flight is seen, orders are obeyed, to the very end."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clients import Connection, ask, get, request
from tests.support.command import graceful, start_graceful, status_of, told_status
from tests.support.gate import Gate
from tests.support.home import UNPRIVILEGED, Home
from tests.support.log import Log
from tests.support.ports import free_port
from tests.support.server import KEEPS_READING, Server
from tests.support.waiting import wait_for

FAST = ("--idle-grace", "0.2")
OTHER = 65533
STATUS = ("--status-listen", "tcp:0:interface=127.0.0.1")


@pytest.fixture
def gate(home: Home) -> Iterator[Gate]:
    """Where a request waits until the test lets it go."""
    with Gate(home.path / "gate") as gate:
        yield gate


def test_what_is_in_flight(home: Home, gate: Gate) -> None:
    """The status shows each request with its thread, its age and its path, but not its query; and what is idle."""
    with (
        Server(home, *FAST, "--app-version", "r42") as server,
        Connection(server.port) as busy,
        Connection(server.port) as idle,
    ):
        assert idle.get("/").status == 200
        busy.send(request(gate.target()))
        gate.wait_reached()
        status = told_status(home)
        (exchange,) = status["in_flight"]
        assert (exchange["method"], exchange["path"], exchange["phase"]) == ("GET", "/gate", "in the application")
        assert exchange["thread"].startswith("graceful-")
        assert (exchange["bytes_sent"], exchange["bytes_total"], exchange["peer"]) == (0, None, "127.0.0.1")
        assert (status["pid"], status["state"], status["deadline"]) == (server.pid, "serving", None)
        assert status["sockets"] == [{"name": f"tcp:127.0.0.1:{server.port}", "state": "open"}]
        assert status["threads"] == {"busy": 1, "size": 20, "queued": 0}
        assert status["connections"] == {"idle": 1, "busy": 1}
        assert (status["finished"], status["taken_down"], status["latest_exit"]) == (1, 0, 212)
        assert (status["app_version"], status["rotation"], status["draining"]) == ("r42", "in", [])
        text = graceful(home, "status").stdout
        assert "GET /gate" in text
        assert "version r42" in text
        with control(home) as client:
            client.send(request("/exchanges"))
            assert "fifo.read()" in json.loads(client.answer().body)[0]["stack"]
        gate.open()
        assert busy.answer().status == 200


def control(home: Home, name: str = "graceful.sock") -> Connection:
    """A connection to a control socket."""
    return Connection(str(home.run / name))


def test_leave_and_enter(home: Home) -> None:
    """Health follows the orders, any number of them; everything is served all the time."""
    with Server(home, *FAST, "--app-version", "7", "--going-down-status", "404") as server:

        def health() -> tuple[int, bytes]:
            answer = get(server.port, "/+haproxy")
            return answer.status, answer.body

        assert health() == (200, b"serving, version 7\n")
        for _ in range(2):
            assert graceful(home, "leave").returncode == 0
            assert health() == (404, b"away, version 7\n")
            assert told_status(home)["rotation"] == "away"
            assert get(server.port).status == 200
        for _ in range(2):
            assert graceful(home, "enter").returncode == 0
            assert health() == (200, b"serving, version 7\n")
        with Connection(server.port) as client:
            client.send(request("/+haproxy", method="HEAD"))
            assert client.answer("HEAD").status == 200
            client.send(request("/+haproxy?x=1"))
            assert client.answer().status == 200
            client.send(request("/+haproxyish"))
            assert client.answer().status == 404


def test_health_with_every_thread_stuck(home: Home, gate: Gate) -> None:
    """Health and status are told while all threads are busy and the queue is full."""
    options = (
        "--threads",
        "1",
        "--queue",
        "1",
        "--health-path",
        "/ok",
        "--status-listen",
        "tcp:0:interface=127.0.0.1",
    )
    with Server(home, *FAST, *options) as server, Connection(server.port) as one, Connection(server.port) as two:
        one.send(request(gate.target()))
        gate.wait_reached()
        two.send(request("/"))
        wait_for(lambda: status_of(home)["threads"]["queued"] == 1)
        assert get(server.port, "/").status == 503
        assert get(server.port, "/ok").status == 200
        assert get(status_port(server), "/ok").status == 200
        gate.open()
        assert (one.answer().status, two.answer().status) == (200, 200)


def status_port(server: Server) -> int:
    """Where its status page is."""
    return int(server.wait_line(r"status page at http://127\.0\.0\.1:(\d+)/")[1])


def test_stop_and_wait(home: Home, gate: Gate) -> None:
    """`stop --wait closed` returns while requests are finished; `--wait gone` with the server's own status, and then
    the process is gone.  Every step is seen on the way."""
    with Server(home, *FAST, "--deadline", "100") as server, Connection(server.port) as client:
        client.send(request(gate.target()))
        gate.wait_reached()
        waiting = start_graceful(home, "wait", "gone")
        wait_for(lambda: waiters(home) == 1)
        assert graceful(home, "stop", "--wait", "closed").returncode == 0
        assert server.log.find_all("closed")
        status = told_status(home)
        assert (status["state"], status["sockets"][0]["state"]) == ("finishing", "closed")
        assert 90 < status["deadline"] <= 100
        assert 100 < status["latest_exit"] <= 112
        assert [state["state"] for state in status["states"]][-3:] == ["lame-duck", "closing", "finishing"]
        assert graceful(home, "wait", "closed").returncode == 0
        last = start_graceful(home, "stop", "--wait", "gone")
        gate.open()
        assert client.answer().status == 200
        client.end()
        assert (last.wait(10), waiting.wait(10)) == (0, 0)
        assert not os.path.exists(f"/proc/{server.pid}/exe") or server.wait() == 0
        assert server.wait() == 0


def waiters(home: Home) -> int:
    """How many clients of the control socket there are, beside the one that asks."""
    # They are shown with the path that was bound, before it was given the other name.
    return Path("/proc/net/unix").read_text().count(f"{home.run}/graceful.sock.") - 1  # the listening one


@pytest.mark.parametrize(("target", "status", "threads"), [("half", 70, 0), ("gate", 71, 1)])
def test_the_servers_own_exit_status(home: Home, gate: Gate, target: str, status: int, threads: int) -> None:
    """A drain that took something down, or abandoned a thread, is what `stop --wait gone` ends with."""
    with Server(home, *FAST) as server, Connection(server.port, receive_buffer=4096) as client:
        if target == "gate":
            client.send(request(gate.target()))
            gate.wait_reached()
        else:
            client.send(request("/big?bytes=100000000"))
            wait_for(lambda: any(one["bytes_sent"] for one in status_of(home)["in_flight"]))
        stopped = graceful(home, "stop", "--deadline", "0.2", "--wait", "gone")
        assert (stopped.returncode, stopped.stderr) == (status, "")
        assert server.wait() == status
        assert server.drained()[1:] == (1, threads)
        gate.open()


def test_a_killed_server_has_no_verdict(home: Home, gate: Gate) -> None:
    """A server that is killed has no last word, which is neither success nor a verdict."""
    with Server(home) as server, Connection(server.port) as client:
        client.send(request(gate.target()))
        gate.wait_reached()
        stopping = start_graceful(home, "stop", "--wait", "gone")
        server.wait_closed()
        server.kill()
        said, _ = stopping.communicate(timeout=10)
        assert stopping.returncode == 72
        assert "without a last word" in said
        gate.open()
        # What it has left behind is no server.
        assert graceful(home, "stop", "--wait", "gone").returncode == 0
        told = graceful(home, "status")
        assert (told.returncode, told.stdout, told.stderr.count("\n")) == (2, "", 1)
        server.status = 0


def test_stop_when_nothing_is_left(home: Home) -> None:
    """An order that ends the server at once is answered all the same."""
    with Server(home, *FAST) as server:
        assert graceful(home, "stop").returncode == 0
        assert server.wait() == 0
        assert graceful(home, "stop").returncode == 0
        assert graceful(home, "wait", "gone").returncode == 0


def test_with_a_quiet_balancer_idle_connections_do_not_hold_a_stop(home: Home) -> None:
    """With the balancer known to be quiet, idle connections do not hold a stop; without, they do."""
    with Server(home, "--idle-grace", "30") as server, Connection(server.port) as idle:
        assert idle.get("/").status == 200
        assert graceful(home, "stop", "--wait", "closed").returncode == 0
        assert server.stays(0.5)
        assert graceful(home, "stop", "--quiet", "--wait", "gone", timeout=10).returncode == 0
        idle.end()
        assert server.wait() == 0


def test_a_moved_deadline_counts_and_moves_the_last_limit(home: Home, gate: Gate) -> None:
    """A moved deadline is shown, and is the one that counts; the last limit moves along."""
    with Server(home, *FAST, "--deadline", "4") as server, Connection(server.port) as client:
        client.send(request(gate.target()))
        gate.wait_reached()
        assert graceful(home, "stop", "--wait", "closed").returncode == 0
        assert graceful(home, "extend", "97").returncode == 0
        status = told_status(home)
        assert 95 < status["deadline"] < 101
        assert 105 < status["latest_exit"] < 113
        assert server.stays(4.5)
        assert graceful(home, "extend", "-1000").returncode == 0
        assert server.wait() == 71
        gate.open()


def test_take_one_down(home: Home, gate: Gate) -> None:
    """One request is ended, with 503; the others, and the server, go on."""
    with Server(home, *FAST) as server, Connection(server.port) as victim, Connection(server.port) as other:
        victim.send(request(gate.target()))
        gate.wait_reached()
        assert other.get("/").status == 200
        number = told_status(home)["in_flight"][0]["id"]
        assert graceful(home, "takedown", str(number)).returncode == 0
        assert victim.answer().status == 503
        assert victim.get("/").status == 200  # its connection goes on, too
        assert other.get("/").status == 200
        assert told_status(home)["taken_down"] == 1
        again = graceful(home, "takedown", str(number))
        assert (again.returncode, again.stderr.count("\n")) == (1, 1)
        gate.open()
        server.wait_line("exchange .* by order")


def test_a_lame_duck_says_that_it_goes_down_and_serves(home: Home) -> None:
    """As a lame duck it says that it is going down, and serves whoever comes; then its sockets close."""
    with Server(home, *FAST, "--lame-duck", "60") as server:
        server.terminate()
        wait_for(lambda: get(server.port, "/+haproxy").status == 503)
        status = told_status(home)
        assert (status["state"], status["rotation"]) == ("lame-duck", "leaving")
        assert status["sockets"][0]["state"] == "open"
        assert 212 < status["latest_exit"] <= 272
        assert get(server.port, "/").status == 200
        assert graceful(home, "enter").returncode == 1
        assert not server.log.find_all(" closed ")
        # Whoever knows that the balancer sends nothing more need not wait.
        assert graceful(home, "stop", "--quiet", "--wait", "gone").returncode == 0
        assert server.wait() == 0
    with Server(home, *FAST, "--lame-duck", "0.5") as server:
        told = server.terminate()
        assert server.wait_closed() - told >= 0.5
        assert server.wait() == 0


def connected(path: Path) -> bool:
    """Whether somebody is connected to a Unix socket (proc(5): the state of an accepted one is 03)."""
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return any(fields[5] == "03" and fields[-1] == str(path) for fields in lines)


def test_two_in_one_directory(home: Home, gate: Gate) -> None:
    """A successor gets path, status port and all from one that still finishes something; both can be seen."""
    options = (*FAST, "--status-listen", "tcp:{}:interface=127.0.0.1")
    port, page = free_port(), free_port()
    given = [option.format(page) for option in options]
    with Server(home, *given, port=port) as first, Connection(first.port) as client:
        client.send(request(gate.target()))
        gate.wait_reached()
        first.terminate()
        first.wait_closed()
        with Server(home, *given, port=port) as second:
            status = told_status(home)
            assert (status["pid"], status["state"]) == (second.pid, "serving")
            assert [(one["pid"], one["state"]) for one in status["draining"]] == [(first.pid, "finishing")]
            assert json.loads(ask(page, request("/status", host="127.0.0.1")).body)["pid"] == second.pid
            assert graceful(home, "status").stdout.count("process ") == 2
            waiting = start_graceful(home, "wait", "gone")
            assert graceful(home, "wait", "closed").returncode == 0
            wait_for(lambda: connected(home.run / f"graceful.sock.{first.pid}"))
            assert len(told_status(home)["draining"]) == 1  # what was asked before has been read by now
            gate.open()
            assert client.answer().status == 200
            client.end()
            assert waiting.wait(10) == 0
            assert first.wait() == 0
            assert told_status(home)["draining"] == []


def test_the_path_is_taken(home: Home) -> None:
    """A path that was asked for and is in use refuses the start; one that is only usual is left to its owner."""
    with Server(home) as first:
        demanded = Server(home, "--control", "graceful.sock", twistd_options=["--pidfile="], wait_open=False)
        told = demanded.run()
        assert told.returncode != 0
        assert f"process {first.pid} answers at the control socket" in told.stdout
        with Server(home, twistd_options=["--pidfile="]) as second:
            second.wait_line(f"this server's is .*graceful.sock.{second.pid}")
            status = told_status(home)
            assert [status["pid"], *(one["pid"] for one in status["draining"])] == [first.pid, second.pid]
        assert told_status(home)["draining"] == []


def test_where_it_is(home: Home) -> None:
    """It is beside the pid file and called like it; or where one says; or nowhere."""
    with Server(home, twistd_options=[f"--pidfile={home.logs}/one.pid"]):
        assert stat.S_IMODE((home.logs / "one.sock").stat().st_mode) == 0o600
    with Server(home, "--control", "../logs/mine", "--control-mode", "660", "--control-group", "daemon"):
        told = (home.logs / "mine").stat()
        assert (stat.S_IMODE(told.st_mode), told.st_gid != os.getgid()) == (0o660, True)
        assert graceful(home, "status", "--control", str(home.logs / "mine")).returncode == 0
    with Server(home, "--control", ""):
        assert not (home.run / "graceful.sock").exists()
    assert not (home.logs / "mine").exists()


def test_a_stale_file_is_replaced(home: Home) -> None:
    """What a killed server has left is taken over."""
    with Server(home) as killed:
        killed.kill()
        killed.status = 0
    assert (home.run / "graceful.sock").exists()
    with Server(home) as server:
        assert told_status(home)["pid"] == server.pid


def test_only_root_and_the_servers_user_may_give_orders(home: Home) -> None:
    """After `--uid`, root and the server's own user may give orders, another may not; it cleans up what it may."""
    assert os.getuid() == 0, "only root can become another user"
    options = ["--uid", str(UNPRIVILEGED), "--gid", str(UNPRIVILEGED), "--umask", "022"]
    spool = home.path / "free"
    spool.mkdir()
    spool.chmod(0o777)
    with Server(home, *FAST, "--spool", str(spool), twistd_options=options, prefix=KEEPS_READING) as server:
        assert graceful(home, "status").returncode == 0
        assert graceful(home, "leave", uid=UNPRIVILEGED).returncode == 0
        for command in ("status", "stop", "enter"):
            told = graceful(home, command, uid=OTHER)
            assert (told.returncode, told.stdout, told.stderr.count("\n")) == (2, "", 1), told
            assert "permission denied" in told.stderr
        assert get(server.port).status == 200
        with Gate(home.path / "gate") as gate, Connection(server.port) as client:
            (home.path / "gate").chmod(0o666)
            client.send(request(gate.target()))
            gate.wait_reached()
            assert graceful(home, "stop", "--wait", "closed").returncode == 0
            # It may not rename its socket in root's directory: a successor, who may, does.
            root = [word.replace("+setuid", "+setuid,+dac_override") for word in KEEPS_READING]
            with Server(home, *FAST, "--spool", str(spool), twistd_options=options, prefix=root) as second:
                status = told_status(home)
                assert [status["pid"], *(one["pid"] for one in status["draining"])] == [second.pid, server.pid]
                gate.open()
                assert client.answer().status == 200
                client.end()
                assert server.wait() == 0
                second.terminate()
                second.wait()
    for left in home.run.iterdir():
        left.unlink()  # what neither of them could remove


@pytest.mark.parametrize("daemon", [False, True], ids=["foreground", "daemon"])
def test_nonsense_gets_a_clear_answer_and_the_server_goes_on(home: Home, daemon: bool) -> None:
    """What makes no sense gets a clear answer, and the server goes on; under a daemon as well."""
    with Server(home, daemon=daemon) as server, control(home) as client:
        wrong = [
            (request("/nowhere"), 404),
            (request("/exchanges/5"), 404),
            (request("/wait?for=godot"), 400),
            (request("/status?limit=x"), 400),
            (request("/status", method="DELETE"), 405),
            (request("/nonsense", method="POST"), 404),
            (request("/extend", method="POST", body=b"[" * 2000), 400),
            (request("/extend", method="POST", body=b'{"seconds": "1"}'), 400),
            (request("/extend", method="POST", body=b'{"seconds": NaN}'), 400),
            (request("/extend", method="POST", body=b'{"seconds": 1e300}'), 400),
            (request("/stop", method="POST", body=b'{"deadline": -1}'), 400),
            (request("/stop", method="POST", body=b'{"quiet": 3}'), 400),
            (request("/stop", method="POST", body=b'{"wait": "godot"}'), 400),
            (request("/stop", method="POST", body=b'{"wait": ["gone"]}'), 400),
            (request("/yield", method="POST"), 409),
            (request("/exchanges/x/takedown", method="POST"), 404),
        ]
        for asked, expected in wrong:
            client.send(asked)
            answer = client.answer()
            assert (answer.status, list(json.loads(answer.body))) == (expected, ["error"]), asked
        client.send(request("/status"))
        assert json.loads(client.answer().body)["state"] == "serving"
        with control(home) as large:
            large.send(request("/stop", method="POST", body=b"x" * 5000))
            assert large.answer().status == 413
        assert told_status(home)["pid"] == server.pid


def test_no_drain_waits_for_control(home: Home) -> None:
    """Clients of the control socket that say nothing, or wait for ever, are no reason to stay."""
    with Server(home) as server, control(home) as silent, socket.socket(socket.AF_UNIX) as listening:
        listening.connect(str(home.run / "graceful.sock"))
        listening.sendall(request("/events"))
        with listening.makefile("rb") as lines:
            assert any(line == b"event: status\n" for line in lines)
            told = server.terminate()
            assert server.wait() == 0
            assert time.monotonic() - told < 3
            assert b"event: gone\n" in list(lines)
        silent.end()


def test_among_other_services(home: Home) -> None:
    """A server in a .tac has a control socket if it is asked for; to stop it is to stop the process."""
    tac = home.run / "site.tac"
    tac.write_text(
        "from twisted.application.service import Application\n"
        "from graceful import AppServer, Settings, WSGIResource\n"
        "import basic\n"
        "application = Application('site')\n"
        "site = WSGIResource(None, None, basic.application)\n"
        "settings = Settings(listen='tcp:0:interface=127.0.0.1', control='mine.sock', idle_grace=0.2)\n"
        "AppServer(site, settings).setServiceParent(application)\n"
    )
    from tests.support.server import APPLICATIONS, PROGRAMS

    log = Log()
    process = subprocess.Popen(
        [str(PROGRAMS / "twistd"), "-n", "--pidfile=", "-y", str(tac)],
        cwd=home.run,
        env={**os.environ, "PYTHONPATH": str(APPLICATIONS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            log.add(line)
            if "control at" in line:
                break
        assert told_status(home, "--control", "mine.sock")["state"] == "serving"
        stopped = graceful(home, "stop", "--control", "mine.sock", "--wait", "gone")
        assert stopped.returncode == 0, stopped
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        tac.unlink()


def test_systemd_is_told_of_start_life_and_stop(home: Home, gate: Gate) -> None:
    """systemd hears READY when the sockets accept, signs of life, STOPPING, and how much longer it takes."""
    path = home.path / "notify"
    with ExitStack() as stack:
        manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        manager.bind(str(path))
        manager.settimeout(10)
        environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "1000000"}
        server = stack.enter_context(Server(home, *FAST, "--deadline", "50", environment=environment))
        client = stack.enter_context(Connection(server.port))

        def hear(word: str) -> dict[str, str]:
            while True:
                said = dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())
                if word in said:
                    return said

        ready = hear("READY")
        assert (ready["MAINPID"], ready["STATUS"]) == (str(server.pid), "serving")
        for _ in range(3):
            assert hear("WATCHDOG") == {"WATCHDOG": "1"}
        client.send(request(gate.target()))
        gate.wait_reached()
        server.terminate()
        stopping = hear("STOPPING")
        assert 60e6 < int(stopping["EXTEND_TIMEOUT_USEC"]) <= 67e6
        while not (told := hear("EXTEND_TIMEOUT_USEC")).get("STATUS", "").startswith("finishing"):
            pass
        assert told["STATUS"].startswith("finishing: 1 in flight, deadline in ")
        assert graceful(home, "extend", "100").returncode == 0
        while int(hear("EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) < 150e6:
            pass
        gate.open()
        assert client.answer().status == 200
        client.end()
        while not hear("STATUS")["STATUS"].startswith("gone: 1 finished"):
            pass
        assert server.wait() == 0


def test_every_line_of_the_json_log_is_an_object(home: Home) -> None:
    """Every line of the log is a JSON object, with the text that scripts match in it."""
    with Server(home, "--log-format", "json", "--control", "", daemon=True, wait_open=False) as server:
        server.wait_line("socket .* open")
        os.rename(server.log_file, f"{server.log_file}.1")
        server.send_signal(signal.SIGUSR1)
        wait_for(server.log_file.exists)
        server.terminate()
        assert server.wait() == 0
        lines = Path(f"{server.log_file}.1").read_text().splitlines() + server.log_file.read_text().splitlines()
        told = [json.loads(line)["log_text"] for line in lines]
        assert any(text.startswith("socket tcp:") and f"closed (pid {server.pid})" in text for text in told)
        assert any(text.startswith("drained in") for text in told)


def test_control_and_status_answer_when_no_descriptor_is_left(home: Home) -> None:
    """An application takes every descriptor that becomes free; `graceful` and the status port still answer."""
    with Server(home, *STATUS, application="hoarder:application", open_files=100) as server:
        match = server.wait_line(r"status page at http://127\.0\.0\.1:([0-9]+)/")
        assert get(server.port).status == 200
        wait_for(lambda: len(os.listdir(f"/proc/{server.pid}/fd")) >= 99)
        for _ in range(5):
            assert told_status(home)["state"] == "serving"
            for _ in range(100):
                with Connection(int(match[1])) as client:
                    client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    assert client.answer().status == 200
        assert graceful(home, "stop", "--wait", "gone").returncode == 0
        assert server.wait() == 0


def test_while_it_starts(home: Home, gate: Gate) -> None:
    """Who asks while the application is imported is told that it is starting, or answered when that is done."""
    environment = {"IMPORT_GATE": str(gate.path)}
    with Server(home, application="slow_import:application", environment=environment, wait_open=False) as server:
        gate.wait_reached()
        waiting = start_graceful(home, "wait", "gone")
        told = graceful(home, "status")
        assert (told.returncode, told.stdout, told.stderr.count("\n")) == (2, "", 1)
        assert f"process {server.pid} has not answered for 5 s: it is starting" in told.stderr
        gate.open()
        server.wait_open()
        assert told_status(home)["state"] == "serving"
        assert graceful(home, "stop", "--wait", "gone").returncode == 0
        assert waiting.wait(10) == 0
        assert server.wait() == 0
