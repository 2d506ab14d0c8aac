"""Downloads from upstream servers that break, lie, or are slow, and for clients that do."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clients import Answer, Connection, Failure, digest, get, request
from tests.support.home import Home
from tests.support.nginx import Nginx
from tests.support.server import Server, resident
from tests.support.tls import Certificate
from tests.support.upstream import Script, Upstream, Visit, head, says, silent

MIB = 1024 * 1024
# More than what the kernel's buffers hold, on their way through two connections.
DATA = os.urandom(32 * MIB)
APPLICATION = "handover:application"
QUICK = ("--idle-grace", "0.5")
FIRST = 100_000
"""What a lying upstream has sent before it breaks off."""

RESUMABLE = ("Accept-Ranges: bytes", 'ETag: "1"', f"Content-Length: {MIB}")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that is impatient with its upstream servers."""
    home = Home(os.getuid())
    try:
        with Server(home, *QUICK, "--upstream-timeout", "1", "--threads", "4", application=APPLICATION) as server:
            yield server
        assert home.left_behind() == []
    finally:
        home.remove()


# -- an nginx that is killed ---------------------------------------------------------------------------------


@pytest.fixture
def nginx(home: Home) -> Iterator[Nginx]:
    """An nginx that has DATA."""
    files = home.path / "files"
    files.mkdir()
    (files / "file").write_bytes(DATA)
    with Nginx(home.path, files) as nginx:
        yield nginx


def killed_in_the_middle(
    server: Server, nginx: Nginx, path: str, meanwhile: Callable[[], object], *fields: str
) -> Answer:
    """Download, kill nginx when the first bytes have come, and start it when the server has missed it.

    :param meanwhile: what happens while it is down.
    """
    with ThreadPoolExecutor(1) as executor, Connection(server.port, receive_buffer=65536) as connection:
        connection.send(request(f"/download?target={nginx.url}{path}", *fields))
        assert connection.socket.recv(8, socket.MSG_PEEK) == b"HTTP/1.1"
        before = len(server.log)
        nginx.kill()
        answer = executor.submit(connection.answer)
        server.wait_line("refused.*is asked for the rest", start=before)
        meanwhile()
        nginx.start()
        whole = answer.result()
        assert connection.get("/echo?next").body == b"next"
        return whole


def test_a_restart_of_nginx_in_mid_download_loses_no_byte(server: Server, nginx: Nginx) -> None:
    """nginx is killed in the middle of a download, and comes back: the client gets every byte, once."""
    answer = killed_in_the_middle(server, nginx, "/file", lambda: None)
    assert (answer.status, digest(answer.body)) == (200, digest(DATA))
    (rest,) = nginx.asked()  # who is killed writes nothing of what it did before
    assert rest.startswith("GET /file 206 ")
    assert answer.header("ETag") == rest.split()[-1].strip('"').replace("\\x22", '"')


def test_nginx_restarts_in_a_range(server: Server, nginx: Nginx) -> None:
    """Likewise for a part of the file: the rest of that part is asked for, and no more."""
    answer = killed_in_the_middle(server, nginx, "/file", lambda: None, f"Range: bytes=1000-{len(DATA) - 1001}")
    assert (answer.status, digest(answer.body)) == (206, digest(DATA[1000:-1000]))
    assert f'-{len(DATA) - 1001}"' in nginx.asked()[-1]


def test_file_changes_meanwhile(server: Server, nginx: Nginx, home: Home) -> None:
    """Another file under the same name, of the same length, is no rest of the first: the body ends visibly cut."""
    file = home.path / "files" / "file"

    def change() -> None:
        file.write_bytes(DATA[::-1])
        os.utime(file, (1, 1))

    with pytest.raises(Failure, match="truncated"):
        killed_in_the_middle(server, nginx, "/file", change)
    server.wait_line("cut after .* has another file by now")


@pytest.mark.parametrize("path", ["/no-ranges/file", "/no-validator/file"])
def test_cannot_be_resumed(server: Server, nginx: Nginx, path: str) -> None:
    """Without ranges, or a strong validator, nobody can tell what the rest is: the body ends visibly cut."""
    with Connection(server.port, receive_buffer=65536) as connection:
        connection.send(request(f"/download?target={nginx.url}{path}"))
        assert connection.socket.recv(8, socket.MSG_PEEK) == b"HTTP/1.1"
        before = len(server.log)
        nginx.kill()
        with pytest.raises(Failure, match="truncated"):
            connection.answer()
    server.wait_line("cut after .* cannot be asked for the rest", start=before)


def test_nginx_restarts_between(server: Server, nginx: Nginx) -> None:
    """A connection that was kept, and is dead by now, costs no download."""
    for _ in range(3):
        answer = get(server.port, f"/download?target={nginx.url}/file", "Range: bytes=0-99999")
        assert (answer.status, answer.body) == (206, DATA[:100_000])
        nginx.kill()
        nginx.start()


# -- upstream servers that lie -------------------------------------------------------------------------------


def resets(*pieces: bytes) -> Script:
    """A script that sends bytes, and breaks off by a RST."""

    def script(visit: Visit) -> None:
        says(*pieces)(visit)
        visit.reset()

    return script


def stops(*pieces: bytes) -> Script:
    """A script that sends bytes, and then nothing, for ever."""

    def script(visit: Visit) -> None:
        says(*pieces)(visit)
        visit.wait_left()

    return script


def endless_head(visit: Visit) -> None:
    """A script whose head has no end."""
    visit.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        visit.send(b"X-More: and more\r\n" * 1000)


def endless_line(visit: Visit) -> None:
    """A script whose first line has no end."""
    visit.send(b"HTTP/1.1 200 ")
    while True:
        visit.send(b"OK" * 10_000)


def asked(server: Server, upstream: Upstream, *fields: str) -> Answer:
    """Download what the upstream has."""
    return get(server.port, f"/download?target={upstream.url}/file", *fields)


UNUSABLE: dict[str, tuple[int, Script]] = {
    "closes at once": (502, says()),
    "resets at once": (502, resets()),
    "ends within its head": (502, says(b"HTTP/1.1 200 OK\r\nContent-Le")),
    "garbage": (502, says(b"\x00\xff" * 100 + b"\r\n\r\n")),
    "another protocol": (502, says(b"220 smtp.example ESMTP\r\n")),
    "a length that is none": (502, says(head("Content-Length: many"), b"12345")),
    "two lengths": (502, says(head("Content-Length: 5", "Content-Length: 6"), b"123456")),
    "a part that nobody wants": (502, says(head("Content-Range: bytes 0-4/9", status="206 Partial"), b"12345")),
    "a field that breaks lines": (502, says(head("X-Bad: a\x00b", "Content-Length: 5"), b"12345")),
    "a head without an end": (502, endless_head),
    "a line without an end": (502, endless_line),
    "never answers": (504, silent),
    "never ends its head": (504, stops(b"HTTP/1.1 200 OK\r\nX-Slow:")),
}


@pytest.mark.parametrize("lie", UNUSABLE)
def test_nothing_to_pass_on(server: Server, lie: str) -> None:
    """Before the first byte is out, an upstream that cannot be used is a 502, and a late one a 504."""
    status, script = UNUSABLE[lie]
    before = len(server.log)
    with Upstream(script) as upstream:
        answer = asked(server, upstream)
        assert answer.status == status
        assert not {"X-Bad", "X-More", "X-Slow"} & {name for name, _ in answer.headers}
    server.wait_line(r"graceful#error\] <exchange \d+ GET /download\S*/file downloading>: ", start=before)


def test_an_upstream_that_is_not_there_is_a_502(server: Server) -> None:
    """An upstream that is not there is a 502."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert get(server.port, f"/download?target=http://127.0.0.1:{nobody.getsockname()[1]}/file").status == 502
    assert get(server.port, "/download?target=http://graceful.invalid/").status == 502


def test_takes_no_connection(home: Home) -> None:
    """An upstream that takes no connection within its time is a 504."""
    options = (*QUICK, "--upstream-connect-timeout", "0.3")
    with (
        Server(home, *options, application=APPLICATION) as server,
        socket.create_server(("127.0.0.1", 0), backlog=0) as nobody,
        ExitStack() as stack,
    ):
        for _ in range(3):  # the queue is full with the first or second, and the kernel then drops the SYN
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(nobody.getsockname())
        assert get(server.port, f"/download?target=http://127.0.0.1:{nobody.getsockname()[1]}/file").status == 504
        server.wait_line("does not connect within 0.3 s")


CUT: dict[str, tuple[Script, ...]] = {
    "a short body": (says(head(f"Content-Length: {MIB}"), bytes(FIRST)),),
    "a reset, not to be resumed": (resets(head(f"Content-Length: {MIB}"), bytes(FIRST)),),
    "silence": (stops(head(f"Content-Length: {MIB}"), bytes(FIRST)),),
    "chunks that stop": (says(head("Transfer-Encoding: chunked"), b"186a0\r\n", bytes(FIRST)),),
    "a chunk that is none": (says(head("Transfer-Encoding: chunked"), b"186a0\r\n", bytes(FIRST), b"\r\nmany\r\n"),),
    "a weak validator": (says(head('ETag: W/"1"', "Accept-Ranges: bytes", f"Content-Length: {MIB}"), bytes(FIRST)),),
    "the whole instead of the rest": (
        says(head(*RESUMABLE), bytes(FIRST)),
        says(head(*RESUMABLE), bytes(MIB)),
    ),
    "another part than the rest": (
        says(head(*RESUMABLE), bytes(FIRST)),
        says(
            head(f"Content-Range: bytes 0-{MIB - 1}/{MIB}", f"Content-Length: {MIB}", status="206 Partial"),
            bytes(MIB),
        ),
    ),
    "the rest of another file": (
        says(head(*RESUMABLE), bytes(FIRST)),
        says(
            head(
                f"Content-Range: bytes {FIRST}-{MIB - 1}/{MIB}",
                'ETag: "2"',
                f"Content-Length: {MIB - FIRST}",
                status="206 Partial",
            ),
            bytes(MIB - FIRST),
        ),
    ),
    "gone": (says(head(*RESUMABLE), bytes(FIRST)), says(head("Content-Length: 0", status="404 Gone"))),
}


@pytest.mark.parametrize("lie", CUT)
def test_a_body_that_cannot_be_resumed_ends_visibly_short(server: Server, lie: str) -> None:
    """In the middle of the body, what cannot be gone on with ends visibly short, after every byte that was right."""
    got: list[bytes] = []
    before = len(server.log)
    with Upstream(*CUT[lie]) as upstream, Connection(server.port) as connection:
        connection.send(request(f"/download?target={upstream.url}/file"))
        with pytest.raises(Failure, match="truncated"):
            connection.answer(consume=got.append)
    assert b"".join(got) == bytes(FIRST)
    server.wait_line("cut after 100000 bytes", start=before)


@pytest.mark.parametrize("how", ["ends", "resets", "is silent"])
def test_a_body_that_breaks_off_is_resumed_by_a_range(server: Server, how: str) -> None:
    """A body that breaks off at any byte is gone on with by a range, and 503s on the way are waited out."""
    data = DATA[:MIB]
    script = {"ends": says, "resets": resets, "is silent": stops}[how]
    busy = says(head("Content-Length: 0", status="503 Busy"))

    def rest(visit: Visit) -> None:
        assert visit.field("If-Range") == '"1"'
        unit, _, places = (visit.field("Range") or "").partition("=")
        first, last = map(int, places.split("-"))
        assert (unit, last) == ("bytes", MIB - 1)
        fields = (f"Content-Range: bytes {first}-{last}/{MIB}", f"Content-Length: {last - first + 1}", 'ETag: "1"')
        visit.send(head(*fields, status="206 Partial Content") + data[first:])

    with Upstream(script(head(*RESUMABLE), data[:FIRST]), busy, rest) as upstream:
        answer = asked(server, upstream)
    assert (answer.status, digest(answer.body)) == (200, digest(data))
    assert len(upstream.visits) == 3


def test_more_than_announced(server: Server) -> None:
    """What comes behind the announced length is no answer to anybody."""
    with Upstream(
        says(head("Content-Length: 5"), b"12345HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")
    ) as upstream:
        for _ in range(2):
            assert asked(server, upstream).body == b"12345"


def test_without_a_length(server: Server) -> None:
    """A body whose length nobody knows arrives in chunks; an interim answer does not."""
    chunks = b"5\r\n12345\r\n0\r\n\r\n"
    early = head("Link: </x>", status="103 Early Hints")
    with Upstream(says(early, head("Transfer-Encoding: chunked"), chunks)) as upstream:
        answer = asked(server, upstream)
        assert (answer.header("Transfer-Encoding"), answer.body, answer.interim) == ("chunked", b"12345", ())


def test_an_upstream_is_asked_by_tls_if_its_certificate_is_trusted(home: Home, tmp_path: Path) -> None:
    """An upstream is asked by TLS, and only if its certificate is trusted."""
    certificate = Certificate(tmp_path)
    trusting = {"SSL_CERT_FILE": str(certificate.path)}
    with Upstream(says(head("Content-Length: 2"), b"ok"), tls=certificate.serving()) as upstream:
        for environment, status in ((trusting, 200), ({}, 502)):
            with Server(home, *QUICK, application=APPLICATION, environment=environment, tls=True) as server:
                assert asked(server, upstream).status == status
    assert len(upstream.visits) == 1


def test_what_the_upstream_gets_to_see(server: Server) -> None:
    """Cookies and passwords are for the application; who asks, and for what part, is for the file store, too."""
    fields = (
        "Cookie: a=b",
        "Authorization: Basic eDp5",
        "User-Agent: me",
        "Range: bytes=0-4",
        "Accept-Encoding: gzip",
    )
    with Upstream(says(head("Content-Length: 2"), b"ok")) as upstream:
        asked(server, upstream, *fields, "X-Other: x", 'If-None-Match: "x"')
        visit = upstream.visit()
        for name in ("Cookie", "Authorization", "X-Other"):
            assert visit.field(name) is None
        assert visit.field("User-Agent") == "me"
        assert visit.field("Range") == "bytes=0-4"
        assert visit.field("If-None-Match") == '"x"'
        assert visit.field("Accept-Encoding") == "identity"
        assert visit.field("X-Forwarded-For") == "127.0.0.1"
        assert visit.field("X-Request-Id")


# -- clients ------------------------------------------------------------------------------------------------


def test_client_leaves_before_the_answer(home: Home) -> None:
    """A reset ends the upstream's request at once; a client that closes may still read, up to a limit."""
    options = ("--idle-grace", "0.5", "--upstream-timeout", "3")
    with Server(home, *options, application=APPLICATION) as server, Upstream(silent) as upstream:
        for number, leave in enumerate((Connection.close, Connection.reset)):
            connection = Connection(server.port)
            connection.send(request(f"/download?target={upstream.url}/file"))
            visit = upstream.visit(number)
            leave(connection)
            assert visit.left.wait(1 if leave is Connection.reset else 6)


def test_client_half_closes_before_the_answer(server: Server) -> None:
    """A client that says at once that it will send nothing more gets all of a file whose store takes its time."""
    body, asked = b"late " * 1000, threading.Event()

    def late(visit: Visit) -> None:
        assert asked.wait(10)
        visit.send(head(f"Content-Length: {len(body)}") + body)

    with Upstream(late) as upstream, Connection(server.port) as connection:
        connection.send(request(f"/download?target={upstream.url}/file"))
        connection.half_close()
        upstream.visit()
        assert not select.select([connection.socket], [], [], 0.5)[0], "it was not waited for"
        asked.set()
        assert connection.answer().body == body
        connection.end()


@pytest.mark.parametrize("how", ["closes", "resets"])
def test_client_leaves_in_the_middle(server: Server, how: str) -> None:
    """A client that leaves in the middle of a body ends the upstream's request at once."""

    def flood(visit: Visit) -> None:
        visit.send(head(f"Content-Length: {1 << 40}"))
        visit.flood(1 << 40)

    with Upstream(flood) as upstream, Connection(server.port) as connection:
        connection.send(request(f"/download?target={upstream.url}/file"))
        connection.some(MIB)
        connection.reset() if how == "resets" else connection.close()
        assert upstream.visit().left.wait(3)


def test_slow_client_pauses_the_upstream(server: Server) -> None:
    """While a client takes nothing, the upstream can send no more than the kernels hold; then everything arrives."""
    size = 64 * MIB

    def flood(visit: Visit) -> None:
        visit.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        visit.send(head(f"Content-Length: {size}"))
        visit.flood(size)

    with Upstream(flood) as upstream, Connection(server.port, receive_buffer=65536) as connection:
        before = resident(server.pid)
        connection.send(request(f"/download?target={upstream.url}/file"))
        visit = upstream.visit()
        assert visit.stalled.wait(10)
        assert visit.sent < size / 2
        assert server.stays(2.2)  # an upstream that is paused is not silent
        assert resident(server.pid) - before < 4 * MIB
        got = 0

        def consume(piece: bytes) -> None:
            nonlocal got
            got += len(piece)

        connection.answer(consume=consume)
        assert got == size


def test_client_takes_nothing(home: Home, nginx: Nginx) -> None:
    """A client that takes nothing for `--send-timeout` is cut, and the log says so."""
    options = (*QUICK, "--send-timeout", "0.5")
    with Server(home, *options, application=APPLICATION) as server, ExitStack() as stack:
        connections = []
        for target in (nginx.url + "/file", home.path / "files" / "file"):
            connections.append(stack.enter_context(Connection(server.port, receive_buffer=4096)))
            connections[-1].send(request(f"/download?target={target}"))
        server.wait_line("a client takes nothing", count=2)
        server.settle()
        for connection in connections:
            with pytest.raises(Failure, match=r"truncated|reset"):
                connection.answer()


def test_pipelined_downloads_come_one_after_the_other(server: Server, nginx: Nginx, home: Home) -> None:
    """Downloads that were asked for in one packet come one after the other, and what stands behind them, too."""
    targets = (nginx.url + "/file", str(home.path / "files" / "file"))
    with Connection(server.port) as connection:
        connection.send(
            b"".join(request(f"/download?target={target}", "Range: bytes=0-999999") for target in targets * 2)
            + request("/echo?last")
        )
        for _ in range(4):
            assert digest(connection.answer().body) == digest(DATA[:1_000_000])
        assert connection.answer().body == b"last"


@pytest.mark.parametrize("where", ["URL", "path"])
def test_threads_are_free(server: Server, nginx: Nginx, home: Home, where: str) -> None:
    """With 4 threads and 30 downloads whose clients take nothing, others are answered; then all downloads arrive."""
    target = nginx.url + "/file" if where == "URL" else str(home.path / "files" / "file")
    size = 12 * MIB
    with ExitStack() as stack:
        downloads = [stack.enter_context(Connection(server.port, receive_buffer=65536)) for _ in range(30)]
        for connection in downloads:
            connection.send(request(f"/download?target={target}", f"Range: bytes=0-{size - 1}"))
        for connection in downloads:
            assert connection.socket.recv(8, socket.MSG_PEEK) == b"HTTP/1.1"
        for _ in range(20):
            assert get(server.port).status == 200
        for connection in downloads[:4]:
            assert digest(connection.answer().body) == digest(DATA[:size])
