"""Downloads, byte by byte: by each of the ways in, from a real nginx and from the disk, whole and in part."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import Answer, Connection, digest, get, request
from tests.support.home import Home
from tests.support.nginx import Nginx
from tests.support.server import Server
from tests.support.upstream import Upstream, head, says

MIB = 1024 * 1024
BIG = os.urandom(4 * MIB)
SMALL = os.urandom(5000)
FILES = {"big.bin": BIG, "small.txt": SMALL, "empty": b"", "a b/ü+%.bin": SMALL}
ANOTHER_DAY = "Mon, 01 Jan 2001 00:00:00 GMT"


class Site:
    """A server with an nginx as its file store.

    :ivar files: the directory that both serve.
    :ivar ways: for each way in, the beginning of a target, which goes on with a name such as `big.bin`.
    """

    def __init__(self, server: Server, nginx: Nginx, files: Path) -> None:
        self.server = server
        self.nginx = nginx
        self.files = files
        self.port = server.port
        self.ways = {
            "a URL from the application": f"/download?target={nginx.url}/",
            "a path from the application": f"/download?target={files}/",
            "X-Accel-Redirect to a URL": "/redirect?to=/internal/store/",
            "X-Accel-Redirect to a path": "/redirect?to=/internal/files/",
            "a URL by its prefix": "/store/",
            "a path by its prefix": "/files/",
        }


WAYS = (
    "a URL from the application",
    "a path from the application",
    "X-Accel-Redirect to a URL",
    "X-Accel-Redirect to a path",
    "a URL by its prefix",
    "a path by its prefix",
)
BY_URL = [way for way in WAYS if "URL" in way]


def mappings(nginx: Nginx, files: Path) -> tuple[str, ...]:
    """The options that say what the prefixes mean."""
    return (
        *("--download", f"/store={nginx.url}/", "--download", f"/files={files}"),
        *("--internal-download", f"/internal/store={nginx.url}", "--internal-download", f"/internal/files={files}/"),
    )


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A server with few threads, for all tests that do not stop it."""
    home = Home(os.getuid())
    try:
        files = home.path / "files"
        for name, data in FILES.items():
            (files / name).parent.mkdir(parents=True, exist_ok=True)
            (files / name).write_bytes(data)
        (home.path / "secret").write_bytes(b"secret")
        (files / "out").symlink_to(home.path / "secret")
        (files / "in").symlink_to(files / "small.txt")
        os.mkfifo(files / "pipe")
        options = ("--threads", "4", "--idle-grace", "0.5", "--upstream-timeout", "10")
        with (
            Nginx(home.path, files) as nginx,
            Server(home, *options, *mappings(nginx, files), application="handover:application") as server,
        ):
            yield Site(server, nginx, files)
        assert home.left_behind() == []
    finally:
        home.remove()


# -- what is asked for, and nothing else --------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_files_of_any_size_arrive_whole(site: Site, way: str) -> None:
    """A large, a small and an empty file arrive whole, with what a client needs to resume; then the next request."""
    with Connection(site.port) as connection:
        for name in ("big.bin", "small.txt", "empty"):
            answer = connection.get(site.ways[way] + name)
            assert (answer.status, digest(answer.body)) == (200, digest(FILES[name]))
            assert answer.header("Content-Length") == str(len(FILES[name]))
            assert answer.header("Accept-Ranges") == "bytes"
            assert (answer.header("ETag") or "").startswith('"')
            assert answer.header("Last-Modified")
            check_own(answer)
        assert connection.get("/echo?next").body == b"next"


def check_own(answer: Answer) -> None:
    """Nothing that is between the servers reaches the client, and nothing comes twice."""
    for name in ("X-Accel-Redirect", "X-Graceful-Handover", "Content-Encoding"):
        assert answer.header(name) is None
    assert answer.header("Server") == "graceful"
    assert answer.header("Content-Type") != "text/html"
    for name in {name.lower() for name, _ in answer.headers}:
        answer.header(name)


RANGES = {
    "bytes=0-0": (0, 1),
    "bytes=1000000-2999999": (1_000_000, 3_000_000),
    "bytes=-500": (len(BIG) - 500, len(BIG)),
    "bytes=2000000-": (2_000_000, len(BIG)),
    f"bytes=0-{len(BIG) * 2}": (0, len(BIG)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_range_is_answered_with_its_bytes_or_416(site: Site, way: str) -> None:
    """One range is answered with its bytes; what no byte is in with 416."""
    target = site.ways[way] + "big.bin"
    with Connection(site.port) as connection:
        for field, (first, end) in RANGES.items():
            answer = connection.get(target, f"Range: {field}")
            assert answer.header("Content-Range") == f"bytes {first}-{end - 1}/{len(BIG)}"
            assert (answer.status, digest(answer.body)) == (206, digest(BIG[first:end]))
        answer = connection.get(target, f"Range: bytes={len(BIG)}-")
        assert (answer.status, answer.header("Content-Range")) == (416, f"bytes */{len(BIG)}")
        assert connection.get("/echo?next").body == b"next"


@pytest.mark.parametrize("way", WAYS)
def test_head_tells_what_get_would_without_a_body(site: Site, way: str) -> None:
    """HEAD says what GET would, without a body."""
    with Connection(site.port) as connection:
        for name in ("big.bin", "small.txt"):
            asked = [connection.get(site.ways[way] + name, method=method) for method in ("HEAD", "GET")]
            fields = [{k: v for k, v in answer.headers if k not in ("Date", "Set-Cookie")} for answer in asked]
            assert fields[0] == fields[1]
            assert asked[0].body == b""


@pytest.mark.parametrize("way", WAYS)
def test_conditions_save_a_file_that_the_client_has(site: Site, way: str) -> None:
    """Who has the file already is told so; who has a part of another version gets the whole."""
    target = site.ways[way] + "big.bin"
    with Connection(site.port) as connection:
        known = connection.get(target, method="HEAD")
        etag, modified = known.header("ETag"), known.header("Last-Modified")
        for field in (f'If-None-Match: "x", {etag}', f"If-Modified-Since: {modified}"):
            answer = connection.get(target, field)
            assert (answer.status, answer.body, answer.header("ETag")) == (304, b"", etag)
        for field in ('If-Match: "x"', f"If-Unmodified-Since: {ANOTHER_DAY}"):
            assert connection.get(target, field).status == 412
        for field in (f"If-Range: {etag}", f"If-Range: {modified}"):
            answer = connection.get(target, "Range: bytes=10-19", field)
            assert (answer.status, answer.body) == (206, BIG[10:20])
        for field in ('If-Range: "x"', f"If-Range: {ANOTHER_DAY}"):
            answer = connection.get(target, "Range: bytes=10-19", field)
            assert (answer.status, digest(answer.body)) == (200, digest(BIG))


def test_a_wrapped_file_is_sent_without_a_thread(site: Site) -> None:
    """`wsgi.file_wrapper` around a file gives the file, to HEAD its length, and the thread is free at once."""
    with Connection(site.port) as connection:
        for name in ("big.bin", "small.txt"):
            target = f"/wrapped?path={site.files}/{name}"
            assert digest(connection.get(target).body) == digest(FILES[name])
            assert connection.get(target, method="HEAD").header("Content-Length") == str(len(FILES[name]))


@pytest.mark.parametrize("where", ["URL", "path"])
def test_fields_of_the_application(site: Site, where: str) -> None:
    """What the application says about a file is what the client is told; the rest is the file's own."""
    place = site.nginx.url if where == "URL" else str(site.files)
    answer = get(site.port, f"/named?target={place}/big.bin")
    assert answer.header("Content-Type") == "text/x-own"
    assert answer.header("Content-Disposition") == 'attachment; filename="own"'
    assert answer.header("Set-Cookie") == "own=1"
    assert answer.header("Cache-Control") == "private"
    assert digest(answer.body) == digest(BIG)
    assert (
        get(site.port, f"/download?target={site.nginx.url}/big.bin").header("Content-Type")
        == "application/x-from-nginx"
    )
    redirected = get(site.port, "/redirect?to=/internal/store/big.bin")
    assert (redirected.header("Content-Type"), redirected.header("Set-Cookie")) == ("text/x-own", "own=1")


def test_status_of_the_upstream(site: Site) -> None:
    """What the file store does not have is its 404, not ours; a name is quoted on the way as it was."""
    for way in BY_URL:
        answer = get(site.port, site.ways[way] + "nothing")
        assert (answer.status, b"nginx" in answer.body) == (404, True)
    for prefix in ("/store", "/files"):
        assert get(site.port, f"{prefix}/a%20b/%C3%BC+%25.bin").body == SMALL
    assert get(site.port, "/redirect?to=/internal/files/a%2520b/%25C3%25BC%2B%2525.bin").body == SMALL


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "%2e%2e/secret",
        "a%20b/../../secret",
        "a%20b/%2e%2e/%2e%2e/secret",
        "..%2fsecret",
        "..%5csecret",
        "/secret",
        "small.txt%00",
        "a%20b//small.txt",
        "out",
        "pipe",
        "",
        "a%20b",
        "a%20b/",
        "nothing",
        "small.txt/more",
    ],
)
def test_nothing_outside_of_the_directory_is_served(site: Site, path: str) -> None:
    """Dots, slashes, NULs, links out of the directory, and what is no file: 404, and a line in the log."""
    for target in (f"/files/{path}", f"/redirect?to=/internal/files/{path.replace('%', '%25')}"):
        before = len(site.server.log)
        with Connection(site.port) as connection:
            answer = connection.get(target)
            assert answer.status == 404
            assert b"secret" not in answer.body
        site.server.wait_line("is not sent", start=before)


@pytest.mark.parametrize(
    "to", ["http://127.0.0.1:1/x", "//host/x", "/elsewhere/x", "/internal/storehouse", "internal"]
)
def test_redirect_to_elsewhere(site: Site, to: str) -> None:
    """An `X-Accel-Redirect` to what is not mapped is a 404, and nobody is told where to."""
    answer = get(site.port, f"/redirect?to={to}")
    assert (answer.status, answer.header("X-Accel-Redirect")) == (404, None)
    assert b"nobody" not in answer.body


def test_inside_of_the_url(home: Home) -> None:
    """Dots do not lead out of the file store's own prefix: it is not even asked."""
    with Upstream(says(head("Content-Length: 2"), b"ok")) as upstream:
        mapping = (
            "--download",
            f"/store={upstream.url}/below/",
            "--internal-download",
            f"/internal={upstream.url}/below",
        )
        with Server(home, "--idle-grace", "0.5", *mapping, application="handover:application") as server:
            for path in ("../x", "%2e%2e/x", "x/..%2f../x", "..%5cx", "/x", "a%2fb", "a%0ab", "\x7f"):
                before = len(server.log)
                assert get(server.port, f"/store/{path}").status in (400, 404)
                assert get(server.port, f"/redirect?to=/internal/{path.replace('%', '%25')}").status in (400, 404)
                if path != "\x7f":
                    server.wait_line("is not sent: it has a", count=2, start=before)
            assert upstream.visits == []
            assert get(server.port, "/store/a%20%C3%BC+b?c=d&e=%2F..").body == b"ok"
            line = upstream.visit().head.partition(b"\r\n")[0]
    assert line == b"GET /below/a%20%C3%BC+b?c=d&e=%2F.. HTTP/1.1"


def test_a_link_inside_of_the_directory_is_followed(site: Site) -> None:
    """A symbolic link that stays in its directory is followed."""
    assert get(site.port, "/files/in").body == SMALL


def test_a_prefix_takes_get_and_head_only(site: Site) -> None:
    """What is served by its prefix takes GET and HEAD."""
    with Connection(site.port) as connection:
        connection.send(request("/files/big.bin", method="DELETE"))
        answer = connection.answer("DELETE")
    assert (answer.status, answer.header("Allow")) == (405, "GET, HEAD")


def test_not_asked_for(home: Home) -> None:
    """Without `--internal-download` an `X-Accel-Redirect` is for the proxy in front, with its body."""
    with Server(home, "--idle-grace", "0.5", application="handover:application") as server:
        answer = get(server.port, "/redirect?to=/internal/files/big.bin")
    assert (answer.header("X-Accel-Redirect"), answer.body) == ("/internal/files/big.bin", b"this is for nobody")


@pytest.mark.parametrize("way", WAYS)
def test_resume_by_curl(site: Site, way: str, tmp_path: Path) -> None:
    """curl completes with `-C -` what a client has got of a download that broke."""
    target = site.ways[way] + "big.bin"
    part = tmp_path / "part"
    with Connection(site.port) as connection:
        connection.send(request(target))
        head, _, body = connection.some(MIB).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        part.write_bytes(body)
        connection.reset()
    command = ["curl", "--silent", "--fail", "-C", "-", "-o", str(part), f"http://127.0.0.1:{site.port}{target}"]
    subprocess.run(command, check=True, timeout=20)
    assert digest(part.read_bytes()) == digest(BIG)
