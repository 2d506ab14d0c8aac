"""What applications do right and wrong (PEP 3333), seen from the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.clients import Connection, Failure, ask, get, request
from tests.support.home import Home
from tests.support.server import Server
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def server(module_home: Home) -> Iterator[Server]:
    """One server for all tests here; the number of tracebacks in its log is checked at its end."""
    with Server(module_home, "--idle-grace", "0.5") as running:
        yield running


def logs_traceback(server: Server, last_line: str) -> None:
    """Wait for a traceback in the log that is not to be taken for a fault of the server."""
    server.wait_line(last_line)
    server.tracebacks += 1


def closed(server: Server) -> int:
    """Return how many iterables the server has closed so far."""
    return int(get(server.port, "/closed").body)


def test_the_environ_has_the_request_byte_for_byte(server: Server) -> None:
    """The environ says where the request came from and what was asked, byte for byte."""
    data = request("/environ?a=%C3%A9&b", "Content-Type: text/x", "X-A: 1", "X-A: 2", host="site.example:80")
    with Connection(server.port) as connection:
        connection.send(data)
        environ = json.loads(connection.answer().body)
        assert environ["REMOTE_PORT"] == str(connection.socket.getsockname()[1])
    assert environ["REQUEST_METHOD"] == "GET"
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/environ")
    assert environ["QUERY_STRING"] == "a=%C3%A9&b"
    assert environ["REQUEST_URI"] == "/environ?a=%C3%A9&b"
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["SERVER_PORT"] == str(server.port)
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["CONTENT_TYPE"] == "text/x"
    assert environ["HTTP_HOST"] == "site.example:80"
    assert environ["HTTP_X_A"].replace(" ", "") == "1,2"
    assert (environ["wsgi.url_scheme"], environ["wsgi.multithread"]) == ("http", True)
    assert environ["wsgi.input_terminated"] is True


def test_path_is_decoded(server: Server) -> None:
    """PATH_INFO holds the decoded bytes as Latin-1 characters, as PEP 3333 has strings."""
    assert ask(server.port, request("/caf%C3%A9%2F")).body == "GET /café/".encode()


def test_lines_of_the_body(server: Server) -> None:
    """`wsgi.input` can be read line by line in every way that PEP 3333 names."""
    body = b"first\nsecond\nthird\nfourth"
    lines = json.loads(ask(server.port, request("/lines", method="POST", body=body), "POST").body)
    assert lines == ["first\n", "sec", "ond\n", "third\n", "fourth"]


def test_what_is_written_comes_before_what_is_returned(server: Server) -> None:
    """What the application passes to `write` comes before what it returns."""
    assert get(server.port, "/write").body == b"one two three"


def test_a_wrapped_file_arrives_whole(server: Server) -> None:
    """A file that the application gives away whole arrives whole."""
    path = server.home.path / "wrapped"
    content = bytes(range(256)) * 1000
    path.write_bytes(content)
    assert get(server.port, f"/wrapped?path={path}").body == content


def test_headers_replaced_in_time(server: Server) -> None:
    """`start_response` with exc_info replaces headers that were not sent."""
    answer = get(server.port, "/excinfo")
    assert (answer.status, answer.reason, answer.header("X-Lost")) == (503, "Replaced", None)
    assert answer.body == b"replaced"


def test_headers_replaced_too_late(server: Server) -> None:
    """When the headers are out, exc_info ends the answer, visibly short, and the log has the traceback."""
    with pytest.raises(Failure, match="truncated"):
        get(server.port, "/excinfolate")
    logs_traceback(server, "ValueError: too late on purpose")


def test_failure_before_the_headers(server: Server) -> None:
    """An application that fails at once gives a short 500, and the log has the traceback."""
    answer = get(server.port, "/fail")
    assert answer.status == 500
    assert b"purpose" not in answer.body
    logs_traceback(server, "RuntimeError: failed on purpose")


def test_failure_in_the_body(server: Server) -> None:
    """An application that fails in the middle gives an answer that is visibly short."""
    with pytest.raises(Failure, match="truncated"):
        get(server.port, "/faillate")
    logs_traceback(server, "RuntimeError: failed late on purpose")


def test_failure_in_close(server: Server) -> None:
    """A failing `close` is logged and does not damage the answer, which was whole."""
    assert get(server.port, "/failclose").body == b"whole"
    logs_traceback(server, "RuntimeError: failed in close on purpose")


def test_fewer_bytes_than_announced(server: Server) -> None:
    """A body that is shorter than its Content-Length ends with the connection, never padded or reused."""
    with pytest.raises(Failure, match="truncated: 5 bytes"):
        get(server.port, "/under")


def test_more_bytes_than_announced(server: Server) -> None:
    """Bytes beyond the Content-Length are not sent."""
    with Connection(server.port) as connection:
        assert connection.get("/over").body == b"01234"
        connection.send(request("/echo?next"))
        assert connection.answer().body == b"next"


@pytest.mark.parametrize("path", ["/gen", "/under", "/over", "/big?bytes=300000"])
def test_close_is_called_once(server: Server, path: str) -> None:
    """The iterable is closed exactly once, whether its body was right or not."""
    before = closed(server)
    with Connection(server.port) as connection:
        connection.send(request(path, "Connection: close"))
        while connection.socket.recv(65536):
            pass
    wait_for(lambda: closed(server) > before)  # a thread does it, when the client has its answer
    assert closed(server) == before + 1


def test_close_is_called_after_a_disconnect(server: Server) -> None:
    """The iterable is closed, once, when the client goes away in the middle of a large answer."""
    before = closed(server)
    with Connection(server.port, receive_buffer=4096) as connection:
        connection.send(request("/big?bytes=50000000"))
        connection.socket.recv(1000)
        connection.reset()
    wait_for(lambda: closed(server) > before)
    assert closed(server) == before + 1


def test_close_is_called_for_head(server: Server) -> None:
    """HEAD does not keep the iterable from being closed."""
    before = closed(server)
    ask(server.port, request("/gen", method="HEAD"), "HEAD")
    wait_for(lambda: closed(server) > before)
    assert closed(server) == before + 1


PROXIED = ("X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https")


def test_strangers_may_not_say_who_they_are(server: Server) -> None:
    """Forwarded addresses from a peer that is no trusted proxy change nothing."""
    environ = json.loads(ask(server.port, request("/environ", *PROXIED)).body)
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("127.0.0.1", "http")


def test_a_trusted_proxy_tells_the_client_to_application_and_log(home: Home) -> None:
    """A trusted proxy says who the client is, for the application and for the access log."""
    log = home.logs / "access.log"
    options = ("--trusted-proxy", "127.0.0.0/8", "--access-log", str(log))
    with Server(home, *options) as server:
        data = request("/environ", *PROXIED, "X-Request-Id: from-the-proxy", "Connection: close")
        environ = json.loads(ask(server.port, data).body)
        assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("192.0.2.7", "https")
        server.terminate()
        assert server.wait() == 0
    line = log.read_text()
    assert line.startswith("192.0.2.7 - - [")
    assert '"GET /environ HTTP/1.1" 200 ' in line
    assert "from-the-proxy" in line
