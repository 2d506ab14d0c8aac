"""A real process takes over from another: nobody notices, whatever becomes of the new one."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from graceful.control.client import ControlClient, ControlRefused, Vanished
from graceful.control.discovery import beside
from graceful.takeover.predecessor import Predecessor
from tests.support.clients import Connection, Failure, request
from tests.support.command import graceful, status_of
from tests.support.gate import Gate
from tests.support.home import UNPRIVILEGED, Home
from tests.support.load import Load
from tests.support.ports import free_port
from tests.support.preload import library
from tests.support.processes import pause
from tests.support.quick import Quick
from tests.support.server import OPEN, PROGRAMS, UNPRIVILEGED_USER, Server, resident
from tests.support.tls import Certificate
from tests.support.waiting import wait_for

SHORT = ("--idle-grace", "0.5")
TOOK_OVER = r"took over from process (\d+)"
HANDED = r"process (\d+) has taken over"
OFFERED = r"process (\d+) gets the sockets"
FAILED = r"no takeover: process (\d+) (.*); this one serves on"
TURNS = 4
KILL_POINTS = 50
CHAIN = 20
ABORTED = 100
MIB = 1 << 20


def starting(old: Server, *options: str, **others: Any) -> Server:
    """A server that will take over from another, in its directory; not started yet."""
    if "listen" not in others:
        others["port"] = old.port
    return Server(old.home, "--takeover", *SHORT, *options, **others)


@contextmanager
def successor(old: Server, *options: str, **others: Any) -> Iterator[Server]:
    """A server that has taken over from another."""
    with starting(old, *options, **others) as server:
        server.wait_line(TOOK_OVER)
        if server.daemon:
            server.pid = server.daemon_pid()  # it is in the pid file only now
        yield server


@contextmanager
def importing(old: Server) -> Iterator[tuple[Server, Gate]]:
    """A successor that has only just begun to import its application, and where that waits."""
    path = old.home.path / "import"
    slow = starting(
        old, application="slow_import:application", environment={"IMPORT_GATE": str(path)}, wait_open=False
    )
    with Gate(path) as gate, slow:
        gate.wait_reached()
        yield slow, gate


def gone(old: Server) -> None:
    """The predecessor has ended well."""
    assert old.wait() == 0
    assert old.drained()[1:] == (0, 0)


def serves(server: Server) -> None:
    """A server serves, has its paths, and is ready to be taken over."""
    with Connection(server.port) as connection:
        answer = connection.get("/echo?still")
        assert answer.body == b"still"
        assert not answer.says_close
    status = status_of(server.home)
    assert (status["pid"], status["state"]) == (server.pid, "serving")
    assert (server.home.run / "twistd.pid").read_text() == f"{server.pid}\n"


# -- a takeover -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("daemon", [False, True], ids=["-n", "daemon"])
def test_the_next_one_gets_the_sockets(any_home: Home, daemon: bool) -> None:
    """The old one serves until the new one accepts, says so, and ends; pid file and control path change hands."""
    with Server(any_home, *SHORT, daemon=daemon) as old, Connection(old.port) as kept:
        assert kept.get("/echo?1").status == 200
        port = old.port
        with successor(old, daemon=daemon) as new:
            old.wait_line(rf"socket tcp:127.0.0.1:{port} handed to {new.pid}$")
            old.wait_line(rf"socket tcp:127.0.0.1:{port} closed \(pid {old.pid}\)")
            gone(old)
            moved = kept.get("/echo?2")
            assert (moved.body, moved.says_close) == (b"2", False)
            kept.close()
            serves(new)
            if daemon:  # both write into one file: it accepts, and then the old one lets go
                log = new.log_file.read_text()
                assert log.index(f"open (pid {new.pid})") < log.index(f"handed to {new.pid}\n")
            assert sorted(path.name for path in any_home.run.iterdir()) == ["graceful.sock", "twistd.pid"]
            stopped = graceful(any_home, "stop", "--wait", "gone")
            assert stopped.returncode == 0, stopped
            assert new.wait() == 0


def test_nobody_notices_takeovers(any_home: Home) -> None:
    """Under five kinds of clients, servers take over from each other, and nobody is ever refused."""
    options = ("--threads", "30", "--spool", str(any_home.spool))
    with ExitStack() as stack:
        server = stack.enter_context(Server(any_home, "--idle-grace", "1", *options))
        servers = [server]
        load = stack.enter_context(Load(server.port))
        for _ in range(TURNS):
            load.mark()
            server = stack.enter_context(starting(servers[0], "--idle-grace", "1", *options))
            server.wait_line(TOOK_OVER)
            servers.append(server)
        load.mark()
        report = load.stop()
        for old in servers[:-1]:
            gone(old)
        report.check()


def test_without_a_predecessor_the_sockets_are_bound(home: Home) -> None:
    """The same command line starts: if nobody answers at the control socket, the sockets are bound."""
    with Server(home, "--takeover", *SHORT) as first:
        serves(first)
        with successor(first) as second:
            gone(first)
            serves(second)


def test_every_kind_of_socket(home: Home) -> None:
    """IPv4, IPv6, Unix and descriptors change hands; what is new is bound, what is dropped closed."""
    path, other = home.path / "app.socket", home.path / "other.socket"
    with ExitStack() as stack:
        given = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        before = (
            "tcp:0:interface=127.0.0.1",
            r"tcp6:0:interface=\:\:1",
            f"unix:{path}",
            f"fd:{given.fileno()}",
            f"unix:{other}",
            "tcp:0:interface=127.0.0.1",
        )
        old = stack.enter_context(Server(home, *SHORT, listen=before, pass_fds=[given.fileno()]))
        old.wait_line(OPEN, count=6)
        four, six, _, dropped = old.ports
        inode = path.stat().st_ino
        after = (
            f"unix:{path}:mode=600",
            rf"tcp6:{six}:interface=\:\:1",
            "tcp:0:interface=127.0.0.2",
            f"tcp:{four}:interface=127.0.0.1",
            f"fd:{given.fileno()}",
        )
        status = ("--status-listen", "tcp:0:interface=127.0.0.1")
        new = stack.enter_context(successor(old, *status, listen=after))
        old.wait_line(rf"handed to {new.pid}$", count=4)
        old.wait_line(rf"socket unix:{re.escape(str(other))} closed")
        gone(old)
        assert not other.exists()
        with pytest.raises(Failure, match="refused"):
            Connection(dropped)
        assert len(sockets_of(new.pid)) == len(after) + len(status) // 2 + 1  # and the control socket
        assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o600)
        for address in (str(path), four, given.getsockname()[1]):
            with Connection(address) as connection:
                assert connection.get("/echo?x").body == b"x"
                connection.close()
        with socket.create_connection(("::1", six)) as connected:
            connected.sendall(request("/", "Connection: close"))
            assert connected.recv(12) == b"HTTP/1.1 200"
        last = stack.enter_context(successor(new, *status, listen=after))
        page = [server.wait_line(r"status page at http://127.0.0.1:(\d+)/")[1] for server in (new, last)]
        assert page[0] == page[1]
        gone(new)
    assert not path.exists()


def test_an_endpoint_that_cannot_be_handed_over(home: Home) -> None:
    """What a plugin listens on is closed by the old one and bound by the new one; the others change hands."""
    certificate, port = Certificate(home.path), free_port()
    tls = certificate.endpoint.replace("ssl:0", f"ssl:{port}")
    with Server(home, *SHORT, listen=["tcp:0:interface=127.0.0.1", tls]) as old:
        old.wait_line(OPEN, count=2)
        with successor(old, listen=[f"tcp:{old.port}:interface=127.0.0.1", tls]) as new:
            old.wait_line(rf"socket ssl:127.0.0.1:{port} closed")
            gone(old)
            new.wait_line(rf"socket ssl:127.0.0.1:{port} open \(pid {new.pid}\)")
            with certificate.context().wrap_socket(
                socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1"
            ) as connected:
                connected.sendall(request("/", "Connection: close"))
                assert connected.recv(12) == b"HTTP/1.1 200"
            serves(new)


def test_systemd_is_told(home: Home) -> None:
    """The new one says that it is ready, the old one who is the main process now, and nothing of its own end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(home.path / "notify"))
        listening.settimeout(10)
        environment = {"NOTIFY_SOCKET": str(home.path / "notify")}
        said: list[str] = []

        def hear(until: str) -> None:
            while until not in said:
                said.extend(listening.recv(4096).decode().split("\n"))

        with Server(home, *SHORT, environment=environment) as old:
            hear("READY=1")
            assert f"MAINPID={old.pid}" in said
            said.clear()
            with successor(old, environment=environment) as new:
                gone(old)
                hear("READY=1")
                assert [line for line in said if line.startswith("MAINPID")] == [f"MAINPID={new.pid}"]
                assert said.index(f"MAINPID={new.pid}") < said.index("READY=1")
                assert "STOPPING=1" not in said


def test_sockets_of_root(home: Home) -> None:
    """With --uid, sockets and files pass from one unprivileged process to the next, in a directory of root's."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    if not all(path.stat().st_mode & 0o1 for path in (*PROGRAMS.parents, PROGRAMS)):
        pytest.skip("the checkout is in a directory that other users may not enter: chmod o+x its parents")
    home.disturbed = True  # who may not write there may not remove either
    options = ("--uid", str(UNPRIVILEGED), "--gid", str(UNPRIVILEGED))
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(home, *SHORT, twistd_options=options, prefix=()))]
        for _ in range(2):
            servers.append(stack.enter_context(successor(servers[-1], twistd_options=options)))
            gone(servers[-2])
            serves(servers[-1])


def test_twenty_takeovers_keep_a_download_and_grow_nothing(home: Home) -> None:
    """Twenty takeovers with a download that moves at each of them, and nothing grows from one to the next."""
    (home.path / "files").mkdir()
    content = os.urandom(MIB) * 32
    (home.path / "files" / "large").write_bytes(content)
    options = ("--download", f"/files={home.path / 'files'}")
    with ExitStack() as stack:
        first = stack.enter_context(Server(home, *SHORT, *options))
        download = stack.enter_context(Connection(first.port, receive_buffer=1 << 16, timeout=60))
        download.send(request("/files/large"))
        gate = stack.enter_context(Gate(home.path / "gate"))
        slow = stack.enter_context(Connection(first.port))
        slow.send(request(gate.target("/half-gate")))
        gate.wait_reached()
        quick = stack.enter_context(Quick(first.environment))
        command = starting(first, *options).command
        descriptors = memory = 0
        for number in range(CHAIN):
            pid = quick.start(command, home.run, first.environment)
            stack.callback(end, pid)
            wait_for(lambda pid=pid: has_the_path(home, pid))  # type: ignore[misc]
            with Connection(first.port) as connection:
                assert connection.get("/echo?x").body == b"x"
                connection.close()
            download.take_some()  # on a slow machine it would be cut as one that takes nothing
            wait_for(lambda: status_of(home)["in_flight_count"] == 1)
            if number == 0:
                descriptors, memory = len(descriptors_of(pid)), resident(pid)
        assert resident(pid) < memory + 4 * MIB
        wait_for(lambda: len(descriptors_of(pid)) <= descriptors)
        wait_for(lambda: len(beside(str(home.run / "graceful.sock"))) == 1)
        status = status_of(home)
        assert status["pid"] == pid
        assert [(one["pid"], one["in_flight_count"]) for one in status["draining"]] == [(first.pid, 1)]
        assert download.answer().body == content
        download.close()
        gate.open()
        assert slow.answer().body == b"firstafter"
        slow.close()
        gone(first)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_not_too_many(home: Home) -> None:
    """With one predecessor more than may drain, the oldest takes down what it has left; each can be named."""
    with ExitStack() as stack:
        server = stack.enter_context(Server(home, *SHORT))
        servers, waiting = [server], []
        for number in range(3):
            gate = stack.enter_context(Gate(home.path / f"gate{number}"))
            connection = stack.enter_context(Connection(server.port))
            connection.send(request(gate.target()))
            gate.wait_reached()
            waiting.append((gate, connection))
            server = stack.enter_context(starting(servers[0], "--max-draining", "2"))
            server.wait_line(TOOK_OVER)
            servers.append(server)
        oldest, second, third, newest = servers
        assert waiting[0][1].answer().status == 503
        waiting[0][1].close()
        waiting[0][0].open()
        assert oldest.wait() == 70
        assert oldest.drained() == (0, 1, 0)
        status = status_of(home)
        assert [status["pid"], {one["pid"] for one in status["draining"]}] == [newest.pid, {second.pid, third.pid}]

        (exchange,) = next(one for one in status["draining"] if one["pid"] == third.pid)["in_flight"]
        taken = graceful(home, "takedown", "--pid", str(third.pid), str(exchange["id"]))
        assert taken.returncode == 0, taken
        assert waiting[2][1].answer().status == 503
        waiting[2][1].close()
        waiting[2][0].open()
        assert third.wait() == 70
        assert graceful(home, "wait", "gone", "--pid", str(third.pid)).returncode == 2

        stopped = graceful(home, "stop", "--pid", str(second.pid), "--wait", "closed")
        assert stopped.returncode == 0, stopped
        waiting[1][0].open()
        assert waiting[1][1].answer().body == b"passed"
        waiting[1][1].close()
        gone(second)
        assert graceful(home, "stop", "--pid", str(second.pid)).returncode == 0
        serves(newest)


# -- what becomes of the successor ------------------------------------------------------------------------


def test_killed_at_any_point(home: Home) -> None:
    """Killed at 50 points between getting the sockets and saying that it accepts, it leaves no trace with anybody."""
    home.disturbed = True  # a killed process leaves its files; nobody else does
    with Server(home, *SHORT, wait_open=True) as old, ExitStack() as stack:
        command, counted = starting(old).command, home.path / "count"
        environment = {**old.environment, "LD_PRELOAD": str(library("kill_at", home.path))}
        quick = stack.enter_context(Quick(environment))
        client = stack.enter_context(Asking(old.port))
        measured = quick.start(command, home.run, {**environment, "KILL_AT": "0", "KILL_COUNT": str(counted)})
        stack.callback(end, measured)
        old.wait_line(rf"handed to {measured}$")
        gone(old)
        calls = int(counted.read_text())
        assert calls > KILL_POINTS
        with successor(old) as server:
            for point in range(KILL_POINTS):
                at = {"KILL_AT": str(1 + point * (calls - 1) // KILL_POINTS)}
                pid = quick.start(command, home.run, {**environment, **at})
                server.wait_line(rf"no takeover: process {pid} has ended before it accepted")
            client.check()
            serves(server)
            with successor(server) as last:
                gone(server)
                serves(last)


def end(pid: int) -> None:
    """Kill a process, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Asking:
    """A client that asks again and again, in a thread.

    :param port: where it connects to.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._failures: list[Failure] = []
        self._answered = 0

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stopping.is_set():
            try:
                with Connection(self._port) as connection:
                    connection.send(request("/", "Connection: close"))
                    assert connection.answer().status == 200
                    connection.end()
                self._answered += 1
            except Failure as failure:
                self._failures.append(failure)
            time.sleep(0.001)

    def check(self) -> None:
        """Everything was answered."""
        self.__exit__()
        assert not self._failures, self._failures[:5]
        assert self._answered > 0


@pytest.mark.parametrize(
    ("options", "others", "said"),
    [
        ((), {"application": "broken_import:application"}, "no database here"),
        (("--listen", "tcp:{taken}:interface=127.0.0.1"), {}, "port {taken} is in use"),
    ],
    ids=["import error", "port taken"],
)
def test_it_cannot_start(home: Home, options: tuple[str, ...], others: dict[str, Any], said: str) -> None:
    """A successor that cannot start says why, in one line, and the old one serves on."""
    with Server(home, *SHORT) as old, socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        told = starting(old, *(option.format(taken=taken) for option in options), **others).run()
        assert told.returncode == 1
        assert said.format(taken=taken) in told.stdout
        assert old.wait_line(FAILED)[2].startswith("has ended before it accepted")
        serves(old)
        with successor(old):
            gone(old)


def test_an_import_that_hangs(home: Home) -> None:
    """After its time, it is not waited for any more; when it comes back, it is told, and goes."""
    with Server(home, *SHORT, "--takeover-timeout", "1") as old:
        with importing(old) as (slow, gate):
            assert "has not accepted within 1 s" in old.wait_line(FAILED)[2]
            serves(old)
            gate.open()
            slow.wait_line("no takeover: .*nobody waits for this successor any more")
            assert slow.wait() == 1
        serves(old)
        with successor(old) as new:
            gone(old)
            serves(new)


def test_one_at_a_time(home: Home) -> None:
    """A second successor, a wrong version and another user are refused in one line; the first goes on."""
    with Server(home, *SHORT) as old:
        with (
            ControlClient(str(home.run / "graceful.sock")) as client,
            pytest.raises(ControlRefused, match="speaks version 99"),
        ):
            client.post("/takeover", protocol=99)
        with importing(old) as (slow, gate):
            told = starting(old).run()
            assert told.returncode == 1
            assert f"process {slow.pid} is taking over just now" in told.stdout
            assert told.stdout.count("graceful: ") == 1
            serves(old)
            gate.open()
            slow.wait_line(TOOK_OVER)
            gone(old)


def test_only_the_servers_user_and_root_get_the_sockets(home: Home) -> None:
    """Who may give orders may not have the sockets, unless it is the server's user or root."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    home.run.chmod(0o777)
    with Server(home, *SHORT, "--control-mode", "666") as old:
        code = (
            "from graceful.takeover.predecessor import *\n"
            f"try: Predecessor.find({str(home.run / 'graceful.sock')!r})\nexcept TakeoverError as error: print(error)"
        )
        user = ["setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", *UNPRIVILEGED_USER]
        told = subprocess.run(
            [*user, str(PROGRAMS / "python"), "-c", code], cwd="/", capture_output=True, text=True, check=False
        )
        assert "only root and the server's own user may take its sockets over" in told.stdout, told
        serves(old)


def test_dead_when_it_is_heard(home: Home) -> None:
    """A word that is heard when the successor is dead already is not believed."""
    with Server(home, *SHORT) as old:
        predecessor = Predecessor.find(str(home.run / "graceful.sock"))
        assert predecessor is not None
        pause(old.pid)
        body = b'{"kept": [0]}'
        head = f"POST /takeover/accepts HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        predecessor._client.socket.sendall(head.encode() + body)
        predecessor.close()
        old.send_signal(signal.SIGCONT)
        old.wait_line(FAILED)
        serves(old)


def test_nothing_is_left_of_failed_ones(home: Home) -> None:
    """A hundred successors that give up leave the old one as it was: no descriptor, no memory, and its paths."""
    with Server(home, *SHORT, listen=["tcp:0:interface=127.0.0.1", f"unix:{home.run / 'site'}"]) as old:

        def abort() -> None:
            predecessor = Predecessor.find(str(home.run / "graceful.sock"))
            assert predecessor is not None
            predecessor.close()
            wait_for(lambda: not status_of(home)["takeover"])

        def size() -> tuple[int, int]:
            return len(descriptors_of(old.pid)), resident(old.pid)

        for _ in range(20):
            abort()
        descriptors, memory = size()
        for _ in range(ABORTED):
            abort()
        wait_for(lambda: size()[0] <= descriptors)
        assert size()[1] < memory + MIB
        serves(old)


def sockets_of(pid: int) -> list[str]:
    """Its listening sockets, by the inode numbers that the kernel shows of those that listen."""
    listening = {line.split()[9] for name in ("tcp", "tcp6") for line in _lines(pid, name) if line.split()[3] == "0A"}
    listening |= {line.split()[6] for line in _lines(pid, "unix") if line.split()[3] == "00010000"}
    found = []
    for descriptor in descriptors_of(pid):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{descriptor}").removeprefix("socket:[").removesuffix("]"))
    return [inode for inode in found if inode in listening]


def _lines(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]


def descriptors_of(pid: int) -> list[str]:
    """What a process has open."""
    return os.listdir(f"/proc/{pid}/fd")


def has_the_path(home: Home, pid: int) -> bool:
    """Whether a process is the one at the control path; not yet if another has ended while it was asked."""
    try:
        return bool(status_of(home)["pid"] == pid)
    except Vanished:
        return False


# -- what the old one is doing ----------------------------------------------------------------------------


def test_takeover_in_the_lame_duck(home: Home) -> None:
    """One that is told to stop and still accepts hands over all the same, and waits for the balancer no longer."""
    with Server(home, *SHORT, "--lame-duck", "30") as old:
        old.terminate()
        wait_for(lambda: status_of(home)["state"] == "lame-duck")
        with successor(old) as new:
            gone(old)
            serves(new)


def test_takeover_while_draining(home: Home) -> None:
    """One that has closed its sockets has none to hand over: they are bound."""
    with Server(home, *SHORT) as old, Gate(home.path / "gate") as gate, Connection(old.port) as connection:
        connection.send(request(gate.target()))
        gate.wait_reached()
        old.terminate()
        old.wait_closed()
        with starting(old) as new:
            serves(new)
            assert [one["pid"] for one in status_of(home)["draining"]] == [old.pid]
            gate.open()
            assert connection.answer().body == b"passed"
            connection.close()
            gone(old)


def test_the_old_one_is_stopped_meanwhile(home: Home) -> None:
    """Stopped while its successor imports, the old one goes; who comes meanwhile waits for the new one."""
    with Server(home, *SHORT) as old, importing(old) as (slow, gate):
        old.terminate()
        old.wait_closed()
        gone(old)
        comes_meanwhile(old.port, slow, gate)


def test_the_old_one_crashes_meanwhile(home: Home) -> None:
    """Killed while its successor imports, the old one is not missed."""
    home.disturbed = True
    with Server(home, *SHORT) as old, importing(old) as (slow, gate):
        old.kill()
        comes_meanwhile(old.port, slow, gate)


def comes_meanwhile(port: int, slow: Server, gate: Gate) -> None:
    """Who connects while nobody is there yet is answered by the successor, which then serves."""
    with Connection(port) as waiting:
        waiting.send(request("/echo?waited"))
        gate.open()
        assert waiting.answer().body == b"waited"
        waiting.close()
    slow.wait_line(TOOK_OVER)
    serves(slow)
