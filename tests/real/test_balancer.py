"""Out of a balancer's rotation and in again, by health alone: with a real HAProxy, in every way that it is told."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clients import Connection, Failure, get, request
from tests.support.command import graceful
from tests.support.gate import Gate
from tests.support.haproxy import HEAD
from tests.support.home import Home
from tests.support.server import Server
from tests.support.waiting import wait_for

CONFIGURATION = """
frontend clients
    bind fd@{clients}
    default_backend site
backend site
    balance roundrobin
    option httpchk GET /+haproxy
    {backend}
    default-server check inter 100ms rise 1 fall {fall} {server}
    server one 127.0.0.1:{one} {one_more}
    server two 127.0.0.1:{two} {two_more}
"""
STATUS = ("--status-listen", "tcp:0:interface=127.0.0.1")
FAST = ("--idle-grace", "0.2")


class Balancer:
    """An HAProxy that checks its servers' health ten times a second.

    :ivar port: of the frontend.
    """

    def __init__(self, directory: Path, one: int, two: int, **options: object) -> None:
        assert shutil.which("haproxy"), "haproxy is not installed"
        self._socket = str(directory / "haproxy.sock")
        with socket.create_server(("127.0.0.1", 0)) as clients:
            self.port: int = clients.getsockname()[1]
            values = {"backend": "", "server": "", "one_more": "", "two_more": "", "fall": 2, **options}
            configuration = directory / "haproxy.cfg"
            configuration.write_text(
                (HEAD + CONFIGURATION).format(
                    runtime=self._socket, clients=clients.fileno(), one=one, two=two, **values
                )
            )
            command = ["haproxy", "-db", "-f", str(configuration)]
            self._process = subprocess.Popen(command, pass_fds=[clients.fileno()], stderr=subprocess.DEVNULL)
        wait_for(self._listens)

    def __enter__(self) -> Balancer:
        return self

    def __exit__(self, *ignored: object) -> None:
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        """Whether it answers: the path of its socket is there a moment before it listens."""
        try:
            return bool(self.states())
        except OSError:
            return False

    def states(self) -> dict[str, str]:
        """What it takes each server for: UP, DOWN, NOLB …"""
        with socket.socket(socket.AF_UNIX) as runtime:
            runtime.connect(self._socket)
            runtime.sendall(b"show stat\n")
            with runtime.makefile() as lines:
                rows = [line.split(",") for line in lines if line.startswith("site,")]
        return {row[1]: row[17] for row in rows}

    def wait_state(self, server: str, *states: str) -> None:
        """Wait until it takes a server for one of these."""
        wait_for(lambda: self.states()[server].startswith(states))

    def told(self, order: str) -> None:
        """Give it an order."""
        with socket.socket(socket.AF_UNIX) as runtime:
            runtime.connect(self._socket)
            runtime.sendall(order.encode() + b"\n")
            assert not runtime.recv(4096).strip()


class Clients:
    """Asks again and again, and remembers every answer that is not 200, and every one that is missing."""

    def __init__(self, port: int, number: int = 4) -> None:
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(number)]
        self.good = 0
        self.bad: list[object] = []
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                status = get(self._port, "/").status
                if status == 200:
                    self.good += 1
                else:
                    self.bad.append(status)
            except Exception as error:
                self.bad.append(error)

    def stop(self) -> None:
        """End it; nothing was lost."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.bad == []
        assert self.good > 20


def status_port(server: Server) -> int:
    """Where its status page is."""
    return int(server.wait_line(r"status page at http://127\.0\.0\.1:(\d+)/")[1])


@pytest.fixture
def pair(home: Home, request: pytest.FixtureRequest) -> object:
    """Two servers, each with a control socket of its own."""
    options = getattr(request, "param", ())
    with ExitStack() as stack:
        yield [
            stack.enter_context(Server(home, *FAST, *STATUS, *options, twistd_options=[f"--pidfile={name}.pid"]))
            for name in ("one", "two")
        ]


@pytest.mark.parametrize("pair", [("--lame-duck", "2")], indirect=True)
def test_the_balancer_notices_a_lame_duck_and_no_request_is_lost(home: Home, pair: list[Server]) -> None:
    """SIGTERM alone: the balancer notices by itself while the sockets still accept, and no request is lost."""
    one, two = pair
    with Balancer(home.path, one.port, two.port) as balancer:
        balancer.wait_state("one", "UP")
        balancer.wait_state("two", "UP")
        clients = Clients(balancer.port)
        time.sleep(0.3)
        one.terminate()
        balancer.wait_state("one", "DOWN")
        assert not one.log.find_all(" closed ")
        assert one.wait() == 0
        clients.stop()
        assert one.drained()[1:] == (0, 0)


@pytest.mark.parametrize("pair", [("--going-down-status", "404", "--lame-duck", "1")], indirect=True)
def test_disable_on_404(home: Home, pair: list[Server]) -> None:
    """With 404 it is NOLB: no new requests, and in again as soon as health says so; without a stop at all."""
    one, two = pair
    with Balancer(home.path, one.port, two.port, backend="http-check disable-on-404") as balancer:
        balancer.wait_state("one", "UP")
        balancer.wait_state("two", "UP")
        clients = Clients(balancer.port)
        assert graceful(home, "leave", "--control", "one.sock").returncode == 0
        balancer.wait_state("one", "NOLB")
        assert get(balancer.port, "/").status == 200
        assert graceful(home, "enter", "--control", "one.sock").returncode == 0
        balancer.wait_state("one", "UP")
        clients.stop()


@pytest.mark.parametrize("pair", [("--threads", "1", "--queue", "0")], indirect=True)
def test_all_threads_stuck(home: Home, pair: list[Server]) -> None:
    """A server whose threads are all stuck is neither taken for dead, nor can it not be taken out."""
    one, two = pair
    with Balancer(home.path, one.port, two.port) as balancer, Gate(home.path / "gate") as gate:
        balancer.wait_state("one", "UP")
        with Connection(one.port) as client:
            client.send(request(gate.target()))
            gate.wait_reached()
            time.sleep(0.5)  # five checks
            assert balancer.states()["one"].startswith("UP")
            assert graceful(home, "leave", "--control", "one.sock").returncode == 0
            balancer.wait_state("one", "DOWN")
            gate.open()
            assert client.answer().status == 200


@pytest.mark.parametrize("pair", [("--going-down-status", "404", "--lame-duck", "1")], indirect=True)
def test_shutdown_sessions_cuts_nothing_if_the_check_outlives_the_sockets(home: Home, pair: list[Server]) -> None:
    """`on-marked-down shutdown-sessions` cuts what we finish, unless the check's port outlives the sockets (T6)."""
    one, two = pair
    with ExitStack() as stack:
        options = {
            "backend": "http-check disable-on-404",
            "server": "on-marked-down shutdown-sessions",
            "one_more": f"check port {status_port(one)}",
            "two_more": f"check port {status_port(two)}",
        }
        balancer = stack.enter_context(Balancer(home.path, one.port, two.port, **options))
        gate = stack.enter_context(Gate(home.path / "gate"))
        balancer.wait_state("one", "UP")
        balancer.wait_state("two", "UP")
        clients = Clients(balancer.port)
        executor = stack.enter_context(ThreadPoolExecutor(1))
        executor_get = executor.submit(get_until_gate, balancer, gate)
        gate.wait_reached()
        victim = one if in_flight(home, "one.sock") else two
        name = "one" if victim is one else "two"
        victim.terminate()
        victim.wait_closed()
        balancer.wait_state(name, "NOLB")
        time.sleep(0.5)  # five checks at the closed port would have cut it by now
        assert balancer.states()[name].startswith("NOLB")
        gate.open()
        assert executor_get.result() == b"passed"
        assert victim.wait() == 0
        clients.stop()


def test_shutdown_sessions_without_it(home: Home, pair: list[Server]) -> None:
    """The same, checked at the application's port, loses the request: the setting above is what helps."""
    one, two = pair
    with ExitStack() as stack:
        options = {"server": "on-marked-down shutdown-sessions"}
        balancer = stack.enter_context(Balancer(home.path, one.port, two.port, **options))
        gate = stack.enter_context(Gate(home.path / "gate"))
        balancer.wait_state("one", "UP")
        balancer.wait_state("two", "UP")
        client = stack.enter_context(Connection(balancer.port))
        client.send(request(gate.target()))
        gate.wait_reached()
        victim, name = (one, "one") if in_flight(home, "one.sock") else (two, "two")
        victim.terminate()
        victim.wait_closed()
        balancer.wait_state(name, "DOWN")
        try:
            assert client.answer().status == 502
        except Failure as lost:  # HAProxy 3 says nothing, and closes
            assert lost.outcome in ("reset", "stale", "truncated")
        gate.open()
        assert victim.wait() == 0


def get_until_gate(balancer: Balancer, gate: Gate) -> bytes:
    """Ask for the gate, through the balancer."""
    return get(balancer.port, gate.target()).body


def in_flight(home: Home, control: str) -> bool:
    """Whether a server has the gate's request."""
    return "GET /gate" in graceful(home, "status", "--control", control).stdout
