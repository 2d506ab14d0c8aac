"""HTTP/1.1 and 1.0 as RFC 9112 and 9110 have it, for a client that forgives nothing."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.clients import Connection, Failure, ask, chunked, get, request
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import Server

MAX_BODY = 5_000_000


@pytest.fixture(scope="module")
def server(module_home: Home) -> Iterator[Server]:
    """One server for all tests here; that it stops cleanly afterwards is one more test."""
    times = ("--idle-grace", "12", "--keep-alive", "7", "--header-timeout", "1")
    bodies = ("--max-body", str(MAX_BODY), "--spool", str(module_home.spool))
    with Server(module_home, *times, *bodies) as running:
        yield running


def test_two_requests_on_one_connection(server: Server) -> None:
    """An HTTP/1.1 connection stays open, and its announced time is the configured one."""
    with Connection(server.port) as connection:
        first = connection.get("/")
        assert (first.status, first.body, first.header("Content-Length")) == (200, b"Hello, world!", "13")
        assert first.header("Keep-Alive") == "timeout=7"
        assert first.header("Date") is not None
        assert connection.get("/echo?again").body == b"again"


def test_close_is_confirmed(server: Server) -> None:
    """A client that says `Connection: close`, also among other options, gets it back and a clean end."""
    assert get(server.port).body == b"Hello, world!"
    with Connection(server.port) as connection:
        assert connection.get("/", "Connection: TE, close").says_close
        connection.end()


def test_requests_after_close_are_not_served(server: Server) -> None:
    """What follows a request with `Connection: close` on the connection is not answered."""
    with Connection(server.port) as connection:
        connection.send(request("/echo?last", "Connection: close") + request("/echo?never"))
        assert connection.answer().body == b"last"
        connection.end()


def test_300_requests_in_one_packet(server: Server) -> None:
    """Pipelined requests are answered in order, however many come at once."""
    with Connection(server.port) as connection:
        connection.send(b"".join(request(f"/echo?{number}") for number in range(300)))
        assert [connection.answer().body for _ in range(300)] == [b"%d" % number for number in range(300)]


def test_pipelined_answers_keep_the_order(server: Server) -> None:
    """A fast request behind a slow one on the same connection waits for it."""
    with Gate(server.home.path / "order") as gate, Connection(server.port) as connection:
        connection.send(request(gate.target()) + request("/echo?fast") + request("/gen"))
        gate.wait_reached()
        with Connection(server.port) as other:
            assert other.get("/echo?meanwhile").body == b"meanwhile"
        assert not connection.closed_while_idle()
        gate.open()
        assert [connection.answer().body for _ in range(3)] == [b"passed", b"fast", b"abcdef"]


def test_byte_by_byte(server: Server) -> None:
    """A head that comes in packets of one byte is put together."""
    with Connection(server.port) as connection:
        for byte in request("/echo?slowly", "X-Field: value"):
            connection.send(bytes([byte]))
        assert connection.answer().body == b"slowly"


def test_empty_lines_before_a_request(server: Server) -> None:
    """A few empty lines before the request line are skipped (RFC 9112 §2.2)."""
    assert ask(server.port, b"\r\n\r\n" + request("/echo?x")).body == b"x"


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 4_000_000])
def test_an_upload_reaches_the_application_whole(server: Server, size: int) -> None:
    """A body with a Content-Length reaches the application whole, and the next request is found behind it."""
    body = os.urandom(size)
    with Connection(server.port) as connection:
        connection.send(request("/upload", method="POST", body=body) + request("/echo?next"))
        assert connection.answer("POST").body == digest(body)
        assert connection.answer().body == b"next"


@pytest.mark.parametrize("size", [0, 1, 65_537, 4_000_000])
def test_a_chunked_upload_reaches_the_application_decoded(server: Server, size: int) -> None:
    """A body in chunked coding reaches the application decoded, and the next request is found behind it."""
    body = os.urandom(size)
    pieces = [body[start : start + 7000] for start in range(0, size, 7000)]
    with Connection(server.port) as connection:
        head = request("/upload", "Transfer-Encoding: chunked", method="POST")
        connection.send(head + chunked(pieces) + request("/echo?next"))
        assert connection.answer("POST").body == digest(body)
        assert connection.answer().body == b"next"


def test_trailers_are_not_headers(server: Server) -> None:
    """Fields after the last chunk do not appear among the request's headers."""
    head = request("/environ", "Transfer-Encoding: chunked", method="POST")
    answer = ask(server.port, head + chunked([b"body"], "Host: evil.example", "X-Trailer: 1"), "POST")
    environ = json.loads(answer.body)
    assert environ["HTTP_HOST"] == "test.example"
    assert "HTTP_X_TRAILER" not in environ


def test_an_answer_of_unknown_length_is_chunked(server: Server) -> None:
    """An answer of unknown length is chunked for an HTTP/1.1 client, which can go on using the connection."""
    with Connection(server.port) as connection:
        answer = connection.get("/gen")
        assert (answer.header("Transfer-Encoding"), answer.body) == ("chunked", b"abcdef")
        assert connection.get("/echo?next").body == b"next"


def test_header_fields_of_lists_are_sent(server: Server) -> None:
    """An application that has lists for tuples, and a tuple for the list, is served; the same head comes twice."""
    for number in ("1", "2", "2"):
        answer = get(server.port, f"/lists?nr={number}")
        assert (answer.status, answer.body, answer.header("X-Number")) == (200, b"lists", number)


def test_100_continue_is_sent_before_the_body(server: Server) -> None:
    """A client that waits for `100 Continue` gets it before it sends its body."""
    with Connection(server.port) as connection:
        head = request("/upload", "Expect: 100-continue", "Content-Length: 5", method="POST")
        connection.send(head)
        connection.wait_continue()
        connection.send(b"hello")
        assert connection.answer("POST").body == digest(b"hello")


def test_expect_continue_behind_a_slow_request(server: Server) -> None:
    """`100 Continue` for a pipelined request does not overtake the answer before it."""
    with Gate(server.home.path / "expect") as gate, Connection(server.port) as connection:
        connection.send(request(gate.target()))
        connection.send(request("/upload", "Expect: 100-continue", "Content-Length: 5", method="POST"))
        gate.wait_reached()
        with Connection(server.port) as other:
            assert other.get("/").status == 200
        assert not connection.closed_while_idle()
        gate.open()
        first = connection.answer()
        assert (first.body, first.interim) == (b"passed", ())
        connection.wait_continue()
        connection.send(b"hello")
        assert connection.answer("POST").body == digest(b"hello")


def test_head_is_answered_without_a_body(server: Server) -> None:
    """HEAD is answered like GET but without a body."""
    with Connection(server.port) as connection:
        assert connection.get("/", method="HEAD").header("Content-Length") == "13"
        assert connection.get("/gen", method="HEAD").body == b""
        assert connection.get("/echo?next").body == b"next"


def test_no_content_and_not_modified(server: Server) -> None:
    """204 and 304 have no body and no framing that promises one."""
    with Connection(server.port) as connection:
        assert connection.get("/204").status == 204
        answer = connection.get("/304")
        assert (answer.status, answer.header("ETag")) == (304, '"x"')
        assert answer.header("Transfer-Encoding") is None
        assert connection.get("/echo?next").body == b"next"


def test_an_absolute_target_is_split_and_its_host_wins(server: Server) -> None:
    """A target with scheme and host is split, and its host wins over the Host field (RFC 9112 §3.2.2)."""
    environ = json.loads(ask(server.port, request("http://other.example/environ?a=b")).body)
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/environ", "a=b")
    assert environ["HTTP_HOST"] == "other.example"


@pytest.mark.parametrize("method", ["BREW", "PROPFIND", "M-SEARCH", "get", "!#$%&'*+-.^_`|~09"])
def test_any_method_token(server: Server, method: str) -> None:
    """Any token is a method, and the application decides about it."""
    answer = ask(server.port, request("/coffee", method=method), method)
    assert (answer.status, answer.body) == (404, f"{method} /coffee".encode())


def test_options_asterisk_has_an_empty_path(server: Server) -> None:
    """`OPTIONS *` reaches the application, with an empty path: it is about no resource."""
    assert ask(server.port, request("*", method="OPTIONS"), "OPTIONS").body == b"OPTIONS "


def test_upgrade_is_ignored(server: Server) -> None:
    """A request that offers an upgrade is answered as if it did not, its body and the next one too."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    with Connection(server.port) as connection:
        connection.send(request("/upload", *offer, method="POST", body=b"hello") + request("/echo?next"))
        answer = connection.answer("POST")
        assert (answer.status, answer.body) == (200, digest(b"hello"))
        assert connection.answer().body == b"next"


def test_field_names_with_underscore_are_dropped(server: Server) -> None:
    """`A_B` and `A-B` look the same in an environ, so only the honest one gets there."""
    answer = ask(server.port, request("/environ", "X_Real: evil", "X-Real: good", "X-Empty:"))
    environ = json.loads(answer.body)
    assert (environ["HTTP_X_REAL"], environ["HTTP_X_EMPTY"]) == ("good", "")


def test_http_1_0(server: Server) -> None:
    """An HTTP/1.0 client gets a close, and no chunks."""
    with Connection(server.port) as connection:
        connection.send(request("/gen", version="1.0", host=None))
        answer = connection.answer(version="1.0")
        assert (answer.body, answer.says_close) == (b"abcdef", True)
        connection.end()


def test_http_1_0_keep_alive(server: Server) -> None:
    """An HTTP/1.0 client that asks for it may send the next request, if the answer has a length."""
    with Connection(server.port) as connection:
        for number in range(3):
            connection.send(request(f"/echo?{number}", "Connection: keep-alive", version="1.0"))
            answer = connection.answer(version="1.0")
            assert (answer.body, answer.header("Connection")) == (b"%d" % number, "keep-alive")
        connection.send(request("/gen", "Connection: keep-alive", version="1.0"))
        assert connection.answer(version="1.0").says_close
        connection.end()


LONG = "a" * 100_000
CHUNKED = "Transfer-Encoding: chunked"
REFUSED = {
    "no Host": (400, request(host=None)),
    "two Hosts": (400, request("/", "Host: again.example")),
    "two lengths": (400, request("/", "Content-Length: 1", "Content-Length: 2", method="POST")),
    "length and coding": (400, request("/", "Content-Length: 1", CHUNKED, method="POST")),
    "signed length": (400, request("/", "Content-Length: +1", method="POST") + b"x"),
    "bad chunk size": (400, request("/upload", CHUNKED, method="POST") + b"zz\r\n"),
    "NUL in a field": (400, request("/", "X: a\0b")),
    "CR in a field": (400, request("/", "X: a\rb")),
    "control in a field": (400, request("/", "X: a\x01b")),
    "folded field": (400, request("/", "X: a\r\n b")),
    "space before colon": (400, request("/", "X : a")),
    "coding on 1.0": (400, request("/", CHUNKED, method="POST", version="1.0")),
    "no request at all": (400, b"GARBAGE\r\n\r\n"),
    "asterisk without OPTIONS": (400, request("*")),
    "body too long": (413, request("/upload", f"Content-Length: {MAX_BODY + 1}", method="POST")),
    "target too long": (414, request("/" + LONG)),
    "unknown expectation": (417, request("/", "Expect: a-miracle")),
    "fields too long": (431, request("/", f"X: {LONG}", f"Y: {LONG}")),
    "unknown coding": (501, request("/", "Transfer-Encoding: gzip, chunked", method="POST")),
    "version 2": (505, request("/", version="2.0")),
    "version 3": (505, request("/", version="3.0")),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_bad_request_gets_its_own_status_and_a_clean_close(server: Server, reason: str) -> None:
    """What cannot be understood or accepted gets its own status, a short body and a clean close."""
    status, data = REFUSED[reason]
    with Connection(server.port) as connection:
        connection.send(data)
        answer = connection.answer()
        assert (answer.status, answer.says_close) == (status, True)
        assert 0 < len(answer.body) < 200
        connection.end()


def test_chunked_body_too_long(server: Server) -> None:
    """A body that turns out to be too long gets 413, which reaches a client that still sends."""
    with Connection(server.port) as connection:
        connection.send(request("/upload", "Transfer-Encoding: chunked", method="POST"))
        connection.send(chunked([bytes(1_000_000)] * 6))
        assert connection.answer("POST").status == 413
        connection.end()


def test_head_that_does_not_come(server: Server) -> None:
    """A head that is not complete in time gets 408 and a close."""
    with Connection(server.port) as connection:
        connection.send(request("/")[:-4])
        answer = connection.answer()
        assert (answer.status, answer.says_close) == (408, True)
        connection.end()


def test_good_requests_before_a_bad_one(server: Server) -> None:
    """Requests before the one that cannot be understood are answered first."""
    with Gate(server.home.path / "good") as gate, Connection(server.port) as connection:
        connection.send(request(gate.target()) + request("/echo?good") + b"GARBAGE\r\n\r\n")
        gate.wait_reached()
        gate.open()
        assert [connection.answer().status for _ in range(3)] == [200, 200, 400]
        connection.end()


def test_client_that_half_closes(server: Server) -> None:
    """A client that says it sends no more, and then reads, gets its answer."""
    with Gate(server.home.path / "half") as gate, Connection(server.port) as connection:
        connection.send(request(gate.target()) + request("/echo?second"))
        connection.half_close()
        gate.wait_reached()
        gate.open()
        assert [connection.answer().body for _ in range(2)] == [b"passed", b"second"]
        connection.end()


def test_idle_connection_is_closed_after_the_announced_time(home: Home) -> None:
    """An idle connection lives five seconds longer than announced: a request sent in time is not lost."""
    with Server(home, "--keep-alive", "1") as server, ThreadPoolExecutor(8) as executor:

        def idle(start: float) -> float:
            """Return how long a connection is idle that begins so many seconds from now."""
            time.sleep(start)
            with Connection(server.port) as connection:
                assert connection.get("/").header("Keep-Alive") == "timeout=1"
                answered = time.monotonic()
                connection.end()
                return time.monotonic() - answered

        # The server looks at its connections now and then: at least one of these begins just before it does.
        for seconds in executor.map(idle, [number / 8 for number in range(8)]):
            assert 5.99 < seconds < 10


def test_unfinished_upload_is_not_given_to_the_application(server: Server) -> None:
    """A client that goes away in the middle of its body leaves nothing behind, and the server lives on."""
    with Connection(server.port) as connection:
        connection.send(request("/upload", "Content-Length: 1000000", method="POST") + b"x" * 500_000)
        connection.reset()
    assert get(server.port).status == 200


def test_reset_connections_harm_nobody(server: Server) -> None:
    """Clients that reset their connections at various moments do not disturb others."""
    whole = request("/one?bytes=200000")
    for sent in (*range(0, len(whole), 3), len(whole)):
        with Connection(server.port) as connection:
            connection.send(whole[:sent])
            connection.reset()
    assert get(server.port).status == 200


def test_a_server_on_a_unix_socket_removes_its_file(home: Home) -> None:
    """A server on a Unix socket serves, and takes its socket file away when it stops."""
    path = home.run / "socket"
    with Server(home, "--idle-grace", "0.5", listen=[f"unix:{path}"]) as server:
        assert get(str(path)).body == b"Hello, world!"
        server.terminate()
        assert server.wait() == 0
        with pytest.raises(Failure, match="refused"):
            Connection(str(path))


def test_each_listener_is_opened_logged_and_closed(home: Home) -> None:
    """Each `--listen` is opened, said, and closed."""
    addresses = ["tcp:0:interface=127.0.0.1", "tcp:0:interface=127.0.0.1"]
    with Server(home, listen=addresses) as server:
        server.wait_line(r"socket \S+ open", count=2)
        assert [get(port).status for port in server.ports] == [200, 200]
        server.terminate()
        server.wait_line(r"socket \S+ closed", count=2)
        assert server.wait() == 0


@pytest.mark.parametrize("reactor", ["poll", "asyncio"])
def test_a_reactor_that_was_chosen_serves_and_drains(home: Home, reactor: str) -> None:
    """With `twistd --reactor=` all is as with the reactor that is used without it."""
    with (
        Server(home, "--idle-grace", "0.5", twistd_options=(f"--reactor={reactor}",)) as server,
        Gate(home.path / "gate") as gate,
        Connection(server.port) as connection,
    ):
        assert connection.get("/").body == b"Hello, world!"
        connection.send(request(gate.target()))
        gate.open_in_a_stop(server)
        assert connection.answer().body == b"passed"
        connection.end()
        assert server.wait() == 0


def digest(body: bytes) -> bytes:
    """Return what `/upload` answers to this body."""
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode()
