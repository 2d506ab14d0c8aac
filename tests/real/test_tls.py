"""Connections on Twisted's transports: TLS, and the PROXY protocol.  The same server, with other bytes below."""

from __future__ import annotations

import hashlib
import json
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Connection, Failure, chunked, request
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import OPEN, Server
from tests.support.tls import Certificate, TLSConnection

MIB = 1024 * 1024
PATTERN = bytes(range(256)) * 4096
PROXY = "haproxy:tcp:0:interface=127.0.0.1"
PROXIED = b"PROXY TCP4 192.0.2.1 192.0.2.2 4321 80\r\n"
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)

Connect = Callable[..., Connection]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for all servers here."""
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def server(module_home: Home, certificate: Certificate) -> Iterator[Server]:
    """One server for all tests that do not stop it."""
    options = ("--idle-grace", "0.5", "--threads", "3", "--spool", str(module_home.spool))
    with Server(module_home, *options, listen=[certificate.endpoint, PROXY]) as running:
        running.wait_line(OPEN, count=2)
        yield running


def port(server: Server, kind: str = "ssl") -> int:
    """Return the port of a server's endpoint of a kind."""
    return int(server.wait_line(rf"socket {kind}:127\.0\.0\.1:(?P<port>\d+) open")["port"])


def tls(server: Server, certificate: Certificate, **more: Any) -> TLSConnection:
    """Connect by TLS."""
    return TLSConnection(port(server), certificate.context(), **more)


def proxied(server: Server, **more: Any) -> Connection:
    """Connect by the PROXY protocol."""
    connection = Connection(port(server, "haproxy"), **more)
    connection.send(PROXIED)
    return connection


class Both:
    """A server that listens on both kinds of endpoints, and connections of both kinds to it.

    :param options: of the server.
    :param application: what it serves.
    """

    def __init__(
        self, home: Home, certificate: Certificate, *options: str, application: str = "basic:application"
    ) -> None:
        self._certificate = certificate
        self._stack = ExitStack()
        self.server = Server(home, *options, application=application, listen=[certificate.endpoint, PROXY])

    def __enter__(self) -> Both:
        self._stack.enter_context(self.server)
        self.server.wait_line(OPEN, count=2)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def connect(self, **more: Any) -> list[Connection]:
        """Connect in each way."""
        made = [tls(self.server, self._certificate, **more), proxied(self.server, **more)]
        for connection in made:
            self._stack.enter_context(connection)
        return made

    def stop(self) -> float:
        """Tell the server to stop; return when, as soon as its sockets are closed."""
        told = self.server.terminate()
        self.server.wait_line("socket .* closed", count=2)
        return told


@pytest.fixture(params=["ssl", "haproxy"])
def connect(request: pytest.FixtureRequest, certificate: Certificate) -> Connect:
    """How to connect to each kind of endpoint."""
    if request.param == "ssl":
        return lambda server, **more: tls(server, certificate, **more)
    return proxied


def memory(server: Server, what: str) -> int:
    """Return what the server's process holds in memory, or has held at most, in bytes."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise AssertionError(what)


def test_real_ports_are_said(server: Server) -> None:
    """The line that says that a socket is open has its real port, where the kernel has chosen it."""
    assert port(server, "ssl") > 0
    assert port(server, "haproxy") > 0


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_the_application_sees_https_and_the_clients_address(
    server: Server, certificate: Certificate, version: ssl.TLSVersion
) -> None:
    """The application sees https, and the client's own address."""
    with TLSConnection(port(server), certificate.context(version)) as connection:
        environ = json.loads(connection.get("/environ").body)
        assert environ["REMOTE_PORT"] == str(connection.socket.getsockname()[1])
    assert (environ["wsgi.url_scheme"], environ["HTTPS"], environ["REMOTE_ADDR"]) == ("https", "on", "127.0.0.1")
    assert environ["SERVER_PORT"] == str(port(server))


def test_the_application_sees_the_addresses_of_the_proxy_protocol(server: Server) -> None:
    """The application sees the addresses that the PROXY protocol has told."""
    with proxied(server) as connection:
        environ = json.loads(connection.get("/environ").body)
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("192.0.2.1", "4321")
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("192.0.2.2", "80")
    assert environ["wsgi.url_scheme"] == "http"


def test_proxied_in_pieces(server: Server) -> None:
    """The PROXY line and the request may come in any pieces."""
    with Connection(port(server, "haproxy")) as connection:
        for piece in (PROXIED[:20], PROXIED[20:] + request("/echo?a")[:9], request("/echo?a")[9:]):
            connection.send(piece)
            time.sleep(0.01)
        assert connection.answer().body == b"a"


def test_without_a_proxy(server: Server) -> None:
    """Who does not speak the PROXY protocol gets no answer."""
    with Connection(port(server, "haproxy")) as connection, pytest.raises(Failure, match=r"truncated|reset"):
        connection.get("/")


def test_trust_is_the_client_s(home: Home) -> None:
    """Header fields about other clients are believed from whom the PROXY protocol names, not from its speaker."""
    told = "X-Forwarded-For: 198.51.100.1"
    with Server(home, "--trusted-proxy", "127.0.0.1", listen=[PROXY]) as server:
        with proxied(server) as connection:
            assert json.loads(connection.get("/environ", told).body)["REMOTE_ADDR"] == "192.0.2.1"
        with Connection(port(server, "haproxy")) as connection:
            connection.send(b"PROXY UNKNOWN - - - -\r\n")
            assert json.loads(connection.get("/environ", told).body)["REMOTE_ADDR"] == "198.51.100.1"


def test_a_tls_connection_carries_many_requests(server: Server, connect: Connect) -> None:
    """A connection carries many requests, one after the other and pipelined."""
    with connect(server) as connection:
        for number in range(20):
            assert connection.get(f"/echo?{number}").body == b"%d" % number
        connection.send(b"".join(request(f"/echo?{number}") for number in range(100)))
        for number in range(100):
            assert connection.answer().body == b"%d" % number


def test_a_tls_connection_ends_in_good_order(server: Server, connect: Connect) -> None:
    """A connection that has carried its last answer ends in good order."""
    with connect(server) as connection:
        asked = time.monotonic()
        assert connection.get("/", "Connection: close").says_close
        connection.end()
        assert time.monotonic() - asked < 1.9  # less than a server lingers


def test_bodies_of_every_framing_arrive_whole_over_tls(server: Server, connect: Connect) -> None:
    """Bodies of every framing arrive and are sent whole, also when the client is slow."""
    data = PATTERN * 8
    digest = f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode()
    with connect(server) as connection:
        connection.send(request("/upload", method="POST", body=data))
        assert connection.answer("POST").body == digest
        pieces = chunked(data[at : at + 70_000] for at in range(0, len(data), 70_000))
        connection.send(request("/upload", "Transfer-Encoding: chunked", method="POST") + pieces)
        assert connection.answer("POST").body == digest
        connection.send(request("/upload", "Expect: 100-continue", f"Content-Length: {len(data)}", method="POST"))
        assert b"100 Continue" in connection.socket.recv(25, 0)
        connection.send(data)
        assert connection.answer("POST").body == digest
        for target in (f"/big?bytes={8 * MIB}", f"/one?bytes={8 * MIB}"):
            assert connection.get(target).body == data
        assert connection.get("/gen").body == b"abcdef"


def test_a_client_refused_in_mid_upload_reads_why(server: Server, connect: Connect) -> None:
    """A client that is refused in the middle of its upload reads why."""
    with connect(server) as connection:
        connection.send(request("/upload", f"Content-Length: {1 << 40}", method="POST") + PATTERN)
        assert connection.answer("POST").status == 413
        connection.end()


def test_client_that_goes_on_sending(server: Server, connect: Connect) -> None:
    """What a client sends behind its last request is thrown away, and does not cost it the end of its answer."""
    with connect(server, receive_buffer=8192) as connection:
        connection.send(request(f"/one?bytes={MIB}", "Connection: close"))
        for _ in range(10):
            connection.send(request("/echo?more"))
            time.sleep(0.02)
        assert connection.answer().body == PATTERN
        connection.end()


def test_slow_readers_over_tls_get_every_byte_in_little_memory(
    home: Home, connect: Connect, certificate: Certificate
) -> None:
    """More slow readers than threads hold up nobody, hold little memory, and get every byte."""
    size = 16 * MIB
    with Server(home, "--threads", "2", listen=[certificate.endpoint, PROXY]) as server, ExitStack() as stack:
        server.wait_line(OPEN, count=2)
        with connect(server) as connection:
            connection.get("/one?bytes=1000000")
        before = memory(server, "VmHWM")
        readers = [stack.enter_context(connect(server, receive_buffer=8192)) for _ in range(6)]
        for reader in readers[:2]:
            reader.send(request(f"/big?bytes={size}", "Connection: close"))
        for reader in readers[2:]:
            reader.send(request(f"/one?bytes={MIB}", "Connection: close"))
        for reader in readers:
            digest, read = hashlib.sha256(), []

            def consume(piece: bytes, update: Any = digest.update, read: list[int] = read) -> None:
                update(piece)
                read.append(len(piece))

            reader.answer(consume=consume)
            assert digest.digest() == hashlib.sha256(PATTERN * (sum(read) // MIB)).digest()
            assert sum(read) in (MIB, size)
            reader.end()
            reader.close()
        assert memory(server, "VmHWM") - before < 16 * MIB


def test_a_tree_of_resources_is_served_over_tls(
    home: Home, connect: Connect, certificate: Certificate, tmp_path: Path
) -> None:
    """A tree of resources is served as well: it knows that it is safe, and slow downloads hold little memory."""
    (tmp_path / "large").write_bytes(PATTERN * 12)
    files = {"TREE_FILES": str(tmp_path)}
    listen = [certificate.endpoint, PROXY]
    with Server(home, application="tree:root", environment=files, listen=listen) as server, ExitStack() as stack:
        server.wait_line(OPEN, count=2)
        with connect(server) as connection:
            there = json.loads(connection.get("/where").body)
            secure = isinstance(connection, TLSConnection)
            where = port(server) if secure else 80
            assert (there["secure"], there["host"][2]) == (secure, where)
            assert there["url"] == (
                "http://test.example/where" if not secure else f"https://test.example:{where}/where"
            )
            assert connection.get("/pieces").body == b"one two three"
        before = memory(server, "VmHWM")
        readers = [stack.enter_context(connect(server, receive_buffer=8192)) for _ in range(6)]
        for reader in readers:
            reader.send(request("/files/large", "Connection: close"))
        for reader in readers:
            digest = hashlib.sha256()
            reader.answer(consume=digest.update)
            assert digest.digest() == hashlib.sha256(PATTERN * 12).digest()
            reader.close()
        assert memory(server, "VmHWM") - before < 8 * MIB


def test_disconnect_frees_a_thread(server: Server, connect: Connect) -> None:
    """Threads that wait for readers who then leave go on to others."""
    with ExitStack() as stack:
        readers = [stack.enter_context(connect(server, receive_buffer=8192)) for _ in range(3)]
        for reader in readers:
            reader.send(request(f"/big?bytes={50 * MIB}"))
            reader.socket.recv(1000)
        other = stack.enter_context(connect(server))
        other.send(request("/echo?freed"))
        for reader in readers:
            reader.close()
        assert other.answer().body == b"freed"


def test_tls_clients_that_take_nothing_are_cut(home: Home, certificate: Certificate) -> None:
    """Clients that take nothing are cut after a while, and leave nothing behind."""
    with Both(home, certificate, "--send-timeout", "0.5", "--deadline", "30") as both:
        for reader in both.connect(receive_buffer=8192):
            reader.send(request(f"/one?bytes={20 * MIB}"))
        both.server.wait_line("a client takes nothing", count=2)
        told = both.stop()
        assert both.server.wait() == 0
        assert time.monotonic() - told < 5


def test_handshake_that_never_comes(home: Home, certificate: Certificate) -> None:
    """A client that connects and says nothing is let go after the header time-out, and does not hold a stop."""
    with Server(home, "--header-timeout", "0.5", listen=[certificate.endpoint]) as server:
        with Connection(port(server)) as silent:
            assert select.select([silent.socket], [], [], 5)[0]
        with Connection(port(server)):
            told = server.terminate()
            assert server.wait() == 0
            assert time.monotonic() - told < 3


# -- stopping ---------------------------------------------------------------------------------------------------


def test_a_stop_over_tls_finishes_what_is_in_flight(home: Home, connect: Connect, certificate: Certificate) -> None:
    """At SIGTERM the socket is closed and says so, what is in flight is finished, idle clients get a last answer."""
    options = ("--idle-grace", "5", "--spool", str(home.spool))
    with (
        Server(home, *options, listen=[certificate.endpoint, PROXY]) as server,
        Gate(home.path / "gate") as gate,
        ExitStack() as stack,
    ):
        server.wait_line(OPEN, count=2)
        working, reading, sending, idle, fresh = (
            stack.enter_context(connect(server, receive_buffer=8192)) for _ in range(5)
        )
        kind = "ssl" if isinstance(idle, TLSConnection) else "haproxy"
        assert idle.get("/").status == 200
        working.send(request(gate.target()))
        gate.wait_reached()
        reading.send(request(f"/big?bytes={8 * MIB}"))
        reading.socket.recv(0)
        sending.send(request("/upload", f"Content-Length: {2 * MIB}", method="POST") + PATTERN)
        assert idle.get("/").status == 200
        server.settle(3)
        server.terminate()
        where = port(server, kind)
        server.wait_line(rf"socket {kind}:127\.0\.0\.1:{where} closed \(pid {server.pid}\)")
        with pytest.raises(Failure, match="refused"):
            Connection(where)
        for connection in (idle, fresh):
            answer = connection.get("/echo?last")
            assert (answer.body, answer.says_close) == (b"last", True)
        sending.send(PATTERN)
        assert sending.answer("POST").body == f"{2 * MIB} {hashlib.sha256(PATTERN * 2).hexdigest()}".encode()
        gate.open()
        assert working.answer().body == b"passed"
        assert reading.answer().body == PATTERN * 8
        reading.close()  # its head went out before the signal, and promised another answer
        for connection in (working, sending, idle, fresh):
            connection.end()
            connection.close()
        assert server.wait() == 0
        assert server.drained() == (5, 0, 0)


def test_idle_connections_are_closed(home: Home, certificate: Certificate) -> None:
    """Idle connections are closed in good order when their grace is over, whether or not the client answers."""
    with Both(home, certificate, "--idle-grace", "0.3") as both:
        deaf, polite = both.connect(), both.connect()
        for connection in (*deaf, *polite):
            connection.get("/")
        told = both.stop()
        for connection in polite:
            connection.end()
            connection.close()
        assert both.server.wait() == 0  # one that is deaf never answers TLS's goodbye
        assert 0.3 < time.monotonic() - told < 5
        for connection in deaf:
            connection.end()


def test_a_request_that_came_before_the_close(home: Home, certificate: Certificate) -> None:
    """A request that has come when an idle connection's grace is over, and was not read yet, is answered."""
    with Both(home, certificate, "--idle-grace", "0.5", application="tree:root") as both:
        blocking, *idle = *both.connect(), *both.connect()
        for connection in (blocking, *idle):
            connection.get("/data")
        told = both.stop()
        blocking.send(request("/block?seconds=1.5"))
        # The server, awake again, finds that the grace is over before it finds the requests.
        time.sleep(told + 1.2 - time.monotonic())
        for connection in idle:
            connection.send(request("/data"))
        for connection in idle:
            answer = connection.answer()
            assert (answer.body, answer.says_close) == (b"some data", True)
            connection.close()
        assert blocking.answer().body == b"awake"
        blocking.close()
        assert both.server.wait() == 0


def test_answer_in_the_buffers(home: Home, certificate: Certificate) -> None:
    """An answer that the transport and the kernel still hold when the process could end is not lost."""
    with Both(home, certificate, "--idle-grace", "0.1") as both:
        readers = both.connect(receive_buffer=4096)
        for reader in readers:
            reader.send(request(f"/one?bytes={4 * MIB}", "Connection: close"))
            reader.socket.recv(1)
        both.stop()
        time.sleep(3)  # longer than anything waits for a client that has everything
        for reader in readers:
            rest = 0
            while piece := reader.socket.recv(65536):
                rest += len(piece)
            assert rest >= 4 * MIB
            reader.close()
        assert both.server.wait() == 0
        assert both.server.drained() == (2, 0, 0)


def test_connections_beyond_the_maximum_wait(home: Home) -> None:
    """Connections beyond `--max-connections` wait until another one is closed."""
    with Server(home, "--max-connections", "2", listen=[PROXY]) as server, ExitStack() as stack:
        first, second = (stack.enter_context(proxied(server)) for _ in range(2))
        first.get("/")
        second.get("/")
        third = stack.enter_context(proxied(server))
        third.send(request("/echo?third"))
        assert not select.select([third.socket], [], [], 0.3)[0]
        first.close()
        assert third.answer().body == b"third"


def test_clients_that_wait_to_be_accepted(home: Home) -> None:
    """Clients that the kernel has connected when the socket is closed are served."""
    with Server(home, application="tree:root", listen=[PROXY]) as server, ExitStack() as stack:
        blocking = stack.enter_context(proxied(server))
        blocking.get("/data")
        blocking.send(request("/block?seconds=0.5"))
        waiting = [stack.enter_context(proxied(server)) for _ in range(20)]
        server.terminate()
        for connection in waiting:
            assert connection.get("/data").body == b"some data"
            connection.close()
        assert blocking.answer().body == b"awake"
        blocking.close()
        assert server.wait() == 0


def test_deadline_for_clients_that_do_not_read(home: Home, certificate: Certificate) -> None:
    """An answer that is still in the transport's buffer, or the kernel's, at the deadline was not finished."""
    with Both(home, certificate, "--deadline", "1") as both:
        for reader in both.connect(receive_buffer=8192):
            reader.send(request("/one?bytes=300000", "Connection: close"))
            reader.socket.recv(1)
        both.stop()
        assert both.server.wait() == 70
        assert both.server.drained() == (0, 2, 0)


def test_tls_exchanges_are_taken_down_at_the_deadline(home: Home, certificate: Certificate) -> None:
    """At the deadline who has no answer gets a 503, who is in the middle of one is cut, and all are named."""
    with (
        Both(home, certificate, "--deadline", "0.5") as both,
        Gate(home.path / "one") as one,
        Gate(home.path / "two") as two,
    ):
        waiting, reading = both.connect(), both.connect(receive_buffer=8192)
        for connection, gate in zip(waiting, (one, two), strict=True):
            connection.send(request(gate.target()))
            gate.wait_reached()
        for connection in reading:
            connection.send(request(f"/big?bytes={100 * MIB}"))
            connection.socket.recv(1000)
        told = both.stop()
        for connection in waiting:
            answer = connection.answer()
            assert (answer.status, answer.header("Retry-After"), answer.says_close) == (503, "5", True)
            connection.close()
        one.open()
        two.open()
        for connection in reading:
            with pytest.raises(Failure, match=r"truncated|reset|bad"):
                connection.answer()
        assert both.server.wait() == 70
        assert time.monotonic() - told < 6
        assert both.server.drained() == (0, 4, 0)
        for target in (one.target(), two.target()):
            both.server.wait_line(rf"taking down .*{re.escape(target)}")
        both.server.wait_line(r"taking down .*/big", count=2)


def test_check_finds_a_missing_certificate(home: Home, certificate: Certificate) -> None:
    """`--check` finds that an endpoint's certificate is not there, and says where one that is there would listen."""
    found = Server(home, "--check", listen=[certificate.endpoint]).run()
    assert (found.returncode, "ssl:127.0.0.1:" in found.stdout) == (0, True), found.stdout
    missed = Server(home, "--check", listen=[certificate.endpoint.replace("certKey=", "certKey=/nowhere")]).run()
    assert (missed.returncode, "No such file" in missed.stdout) == (1, True), missed.stdout


def test_a_broken_endpoint(home: Home, certificate: Certificate) -> None:
    """An endpoint that cannot listen ends the start with one line."""
    for listen, reason in (
        (certificate.endpoint.replace("certKey=", "certKey=/nowhere"), "No such file"),
        (certificate.endpoint.replace("ssl:0", "ssl:1:interface=192.0.2.1", 1).rpartition(":")[0], "cannot listen"),
    ):
        ended = Server(home, listen=[listen]).run()
        assert ended.returncode == 1
        assert reason in ended.stdout
        assert "Traceback" not in ended.stdout


def test_a_busy_port_ends_the_start_with_one_line(home: Home, certificate: Certificate) -> None:
    """A port that somebody else listens on ends the start with one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = certificate.endpoint.replace("ssl:0", f"ssl:{taken.getsockname()[1]}")
        ended = Server(home, listen=[endpoint]).run()
        assert ended.returncode == 1
        assert "in use" in ended.stdout
