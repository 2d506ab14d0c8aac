"""Downloads and parked requests in Django (WSGI and ASGI) and Flask: with no thread, and the bytes of gunicorn."""

from __future__ import annotations

import gzip
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.support.clients import Connection, digest, get, request
from tests.support.gunicorn import Gunicorn
from tests.support.home import Home
from tests.support.nginx import Nginx
from tests.support.server import Server
from tests.support.waiting import wait_for

MIB = 1024 * 1024
TEXT = b"".join(b"line %d\n" % number for number in range(600_000))
FILES = {"big.txt": TEXT, "small.txt": TEXT[:100]}
SITES = {
    "django": "django_site.wsgi:application",
    "django by ASGI": "django_site.asgi:application",
    "flask": "flask_site:app",
}
BY_GUNICORN = {"django": "django", "django by ASGI": "django", "flask": "flask"}
"""The site that gunicorn serves, to compare with: by WSGI."""


class Sites:
    """Each application on both servers.

    :ivar data: the directory with the files.
    :ivar url: of the nginx that serves it.
    :ivar graceful: of each framework, a server of ours; it has two threads.
    :ivar gunicorn: of each framework, the port of a gunicorn.
    """

    def __init__(self, home: Home, stack: ExitStack) -> None:
        data = home.path / "data"
        data.mkdir()
        for name, content in FILES.items():
            (data / name).write_bytes(content)
        nginx = stack.enter_context(Nginx(home.path, data))
        self.data, self.url = data, nginx.url
        environment = {
            "DJANGO_SITE_DATA": str(data),
            "FLASK_SITE_FILE": str(data / "big.txt"),
            "FILE_STORE": nginx.url,
        }
        options = ("--threads", "2", "--idle-grace", "0.5", "--internal-download", f"/protected={data}")
        self.graceful = {}
        for name, site in SITES.items():
            pid_file = f"--pidfile={name}.pid"
            server = Server(home, *options, application=site, environment=environment, twistd_options=[pid_file])
            self.graceful[name] = stack.enter_context(server)
        ports = {
            name: stack.enter_context(Gunicorn(SITES[name], environment)).port for name in set(BY_GUNICORN.values())
        }
        self.gunicorn = {name: ports[site] for name, site in BY_GUNICORN.items()}


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    """Both applications on both servers, with an nginx as the file store."""
    home = Home(os.getuid())
    try:
        with ExitStack() as stack:
            yield Sites(home, stack)
        assert home.left_behind() == []
    finally:
        home.remove()


PATHS = (
    "/download/big.txt",
    "/download/small.txt",
    "/download/big.txt?save",
    "/store/big.txt",
    "/store/small.txt?as=n%C3%A4me%20%22x%22.txt",
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("framework", SITES)
def test_same_on_both(sites: Sites, framework: str, path: str) -> None:
    """A download has the same body, type and name on both servers."""
    ours, theirs = get(sites.graceful[framework].port, path), get(sites.gunicorn[framework], path)
    assert digest(ours.body) == digest(theirs.body) == digest(FILES[path.split("/")[2].partition("?")[0]])
    assert ours.status == theirs.status == 200
    for name in ("Content-Disposition", "X-Content-Type-Options"):
        assert ours.header(name) == theirs.header(name)
    for answer in (ours, theirs):
        assert (answer.header("Content-Type") or "").partition(";")[0] == (
            "application/x-from-nginx" if answer is ours and path.startswith("/store/") else "text/plain"
        )
        assert answer.header("Content-Encoding") is None
        assert answer.header("X-Graceful-Handover") is None
        named = "?" in path or path.startswith("/store/")
        assert ("attachment" in (answer.header("Content-Disposition") or "")) == named


@pytest.mark.parametrize("framework", SITES)
def test_ranges_and_conditions_are_answered_for_any_view(sites: Sites, framework: str) -> None:
    """Ranges, conditions and HEAD are answered for a view that knows nothing of them."""
    with Connection(sites.graceful[framework].port) as connection:
        for path in ("/download/big.txt", "/store/big.txt"):
            known = connection.get(path, method="HEAD")
            assert known.header("Content-Length") == str(len(TEXT))
            part = connection.get(path, "Range: bytes=1000-1999", f"If-Range: {known.header('ETag')}")
            assert (part.status, part.body) == (206, TEXT[1000:2000])
            assert connection.get(path, f"If-None-Match: {known.header('ETag')}").status == 304
        assert connection.get("/tell/me").body == b"nobody"


@pytest.mark.parametrize("framework", SITES)
def test_threads_are_free(sites: Sites, framework: str) -> None:
    """With 2 threads and 20 downloads whose clients take nothing, others are answered; then all downloads arrive."""
    port = sites.graceful[framework].port
    with ExitStack() as stack:
        downloads = [stack.enter_context(Connection(port, receive_buffer=65536)) for _ in range(20)]
        for number, connection in enumerate(downloads):
            connection.send(request(("/download/big.txt", "/store/big.txt")[number % 2], "Accept-Encoding: gzip"))
        for connection in downloads:
            assert connection.socket.recv(8, socket.MSG_PEEK) == b"HTTP/1.1"
        assert get(port, "/tell/me").body == b"nobody"
        for connection in downloads[:4]:
            assert digest(connection.answer().body) == digest(TEXT)


def test_compressed_is_not_taken_over(sites: Sites) -> None:
    """A body that Django's GZipMiddleware has wrapped is sent by the thread: what it says is what comes."""
    for port in (sites.graceful["django"].port, sites.graceful["django by ASGI"].port, sites.gunicorn["django"]):
        answer = get(port, "/wrapped/big.txt", "Accept-Encoding: gzip")
        assert answer.header("Content-Encoding") == "gzip"
        assert digest(gzip.decompress(answer.body)) == digest(TEXT)
        plain = get(port, "/wrapped/big.txt")
        assert (plain.header("Content-Encoding"), digest(plain.body)) == (None, digest(TEXT))
    assert get(sites.graceful["django"].port, "/wrapped/big.txt").header("Accept-Ranges") == "bytes"


@pytest.mark.parametrize("framework", ["django", "django by ASGI"])
def test_django_sendfile_is_served_as_by_nginx(sites: Sites, framework: str) -> None:
    """What django-sendfile2 sends to an nginx in front is done here; Django's fields are kept."""
    with Connection(sites.graceful[framework].port) as connection:
        for name, content in FILES.items():
            answer = connection.get(f"/sent/{name}", "Accept-Encoding: gzip")
            assert (answer.status, digest(answer.body)) == (200, digest(content))
            assert answer.header("X-Accel-Redirect") is None
            assert answer.header("Content-Type") == "text/plain"
            assert answer.header("Content-Disposition") == f'inline; filename="{name}"'
            assert answer.header("X-Content-Type-Options") == "nosniff"
        part = connection.get("/sent/big.txt", "Range: bytes=-10")
        assert (part.status, part.body, part.header("Content-Length")) == (206, TEXT[-10:], "10")
        assert connection.get("/sent/nothing").status == 404
    with Connection(sites.gunicorn["django"]) as connection:
        assert connection.get("/sent/big.txt", method="HEAD").header("X-Accel-Redirect") == "/protected/big.txt"


@pytest.mark.parametrize("framework", SITES)
def test_a_missing_file_is_the_applications_error_or_the_upstreams_404(sites: Sites, framework: str) -> None:
    """A file that is not there is the application's error, and one that the file store has not its 404."""
    server = sites.graceful[framework]
    assert get(server.port, "/store/nothing").status == 404
    assert get(server.port, "/download/nothing").status == 500
    if framework == "flask":  # which writes it to the log
        server.wait_line("FileNotFoundError")
        server.tracebacks += 1


@pytest.mark.parametrize("on", ["graceful", "gunicorn"])
@pytest.mark.parametrize("framework", SITES)
def test_a_parked_client_gets_the_answer_of_another_thread_or_204(sites: Sites, framework: str, on: str) -> None:
    """Who waits gets the answer that another request's thread gives; who waits too long, a 204."""
    port = sites.graceful[framework].port if on == "graceful" else sites.gunicorn[framework]
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(get, port, "/wait/me", "Accept-Encoding: gzip")
        wait_for(lambda: get(port, "/tell/me?news=hello").body == b"True")
        answer = waiting.result()
        assert (answer.status, answer.header("Content-Type"), answer.body) == (200, "text/x-news", b"hello")
        assert answer.header("Content-Encoding") is None
    late = get(port, "/wait/late?timeout=0.1")
    assert (late.status, late.body) == (204, b"")


@pytest.mark.parametrize("on", ["graceful", "gunicorn"])
@pytest.mark.parametrize("framework", SITES)
def test_an_event_stream_arrives_piece_by_piece(sites: Sites, framework: str, on: str) -> None:
    """An event stream arrives with its type, piece by piece, and ends."""
    port = sites.graceful[framework].port if on == "graceful" else sites.gunicorn[framework]
    fields = ("Accept-Encoding: gzip",) if on == "graceful" else ()
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(get, port, "/events/me", *fields)
        wait_for(lambda: get(port, "/tell/me?event=hello").body == b"True")
        answer = waiting.result()
    assert (answer.status, answer.header("Content-Type"), answer.body) == (
        200,
        "text/event-stream",
        b"data: hello\n\n",
    )
    assert (answer.header("Cache-Control"), answer.header("Content-Encoding")) == ("no-cache", None)


@pytest.mark.parametrize("framework", SITES)
def test_waiting_holds_no_thread(sites: Sites, framework: str) -> None:
    """With 2 threads and 20 requests that wait, others are answered."""
    server = sites.graceful[framework]
    with ExitStack() as stack:
        waiting = [stack.enter_context(Connection(server.port)) for _ in range(20)]
        for number, connection in enumerate(waiting):
            connection.send(request(f"/{('wait', 'events')[number % 2]}/number{number}"))
        for number, connection in enumerate(waiting):
            word = ("news", "event")[number % 2]
            wait_for(lambda: get(server.port, f"/tell/number{number}?{word}=x").body == b"True")  # noqa: B023
            assert b"x" in connection.answer().body


def test_without_a_framework(sites: Sites) -> None:
    """The raw forms work on gunicorn as well, with a thread."""
    with Gunicorn("handover:application", {}) as gunicorn:
        for place in (sites.data, sites.url):
            answer = get(gunicorn.port, f"/named?target={place}/big.txt")
            assert (answer.status, answer.header("Content-Type")) == (200, "text/x-own")
            assert digest(answer.body) == digest(TEXT)
        path = f"/download?target={sites.data}/big.txt"
        assert get(gunicorn.port, path).header("Content-Type") == "text/plain"
        with Connection(gunicorn.port) as connection:
            assert connection.get(path, method="HEAD").header("Content-Length") == str(len(TEXT))
            late = connection.get("/park?name=late&timeout=0.1")
            assert (late.status, late.body) == (204, b"")
        with ThreadPoolExecutor(1) as executor:
            for target, news, body in (
                ("/park?name=me", "/answer?name=me&body=hello", b"hello"),
                ("/events?name=you", "/send?name=you&body=hello", b"data: hello\n\n"),
            ):
                waiting = executor.submit(get, gunicorn.port, target)
                wait_for(lambda: get(gunicorn.port, news).body == b"True")  # noqa: B023
                if "you" in target:
                    get(gunicorn.port, "/send?name=you")
                assert waiting.result().body == body
