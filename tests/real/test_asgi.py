"""ASGI applications in a real server: Starlette, FastAPI, Quart and Django, unchanged, with strict clients."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.clients import Connection, Failure, chunked, digest, get, request
from tests.support.command import status_of
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import Server
from tests.support.waiting import wait_for

MIB = 1 << 20
FILE = os.urandom(3_000_000)
LINES = b"".join(b"line %d\n" % number for number in range(1000))


@pytest.fixture(scope="module")
def file(module_home: Home) -> Path:
    """A file to send."""
    path = module_home.path / "file.bin"
    path.write_bytes(FILE)
    return path


@pytest.fixture(scope="module")
def server(module_home: Home, file: Path) -> Iterator[Server]:
    """A server with the Starlette application."""
    options = ("--idle-grace", "0.5", "--trusted-proxy", "127.0.0.1", "--access-log", "-")
    environment = {"ASGI_FILE": str(file)}
    with Server(module_home, *options, application="asgi_starlette:app", environment=environment) as running:
        running.tracebacks = None
        yield running


def test_an_asgi_application_is_recognised_and_served(server: Server) -> None:
    """An ASGI application needs no option; its lifespan has begun before the first request."""
    with Connection(server.port) as connection:
        assert connection.get("/").body == b"Hello, world!"
        assert connection.get("/state").body == b"hello"
    server.wait_line("lifespan: started")
    server.wait_line(r'"GET /state HTTP/1.1" 200 5 ')


def test_a_factory_and_the_option_are_understood(home: Home) -> None:
    """`MODULE:make()` and `--interface asgi` serve the same application."""
    with Server(home, "--interface", "asgi", application="asgi_starlette:make()") as running:
        assert get(running.port, "/").body == b"Hello, world!"


def test_a_wrong_interface_is_refused_in_one_line(home: Home) -> None:
    """An application that is not what `--interface` says does not start."""
    said = Server(home, "--interface", "asgi", application="basic:application").run()
    assert said.returncode == 1
    assert "does not take the three arguments of an ASGI 3 callable" in said.stdout
    said = Server(home, "--interface", "fcgi", application="basic:application").run()
    assert said.returncode == 2
    assert "--interface fcgi: expected auto, wsgi or asgi" in said.stdout


def test_a_check_finds_an_asgi_application(home: Home) -> None:
    """`--check` imports the application and binds, and does not start its lifespan."""
    said = Server(home, "--check", application="asgi_starlette:app").run()
    assert said.returncode == 0, said.stdout
    assert "would start" in said.stdout
    assert "lifespan" not in said.stdout


def test_a_body_is_echoed_while_it_arrives(server: Server) -> None:
    """What the client has sent of a body comes back before it sends the rest."""
    with Connection(server.port) as connection:
        connection.send(request("/echo", "Transfer-Encoding: chunked", method="POST"))
        connection.send(b"5\r\nfirst\r\n")
        pieces: list[bytes] = []

        def take(piece: bytes) -> None:
            if not pieces:
                connection.send(b"6\r\nsecond\r\n0\r\n\r\n")
            pieces.append(bytes(piece))

        connection.answer("POST", consume=take)
        assert b"".join(pieces) == b"firstsecond"


def test_100_continue_comes_when_the_application_reads(server: Server) -> None:
    """`Expect: 100-continue` is answered when the application asks for the body."""
    with Connection(server.port) as connection:
        fields = ("Expect: 100-continue", "Content-Length: 5")
        connection.send(request("/upload", *fields, method="POST"))
        connection.wait_continue()
        connection.send(b"hello")
        assert connection.answer("POST").body.startswith(b"5 ")
        connection.send(request("/", *fields, method="POST"))
        answer = connection.answer("POST")
        assert (answer.status, answer.says_close) == (200, True)


@pytest.mark.parametrize("coding", ["with a length", "chunked"])
def test_a_large_upload_arrives_whole(server: Server, coding: str) -> None:
    """An upload of 10 MiB arrives whole, and the connection goes on."""
    body = os.urandom(10 * MIB)
    with Connection(server.port) as connection:
        if coding == "chunked":
            connection.send(request("/upload", "Transfer-Encoding: chunked", method="POST"))
            connection.send(chunked(body[start : start + 50_000] for start in range(0, len(body), 50_000)))
        else:
            connection.send(request("/upload", method="POST", body=body))
        assert connection.answer("POST").body == f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode()
        assert connection.get("/").body == b"Hello, world!"


def test_a_file_is_sent_by_pathsend(server: Server) -> None:
    """A file response arrives whole, with its length, and a HEAD has the length alone."""
    with Connection(server.port) as connection:
        answer = connection.get("/file")
        assert (answer.header("Content-Length"), answer.body) == (str(len(FILE)), FILE)
        assert connection.get("/file", method="HEAD").header("Content-Length") == str(len(FILE))
        assert connection.get("/").body == b"Hello, world!"


def resident(server: Server) -> int:
    """Returns the KiB that a server has in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert found is not None
    return int(found[1])


def test_a_body_that_the_application_never_reads_stays_with_the_client(server: Server, module_home: Home) -> None:
    """The client is held back, memory stays flat, and the answer comes all the same, as the connection's last."""
    with Gate(module_home.path / "gate") as gate, Connection(server.port) as client:
        client.send(request(gate.target(), f"Content-Length: {64 * MIB}", method="POST"))
        gate.wait_reached()
        before = resident(server)
        client.socket.settimeout(1.0)
        with pytest.raises(TimeoutError):
            for _ in range(64 * 16):  # the kernel's buffers are smaller
                client.socket.sendall(bytes(65536))
        assert resident(server) - before < 4096
        client.socket.settimeout(10.0)
        gate.open()
        answer = client.answer("POST")
        assert (answer.status, answer.body, answer.says_close) == (200, b"passed", True)
    assert get(server.port, "/").body == b"Hello, world!"


def test_a_slow_reader_costs_no_memory(server: Server) -> None:
    """Clients that do not read a stream of 256 MiB hold the application back, and others are served."""
    before = resident(server)
    slow = [Connection(server.port, receive_buffer=4096) for _ in range(20)]
    try:
        for connection in slow:
            connection.send(request("/big?mib=256"))
            connection.some(1000)
        end = time.monotonic() + 2
        while time.monotonic() < end:
            assert get(server.port, "/").body == b"Hello, world!"
        assert resident(server) - before < 60_000
    finally:
        for connection in slow:
            connection.reset()


def test_a_proxy_tells_the_client_and_the_scheme(server: Server) -> None:
    """Behind a trusted proxy the scope has the client's address and scheme."""
    answer = get(server.port, "/scope", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https")
    scope = json.loads(answer.body)
    assert (scope["client"], scope["scheme"]) == (["203.0.113.9", 0], "https")
    assert scope["server"] == ["127.0.0.1", server.port]
    assert scope["root_path"] == ""
    assert scope["extensions"] == {}  # nothing is known of the proxy's TLS


def test_a_client_that_leaves_is_noticed(server: Server) -> None:
    """The application is told when its client has left."""
    connection = Connection(server.port)
    connection.send(request("/gone"))
    server.wait_line("gone: waiting")
    connection.close()
    server.wait_line("gone: left")


def test_errors_are_500_or_a_visible_cut(server: Server) -> None:
    """An exception before the answer is 500; in the middle of a body it cuts the body visibly."""
    assert get(server.port, "/fail").status == 500
    server.wait_line("ZeroDivisionError: a fault of the application's")
    with Connection(server.port) as connection, pytest.raises(Failure, match="truncated"):
        connection.get("/fail-late")


def test_the_status_shows_tasks(server: Server, module_home: Home) -> None:
    """`graceful status` names what works for an exchange."""
    with Connection(server.port) as connection, Gate(module_home.path / "gate") as gate:
        connection.send(request(gate.target()))
        gate.wait_reached()
        (shown,) = [one for one in status_of(module_home)["in_flight"] if one["path"] == "/gate"]
        assert (shown["phase"], shown["thread"]) == ("in the application", "asyncio")
        gate.open()
        assert connection.answer().body == b"passed"


def test_a_tree_has_asgi_beside_wsgi(home: Home) -> None:
    """In a tree of resources an ASGI application is served at its place, which is its `root_path`."""
    with Server(home, application="asgi_tree:application") as running:
        assert get(running.port, "/wsgi").body == b"wsgi"
        assert get(running.port, "/plain").body == b"resource"
        scope = json.loads(get(running.port, "/asgi/sub/scope").body)
        assert (scope["root_path"], scope["path"]) == ("/asgi/sub", "/asgi/sub/scope")
        with Connection(running.port) as connection:
            connection.send(request("/asgi/upload", method="POST", body=b"x" * 200_000))
            assert connection.answer("POST").body.startswith(b"200000 ")
        assert get(running.port, "/asgi/state").body == b"hello"


def test_fastapi_is_served(home: Home) -> None:
    """FastAPI: models, dependencies, threads with the request's context, forms, streams."""
    with (
        Server(home, "--request-timeout", "60", application="asgi_fastapi:app") as running,
        httpx.Client(base_url=f"http://127.0.0.1:{running.port}") as client,
    ):
        assert client.get("/").json() == {"hello": "world"}
        assert client.post("/items/", json={"name": "a"}).json() == {"name": "A", "size": 2}
        assert client.post("/items/", json={}).status_code == 422
        assert client.get("/sync/5").json() == {"number": 5, "limited": True}
        answer = client.post("/upload/", files={"file": ("a.bin", FILE)}).json()
        assert answer == {"name": "a.bin", "sha256": hashlib.sha256(FILE).hexdigest()}
        assert client.get("/lines/").content == LINES
        assert client.get("/openapi.json").json()["paths"].keys() >= {"/items/"}


def test_quart_is_served(home: Home) -> None:
    """Quart: its lifespan, bodies while they arrive, streams."""
    # Quart needs h2, which servers under test do not find unless they have to do with TLS.
    with Server(home, application="asgi_quart:app", tls=True) as running:
        running.wait_line("quart: started")
        assert get(running.port, "/").body == b"Hello from Quart"
        with Connection(running.port) as connection:
            connection.send(request("/upload/", method="POST", body=FILE))
            assert connection.answer("POST").body == hashlib.sha256(FILE).hexdigest().encode()
        assert get(running.port, "/lines/").body == LINES
        running.terminate()
        running.wait_line("quart: stopped")
        assert running.wait() == 0


def test_workers_serve_asgi(home: Home) -> None:
    """With workers each has its loop, and a rolling restart loses nothing."""
    with Server(home, "--workers", "2", application="asgi_starlette:app") as running:
        running.wait_line("lifespan: started", count=2)
        assert get(running.port, "/state").body == b"hello"
        running.send_signal(signal.SIGHUP)
        running.wait_line("lifespan: started", count=4, timeout=30)
        assert get(running.port, "/state").body == b"hello"
        running.wait_line("lifespan: stopped", count=2, timeout=30)


def test_downloads_and_waiting_requests_of_starlette_are_the_event_loops(home: Home, tmp_path: Path) -> None:
    """Ranges are answered, requests wait, and what fails behind the answer is reported and cuts nothing."""
    (tmp_path / "big.bin").write_bytes(FILE)
    with Server(home, "--idle-grace", "0.2", application="asgi_handover:app") as server:
        with Connection(server.port) as client, Connection(server.port) as waiting:
            for path in (f"/download?target={tmp_path}/big.bin", f"/download?fail=1&target={tmp_path}/big.bin"):
                whole = client.get(path, "Accept-Encoding: gzip")
                assert (whole.header("Content-Type"), digest(whole.body)) == ("text/x-own", digest(FILE))
                assert whole.header("X-By") == "middleware"
                assert whole.header("Content-Disposition") == "inline; filename*=utf-8''%C3%A4.bin"
                assert (whole.header("Content-Encoding"), whole.header("X-Graceful-Handover")) == (None, None)
                part = client.get(path, "Range: bytes=1000-1999")
                assert (part.status, part.body) == (206, FILE[1000:2000])
                assert client.get(path, f"If-None-Match: {whole.header('ETag')}").status == 304
            assert client.get("/wait?name=late&timeout=0.1").status == 204
            waiting.send(request("/wait?name=me"))
            wait_for(lambda: server.in_flight("parked") == 1)
            assert client.get("/tell?name=me").body == b"True"
            answer = waiting.answer()
            assert (answer.status, answer.header("X-News"), answer.body) == (200, "yes", b"news")
        server.wait_line(r"GET /download\?.*: the application failed after its answer \(OOPS-", count=3)
        server.tracebacks = None
