"""A WSGI application with one path for each thing a server can get wrong: see `PATHS`."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], object]]
PATTERN = bytes(range(256)) * 256

closed = 0
"""How many iterables the server has closed.  One at a time: the tests ask one after the other."""


class Body:
    """An iterable without a length that counts how often it is closed."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = iter(pieces)

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces

    def close(self) -> None:
        """Count."""
        global closed
        closed += 1


def root(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer 13 bytes."""
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello, world!"]


def pid(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer with the number of the process."""
    start("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


def echo(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer the query string."""
    start("200 OK", [("Content-Type", "text/plain")])
    return [environ["QUERY_STRING"].encode("latin-1")]


def sleep(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer after `seconds`."""
    time.sleep(float(query(environ)["seconds"]))
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"slept"]


def gate(environ: Environ, start: Start) -> Iterable[bytes]:
    """Tell the test that the thread is here, and wait until the test lets it go: see `tests.support.gate`."""
    with open(query(environ)["path"], "rb") as fifo:
        fifo.read()
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"passed"]


def half_gate(environ: Environ, start: Start) -> Iterable[bytes]:
    """Send the first half of the body, then wait as `gate` does."""
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10")])
    yield b"first"
    with open(query(environ)["path"], "rb") as fifo:
        fifo.read()
    yield b"after"


def stream(environ: Environ, start: Start) -> Iterable[bytes]:
    """Stream `bytes` of the pattern in pieces of 64 KiB."""
    size = int(query(environ)["bytes"])
    start("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))])
    return Body(PATTERN[: min(65536, size - sent)] for sent in range(0, size, 65536))


def one(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer `bytes` of the pattern in one piece."""
    size = int(query(environ)["bytes"])
    start("200 OK", [("Content-Type", "application/octet-stream")])
    return [(PATTERN * (size // len(PATTERN) + 1))[:size]]


def upload(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer the length and the SHA-256 of the request's body, read to its end."""
    size, digest = 0, hashlib.sha256()
    while piece := environ["wsgi.input"].read(65536):
        size += len(piece)
        digest.update(piece)
    start("200 OK", [("Content-Type", "text/plain")])
    return [f"{size} {digest.hexdigest()}".encode()]


def lines(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer what each way of reading lines from `wsgi.input` got, one after the other."""
    body = environ["wsgi.input"]
    got = [body.readline(), body.readline(3), *body.readlines(1), *body]
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([line.decode() for line in got]).encode()]


def show_environ(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer everything of the environ that JSON can say."""
    plain = {key: value for key, value in environ.items() if isinstance(value, str | int | bool | tuple)}
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(plain).encode()]


def fail(environ: Environ, start: Start) -> Iterable[bytes]:
    """Fail before anything was sent."""
    raise RuntimeError("failed on purpose")


def fail_late(environ: Environ, start: Start) -> Iterable[bytes]:
    """Fail in the middle of a body."""
    start("200 OK", [("Content-Type", "text/plain")])
    yield b"begun"
    raise RuntimeError("failed late on purpose")


def fail_in_close(environ: Environ, start: Start) -> Iterable[bytes]:
    """Fail when the iterable is closed, the whole body being sent."""

    class Failing(Body):
        def close(self) -> None:
            super().close()
            raise RuntimeError("failed in close on purpose")

    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return Failing([b"whole"])


def write(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer through the `write` callable and through the iterable."""
    put = start("200 OK", [("Content-Type", "text/plain")])
    put(b"one ")
    put(b"two ")
    return [b"three"]


def exc_info(environ: Environ, start: Start) -> Iterable[bytes]:
    """Replace headers that were not sent yet."""
    start("200 OK", [("Content-Type", "text/plain"), ("X-Lost", "yes")])
    try:
        raise ValueError("a reason")
    except ValueError:
        start("503 Replaced", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"replaced"]


def exc_info_late(environ: Environ, start: Start) -> Iterable[bytes]:
    """Try to replace headers that were sent."""
    start("200 OK", [("Content-Type", "text/plain")])
    yield b"begun"
    try:
        raise ValueError("too late on purpose")
    except ValueError:
        start("503 Replaced", [("Content-Type", "text/plain")], sys.exc_info())
    yield b"never"


def show_closed(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer how many iterables were closed."""
    start("200 OK", [("Content-Type", "text/plain")])
    return [str(closed).encode()]


def under(environ: Environ, start: Start) -> Iterable[bytes]:
    """Announce ten bytes and send five."""
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10")])
    return Body([b"01234"])


def over(environ: Environ, start: Start) -> Iterable[bytes]:
    """Announce five bytes and send ten, in two pieces."""
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return Body([b"012", b"3456789"])


def generate(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer a body of unknown length, with an empty piece in it."""
    start("200 OK", [("Content-Type", "text/plain")])
    return Body([b"ab", b"", b"cd", b"ef"])


def wrapped(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer the file `path` through `wsgi.file_wrapper`."""
    path = query(environ)["path"]
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(os.path.getsize(path)))])
    wrapper: Callable[..., Iterable[bytes]] = environ["wsgi.file_wrapper"]
    return wrapper(open(path, "rb"), 8192)


def no_content(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer 204."""
    start("204 No Content", [])
    return []


def not_modified(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer 304 with a tag."""
    start("304 Not Modified", [("ETag", '"x"')])
    return []


def lists(environ: Environ, start: Start) -> Iterable[bytes]:
    """Say the fields as a tuple of lists, where PEP 3333 asks for a list of tuples; `nr` tells heads apart."""
    start("200 OK", (["Content-Type", "text/plain"], ["X-Number", query(environ)["nr"]], ["content-length", "5"]))
    return [b"lists"]


def spin(environ: Environ, start: Start) -> Iterable[bytes]:
    """Never end, in Python code."""
    while True:
        pass


PATHS: dict[str, Callable[[Environ, Start], Iterable[bytes]]] = {
    "/": root,
    "/echo": echo,
    "/pid": pid,
    "/sleep": sleep,
    "/gate": gate,
    "/half-gate": half_gate,
    "/big": stream,
    "/one": one,
    "/upload": upload,
    "/lines": lines,
    "/environ": show_environ,
    "/fail": fail,
    "/faillate": fail_late,
    "/failclose": fail_in_close,
    "/write": write,
    "/excinfo": exc_info,
    "/excinfolate": exc_info_late,
    "/closed": show_closed,
    "/under": under,
    "/over": over,
    "/gen": generate,
    "/wrapped": wrapped,
    "/204": no_content,
    "/304": not_modified,
    "/lists": lists,
    "/spin": spin,
}


def query(environ: Environ) -> dict[str, str]:
    """Return the names and values of the query."""
    return dict(parse_qsl(environ["QUERY_STRING"]))


def application(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Call the path's handler, or answer 404 and what was asked for."""
    handler = PATHS.get(environ["PATH_INFO"])
    if handler is None:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}".encode("latin-1")]
    return handler(environ, start_response)
