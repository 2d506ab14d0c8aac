"""Trees of Twisted's resources, with WSGI applications anywhere in them, seen from the wire."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Answer, Connection, Failure, ask, chunked, get, request
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import Server
from tests.support.waiting import PATIENCE

MIB = 1024 * 1024
PATTERN = bytes(range(256)) * 4096

Sites = Callable[..., Server]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with files to be served."""
    directory = tmp_path_factory.mktemp("files")
    (directory / "small.txt").write_text("0123456789")
    (directory / "large").write_bytes(PATTERN * 12)
    return directory


def site(home: Home, files: Path, *options: str, **more: Any) -> Server:
    """Return a server of the tree, not started yet."""
    return Server(home, *options, application="tree:root", environment={"TREE_FILES": str(files)}, **more)


@pytest.fixture(scope="module")
def server(module_home: Home, files: Path) -> Iterator[Server]:
    """One server for all tests that do not stop it."""
    options = ("--idle-grace", "0.5", "--threads", "3", "--spool", str(module_home.spool))
    with site(module_home, files, *options) as running:
        yield running


def show(port: int, target: str, *fields: str) -> Any:
    """Return what a target answers as JSON."""
    return json.loads(get(port, target, *fields).body)


def status(server: Server, what: str) -> int:
    """Return a number that the kernel knows of the server's process (proc_pid_status(5)); sizes are in KiB."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1])
    raise AssertionError(what)


def wait_lost(server: Server, name: str) -> None:
    """Wait until a named request was told that its client is gone, cleanly or not."""
    wait_gone(server, f"{name} lost: ConnectionLost", f"{name} lost: ConnectionDone")


def wait_gone(server: Server, *said: str) -> None:
    """Wait until `notifyFinish` has said one of these in the server."""
    end = time.monotonic() + PATIENCE
    with Connection(server.port) as connection:
        while not {*said} & {*(known := json.loads(connection.get("/gone").body))}:
            assert time.monotonic() < end, f"no {said!r} in {known}"
            time.sleep(0.005)


# -- WSGI in a tree -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "script_name", "path_info"),
    [
        ("/place/environ", "", "/place/environ"),
        ("/place/wsgi/x", "/place/wsgi", "/x"),
        ("/place/wsgi/x?a=b%2Fc", "/place/wsgi", "/x"),
        ("/place/stock/x", "/place/stock", "/x"),
        ("/place/deep/er/wsgi/x", "/place/deep/er/wsgi", "/x"),
        ("/place/d%65ep/er/wsgi/x", "/place/deep/er/wsgi", "/x"),
        ("/place/a%2Fb/x", "/place/a/b", "/x"),
        ("/place/ends%2F/x", "/place/ends/", "/x"),
        ("/place/wsgi/x%2F", "/place/wsgi", "/x/"),
        ("/place/wsgi//x", "/place/wsgi", "//x"),
        ("/place/wsgi/a%2Fb/caf%C3%A9/", "/place/wsgi", "/a/b/caf\xc3\xa9/"),
        ("/place/wsgi/", "/place/wsgi", "/"),
        ("/place/wsgi", "/place/wsgi", ""),
        ("/place/slash/", "/place/slash", "/"),
        ("/place/slash//x", "/place/slash", "//x"),
        ("/place//x", "", "/place//x"),
        ("/place/", "", "/place/"),
        ("/place/rewritten/x", "/elsewhere", "/instead"),
    ],
)
def test_place_of_an_application(server: Server, target: str, script_name: str, path_info: str) -> None:
    """SCRIPT_NAME is where the application stands in the tree, PATH_INFO what is left, REQUEST_URI as sent."""
    environ = show(server.port, target)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)
    assert environ["REQUEST_URI"] == target


def test_stock_resource_takes_the_fast_path(server: Server) -> None:
    """Twisted's own WSGIResource, whose pool nobody has started, is answered by our threads."""
    assert show(server.port, "/stock/environ")["wsgi.input_terminated"] is True


def test_resources_share_threads(server: Server) -> None:
    """A resource that is made anew for each request does not start new threads for each."""
    with Connection(server.port) as connection:
        for kind in ("ours", "stocks"):
            assert connection.get(f"/fresh/{kind}/echo?first").body == b"first"
            before = status(server, "Threads")
            for number in range(20):
                assert connection.get(f"/fresh/{kind}/echo?{number}").body == b"%d" % number
            assert status(server, "Threads") == before


def test_application_found_later(server: Server) -> None:
    """A resource that is known only after a while may be a WSGI application."""
    assert get(server.port, "/deferred/echo?found").body == b"found"


def test_a_wrapped_application_is_answered_unchanged(server: Server) -> None:
    """An application in a wrapper, here one that would compress, is answered, as the application says it."""
    answer = get(server.port, "/wrapped/echo?wrapped", "Accept-Encoding: gzip")
    assert (answer.body, answer.header("Content-Encoding")) == (b"wrapped", None)


@pytest.mark.parametrize("size", [10, 65536, 3 * MIB])
@pytest.mark.parametrize("target", ["/wsgi/upload", "/stock/upload", "/body"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_bodies_reach_both_kinds(server: Server, target: str, size: int, framing: str) -> None:
    """A body arrives whole, from memory or from a file, whoever answers and however it was framed."""
    data = (PATTERN * 3)[:size]
    if framing == "length":
        sent = request(target, method="POST", body=data)
    else:
        sent = request(target, "Transfer-Encoding: chunked", method="POST")
        sent += chunked(data[at : at + 50_000] for at in range(0, size, 50_000))
    answer = ask(server.port, sent, "POST").body.decode()
    assert answer.startswith(f"{size} {hashlib.sha256(data).hexdigest()}")
    if target == "/body":
        assert answer.endswith(f"['{size}', None]")


def test_twisteds_reverse_proxy_works_with_chunked_bodies(server: Server) -> None:
    """Twisted's reverse proxy is a resource like others, also for bodies that come in chunks."""
    data = PATTERN[:200_000]
    sent = request("/proxy/body", "Transfer-Encoding: chunked", method="POST") + chunked([data])
    digest = hashlib.sha256(data).hexdigest()
    assert ask(server.port, sent, "POST").body == f"{len(data)} {digest} ['{len(data)}', None]".encode()
    assert get(server.port, "/proxy/wsgi/echo?through").body == b"through"
    assert get(server.port, "/proxy/directory/nothing").status == 404


def test_forms_of_applications_are_not_read_here(server: Server, module_home: Home) -> None:
    """A large form for a WSGI application is not parsed in the event loop on its way there."""
    kind = "Content-Type: multipart/form-data; boundary=x"
    broken = b"this is no multipart body at all" * 100_000
    answer = ask(server.port, request("/wsgi/upload", kind, method="POST", body=broken), "POST")
    assert answer.status == 200
    assert answer.body == f"{len(broken)} {hashlib.sha256(broken).hexdigest()}".encode()


def test_applications_and_resources_take_turns(server: Server) -> None:
    """Pipelined requests for both kinds are answered in their order, on one connection."""
    targets = [f"/wsgi/echo?{n}" if n % 3 else "/data" if n % 2 else "/later" for n in range(60)]
    with Connection(server.port) as connection:
        connection.send(b"".join(request(target) for target in targets))
        for number, target in enumerate(targets):
            expected = {"/data": b"some data", "/later": b"later"}.get(target, b"%d" % number)
            assert connection.answer().body == expected


def test_pipelined_files_come_whole(server: Server) -> None:
    """Files that are asked for behind each other all come whole; each has a producer of its own."""
    with Connection(server.port, receive_buffer=4096) as connection:
        connection.send(request("/files/large") * 3 + request("/files/small.txt"))
        for _ in range(3):
            digest = hashlib.sha256()
            connection.answer(consume=digest.update)
            assert digest.digest() == hashlib.sha256(PATTERN * 12).digest()
        assert connection.answer().body == b"0123456789"


# -- requests as Twisted has them -----------------------------------------------------------------------------


def test_the_fields_of_query_and_form_are_request_args(server: Server) -> None:
    """The fields of query and form are `Request.args`, urlencoded or multipart."""
    urlencoded = "Content-Type: application/x-www-form-urlencoded"
    sent = request("/form?q=1", urlencoded, method="POST", body=b"a=1&a=2&b=%C3%A9")
    assert json.loads(ask(server.port, sent, "POST").body) == {"q": ["1"], "a": ["1", "2"], "b": ["é"]}
    multipart = "Content-Type: multipart/form-data; boundary=x"
    parts = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nwhole\r\n--x--\r\n'
    sent = request("/form", multipart, method="POST", body=parts)
    assert json.loads(ask(server.port, sent, "POST").body) == {"file": ["whole"]}


def test_a_broken_multipart_form_is_a_400(server: Server) -> None:
    """A multipart form that is none is answered with 400."""
    multipart = "Content-Type: multipart/form-data; boundary=x"
    answer = ask(server.port, request("/form", multipart, method="POST", body=b"none at all"), "POST")
    assert (answer.status, answer.says_close) == (400, True)


def test_a_session_is_found_by_its_cookie(server: Server) -> None:
    """A session is found again by its cookie."""
    with Connection(server.port) as connection:
        first = connection.get("/session")
        cookie = str(first.header("Set-Cookie")).partition(";")[0]
        assert first.body == b"1"
        assert connection.get("/session", f"Cookie: {cookie}").body == b"2"


def test_a_request_knows_its_client_server_and_path(server: Server) -> None:
    """A request knows its client, its server, and its own place."""
    with Connection(server.port) as connection:
        connection.send(request("/where/more%2Fhere/", host="site.example:81"))
        there = json.loads(connection.answer().body)
        port = connection.socket.getsockname()[1]
    assert there["client"] == ["IPv4Address", "127.0.0.1", port]
    assert there["host"] == ["IPv4Address", "127.0.0.1", server.port]
    assert (there["ip"], there["secure"], there["peer"]) == ("127.0.0.1", False, "IPv4Address")
    assert (there["prepath"], there["postpath"]) == (["where"], ["more/here", ""])
    assert there["url"] == f"http://site.example:{server.port}/where"
    assert there["version"] == "HTTP/1.1"


def test_behind_a_proxy(home: Home, files: Path) -> None:
    """A trusted proxy's word about the client counts for resources as well; anybody else's does not."""
    told = ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https")
    with site(home, files, "--trusted-proxy", "127.0.0.1") as server:
        there = show(server.port, "/where", *told)
        assert there["client"] == ["IPv4Address", "192.0.2.1", 0]
        assert (there["ip"], there["secure"]) == ("192.0.2.1", True)
        assert there["url"] == "https://test.example/where"
        with Connection(server.port) as connection:
            connection.send(request("/where", *told, host="test.example:8443"))
            assert json.loads(connection.answer().body)["url"] == "https://test.example:8443/where"


def test_an_untrusted_proxy_is_not_believed(server: Server) -> None:
    """What a stranger says about other clients is not believed."""
    there = show(server.port, "/where", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https")
    assert (there["ip"], there["secure"]) == ("127.0.0.1", False)


def test_a_request_on_a_unix_socket_has_no_client_address(home: Home, files: Path) -> None:
    """A request on a Unix socket has no client address, and works."""
    path = str(home.run / "socket")
    with site(home, files, listen=[f"unix:{path}"]):
        there = json.loads(ask(path, request("/where")).body)
        assert there["client"] == ["UNIXAddress", None, None]
        assert (there["ip"], there["peer"]) == (None, "UNIXAddress")
        assert get(path, "/files/small.txt").body == b"0123456789"


def test_options_star_gets_an_empty_answer(server: Server) -> None:
    """`OPTIONS *` asks about the server, and gets an empty answer."""
    answer = ask(server.port, request("*", method="OPTIONS"), "OPTIONS")
    assert (answer.status, answer.body) == (200, b"")


# -- answers ----------------------------------------------------------------------------------------------------


def test_a_missing_resource_is_a_404(server: Server) -> None:
    """What is not there is answered with 404, and the connection stays."""
    with Connection(server.port) as connection:
        assert connection.get("/directory/nothing").status == 404
        assert connection.get("/files/nothing").status == 404
        assert connection.get("/data").body == b"some data"


def test_redirects_are_sent_with_or_without_a_body(server: Server) -> None:
    """Redirects are sent, with their body or without."""
    with Connection(server.port) as connection:
        for target in ("/redirect", "/moved"):
            answer = connection.get(target)
            assert (answer.status, answer.header("Location")) == (302, "/data")
        assert connection.get("/files").header("Location") == "/files/"


def test_head_gets_no_body_from_any_resource(server: Server) -> None:
    """HEAD gets the head of the answer to GET, and no body, from every kind of resource."""
    with Connection(server.port) as connection:
        for target, length in (("/files/small.txt", "10"), ("/data", "9"), ("/form", "2")):
            answer = connection.get(target, method="HEAD")
            assert (answer.status, answer.header("Content-Length"), answer.body) == (200, length, b"")
        assert connection.get("/pieces", method="HEAD").body == b""
        assert connection.get("/data").body == b"some data"


def test_a_method_that_a_resource_lacks_is_a_405(server: Server) -> None:
    """A method that a resource does not have is answered with 405 and what it has."""
    with Connection(server.port) as connection:
        answer = connection.get("/files/small.txt", method="POST")
        assert answer.status == 405
        assert {"GET", "HEAD"} <= set(str(answer.header("Allow")).split(", "))
        assert connection.get("/data", method="BREW").status == 501


def test_static_file_answers_ranges(server: Server) -> None:
    """`static.File` answers one range, several, and one that is not there."""
    with Connection(server.port) as connection:
        one = connection.get("/files/small.txt", "Range: bytes=2-4")
        assert (one.status, one.body, one.header("Content-Range")) == (206, b"234", "bytes 2-4/10")
        several = connection.get("/files/small.txt", "Range: bytes=0-0,9-9")
        assert several.status == 206
        assert b"\r\n\r\n0\r\n" in several.body
        assert b"\r\n\r\n9\r\n" in several.body
        assert connection.get("/files/small.txt", "Range: bytes=99-").status == 416
        assert connection.get("/files/large", f"Range: bytes={11 * MIB}-").body == PATTERN


def test_a_file_that_the_client_has_is_not_sent_again(server: Server) -> None:
    """A file that the client has already is not sent again."""
    with Connection(server.port) as connection:
        modified = connection.get("/files/small.txt").header("Last-Modified")
        answer = connection.get("/files/small.txt", f"If-Modified-Since: {modified}")
        assert (answer.status, answer.body) == (304, b"")
        assert connection.get("/data").status == 200


def test_pieces_are_framed_once(server: Server) -> None:
    """A body of unknown length is sent in chunks, by the server alone; the connection stays."""
    with Connection(server.port) as connection:
        for _ in range(2):
            answer = connection.get("/pieces")
            assert (answer.body, answer.header("Transfer-Encoding")) == (b"one two three", "chunked")


@pytest.mark.parametrize("target", ["/pieces", "/data", "/later", "/files/small.txt", "/wsgi/gen"])
def test_a_client_of_http_1_0_gets_no_chunks(server: Server, target: str) -> None:
    """A client of HTTP/1.0 gets no chunks, and its connection's end."""
    with Connection(server.port) as connection:
        connection.send(request(target, version="1.0"))
        answer = connection.answer(version="1.0")
        assert answer.status == 200
        assert answer.body in (b"one two three", b"some data", b"later", b"0123456789", b"abcdef")
        connection.end()


def test_http_10_with_keep_alive(server: Server) -> None:
    """A client of HTTP/1.0 that asks for it keeps its connection, where the length of the answer is known."""
    with Connection(server.port) as connection:
        for _ in range(2):
            connection.send(request("/data", "Connection: keep-alive", version="1.0"))
            assert not connection.answer(version="1.0").says_close
        connection.send(request("/pieces", "Connection: keep-alive", version="1.0"))
        assert connection.answer(version="1.0").says_close
        connection.end()


def test_head_is_sent_when_it_is_flushed(server: Server, module_home: Home) -> None:
    """`write(b"")` sends the head at once: an event stream tells its client that it is there."""
    with Gate(module_home.path / "early") as gate, Connection(server.port) as connection:
        connection.send(request(gate.target("/early-head")))
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.socket.recv(1000)
        assert b"X-Early: yes" in head
        gate.wait_reached()
        gate.open()
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += connection.socket.recv(1000)
        assert body == b"4\r\nlate\r\n0\r\n\r\n"


def test_a_failing_resource_is_a_500_and_the_connection_stays(server: Server) -> None:
    """A resource that fails is answered with 500, wherever it fails, and the connection stays."""
    with Connection(server.port) as connection:
        for target in ("/fail", "/failing-directory/x", "/text"):
            assert connection.get(target).status == 500, target
            server.tracebacks += target != "/text"
        assert connection.get("/data").status == 200


def test_bad_header_ends_the_request(server: Server) -> None:
    """A request whose answer could not be begun is told that it is over."""
    server.tracebacks += 1
    assert get(server.port, "/bad-header?name=refused").status == 500
    wait_lost(server, "refused")


def test_failure_in_the_middle(server: Server) -> None:
    """A resource that fails in the middle of its body does not make it look whole."""
    server.tracebacks += 1
    with Connection(server.port) as connection, pytest.raises(Failure, match="truncated"):
        connection.get("/fail-late?name=late")
    wait_lost(server, "late")


def test_a_failing_pull_producer_ends_its_answer_short(server: Server) -> None:
    """A pull producer that fails ends its answer, visibly short, instead of leaving it open for ever."""
    server.tracebacks += 1
    with Connection(server.port) as connection, pytest.raises(Failure, match="truncated"):
        connection.get(f"/failing?name=failing&bytes={MIB}")
    wait_lost(server, "failing")


# -- the ends of requests ---------------------------------------------------------------------------------------


def test_finish_is_notified(server: Server) -> None:
    """`notifyFinish` fires when the answer is complete."""
    get(server.port, "/pieces?name=complete")
    wait_gone(server, "complete finished")


@pytest.mark.parametrize("how", ["reset", "close", "after a half"])
def test_notify_finish_fires_when_the_client_leaves(server: Server, module_home: Home, how: str) -> None:
    """`notifyFinish` fires when the client leaves while nothing of its answer is under way."""
    name = how.replace(" ", "-")
    with ExitStack() as stack:
        connection = stack.enter_context(Connection(server.port))
        if how == "after a half":
            gate = stack.enter_context(Gate(module_home.path / "half"))
            connection.send(request(gate.target("/half-gate") + f"&name={name}"))
            gate.wait_reached()
            while not (received := connection.socket.recv(1000)).endswith(b"first"):
                assert received
            connection.close()
            wait_lost(server, name)
            return
        connection.send(request(f"/never?name={name}"))
        get(server.port, "/data")
        if how == "reset":
            connection.reset()
        else:
            connection.close()
        wait_lost(server, name)


def test_half_close_behind_other_requests(server: Server, module_home: Home) -> None:
    """A client that has said all it will say gets its answers in turn, until one waits for nothing to send."""
    with Gate(module_home.path / "turn") as gate, Connection(server.port) as connection:
        connection.send(request("/wsgi" + gate.target()) + request("/pieces") + request("/never?name=behind"))
        connection.half_close()
        gate.wait_reached()
        gate.open()
        assert connection.answer().body == b"passed"
        assert connection.answer().body == b"one two three"
        connection.end()
    wait_lost(server, "behind")


def test_half_close_during_a_download(server: Server) -> None:
    """A client that says it will send nothing more still gets the whole of its slow download."""
    with Connection(server.port, receive_buffer=4096) as connection:
        connection.send(request("/files/large"))
        connection.half_close()
        assert connection.answer().body == PATTERN * 12


@pytest.mark.parametrize("kind", ["push", "pull", "unkind"])
def test_client_leaves_a_producer(server: Server, kind: str) -> None:
    """A producer is stopped when its client leaves, and nothing of it stays, even if it fails to stop."""
    name = f"left-{kind}"
    server.tracebacks += kind == "unkind"
    with Connection(server.port, receive_buffer=4096) as connection:
        connection.send(request(f"/{kind}?name={name}&bytes={100 * MIB}"))
        connection.socket.recv(1000)
        connection.reset()
    wait_lost(server, name)
    if kind != "unkind":
        wait_gone(server, f"{name} stopped")


@pytest.mark.parametrize("by", ["request", "transport", "channel"])
def test_connection_is_lost_by_the_resource(server: Server, by: str) -> None:
    """A resource that loses its connection sends what it has said, and the answer is visibly short."""
    with Connection(server.port) as connection:
        connection.send(request(f"/lose?by={by}&name=lose-{by}"))
        with pytest.raises(Failure, match="truncated: 94 bytes"):
            connection.answer()
        # The client has yet to close; the request need not wait for that.
        sent = time.monotonic()
        wait_lost(server, f"lose-{by}")
        assert time.monotonic() - sent < 1.9  # less than a server lingers
    with Connection(server.port) as connection:
        connection.send(request(f"/lose?by={by}&whole=no"))
        with pytest.raises(Failure, match="truncated"):
            connection.answer()


def test_connection_is_aborted_by_the_resource(server: Server) -> None:
    """A resource that aborts its connection has it reset."""
    with Connection(server.port) as connection:
        connection.send(request("/lose?by=abort&name=abort"))
        with pytest.raises(Failure, match=r"truncated|reset"):
            connection.answer()
    wait_lost(server, "abort")


def test_connection_is_lost_after_the_answer(server: Server) -> None:
    """A resource may finish and then lose its connection: the answer is whole, and then it ends."""
    with Connection(server.port) as connection:
        assert connection.get("/finish-and-lose").body == b"done"
        connection.end()


def test_answer_is_finished_after_the_connection_was_lost(server: Server) -> None:
    """A resource that loses its connection and finishes all the same has said all it will say."""
    with Connection(server.port) as connection, pytest.raises(Failure, match="truncated"):
        connection.get("/lose-and-finish?name=both")


# -- slow readers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["files/large", "push", "pull"])
def test_slow_readers_hold_little_memory(home: Home, files: Path, kind: str) -> None:
    """Ten slow readers of 12 MiB each hold next to nothing of it in the server, and get all of it."""
    with site(home, files) as server, ExitStack() as stack:
        get(server.port, "/data")
        before = status(server, "VmHWM")
        readers = [stack.enter_context(Connection(server.port, receive_buffer=4096)) for _ in range(10)]
        for number, reader in enumerate(readers):
            reader.send(request(f"/{kind}?name={number}&bytes={12 * MIB}", "Connection: close"))
        for reader in readers:
            reader.socket.recv(1)
        produced = -1
        while kind != "files/large" and (now := sum(show(server.port, "/produced").values())) != produced:
            produced = now
            time.sleep(0.05)
        assert produced < 10 * 6 * MIB, "the socket buffers, and little more"
        for reader in readers:
            digest = hashlib.sha256()
            length = 0
            while piece := reader.socket.recv(1 << 16):
                digest.update(piece)
                length += len(piece)
            assert length >= 12 * MIB
        assert status(server, "VmHWM") - before < 10 * 1024


# -- stopping ---------------------------------------------------------------------------------------------------


def test_stop_waits_for_resources(home: Home, files: Path) -> None:
    """At SIGTERM a Deferred, a slow download and an application are all finished, and then it is over."""
    with (
        site(home, files) as server,
        Gate(home.path / "deferred") as deferred,
        Gate(home.path / "thread") as thread,
        Connection(server.port) as waiting,
        Connection(server.port) as working,
        Connection(server.port, receive_buffer=4096) as reading,
    ):
        waiting.send(request(deferred.target() + "&name=waiting"))
        working.send(request("/wsgi" + thread.target()))
        reading.send(request("/files/large"))
        deferred.wait_reached()
        thread.wait_reached()
        reading.socket.recv(1, 2)
        server.terminate()
        server.wait_closed()
        deferred.open()
        thread.open()
        assert waiting.answer().body == b"passed"
        assert working.answer().body == b"passed"
        assert reading.answer().body == PATTERN * 12
        reading.close()  # its head went out before the signal, and promised another answer
        for connection in (waiting, working):
            connection.end()
            connection.close()
        assert server.wait() == 0
        assert server.drained() == (3, 0, 0)


def test_sessions_do_not_hold_the_exit(home: Home, files: Path) -> None:
    """A session's timer, which runs for a quarter of an hour, does not keep a stopped server."""
    with site(home, files) as server:
        get(server.port, "/session")
        told = server.terminate()
        assert server.wait() == 0
        assert time.monotonic() - told < 3


def test_a_deferred_is_taken_down_at_the_deadline(home: Home, files: Path) -> None:
    """At the deadline a Deferred that has said nothing becomes a 503, a begun answer is cut, and both are told."""
    with (
        site(home, files, "--deadline", "0.3") as server,
        Connection(server.port) as waiting,
        Connection(server.port) as reading,
    ):
        waiting.send(request("/never?name=waiting"))
        reading.send(request(f"/push?name=reading&bytes={100 * MIB}"))
        reading.socket.recv(1, 2)
        server.terminate()
        server.wait_closed()
        answer: Answer = waiting.answer()
        assert (answer.status, answer.header("Retry-After"), answer.says_close) == (503, "5", True)
        with pytest.raises(Failure, match=r"truncated|reset"):
            reading.answer()
        assert server.wait() == 70
        assert server.drained() == (0, 2, 0)
        server.wait_line("waiting lost: ConnectionLost")
        server.wait_line("reading stopped")
        server.wait_line(r"taking down .*/never")
        server.wait_line(r"taking down .*/push")
