"""The site under test: a library that answers questions, takes orders, and hands out books, also from a store.

It learns from its environment where its shelf is (see :class:`tests.integration.shelf.Shelf`), and at import which
release it is, as a site does whose code is replaced by a deploy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from graceful import Download

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], object]]

SHELF = Path(os.environ["SHELF"])
STORE = os.environ.get("STORE", "")
RELEASE = (SHELF / "release").read_text()
FIELDS = [("X-Release", RELEASE)]


def answer(start: Start, kind: str, body: str) -> Iterable[bytes]:
    """Answer 200."""
    start("200 OK", [("Content-Type", kind), *FIELDS])
    return [body.encode()]


def report(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer when the test opens the gate: see `tests.support.gate`."""
    with open(parse_qs(environ["QUERY_STRING"])["path"][0], "rb") as gate:
        gate.read()
    return answer(start, "text/plain", RELEASE)


def greet(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer a form."""
    form = parse_qs(environ["wsgi.input"].read().decode())
    return answer(start, "text/plain", f"Hello, {form['name'][0]}!")


def order(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer JSON with JSON."""
    wanted = json.load(environ["wsgi.input"])
    return answer(start, "application/json", json.dumps({"ordered": wanted["title"], "release": RELEASE}))


def application(environ: Environ, start: Start) -> Iterable[bytes]:
    """Find the path's view."""
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    if (method, path) == ("GET", "/"):
        return answer(start, "text/plain", RELEASE)
    if (method, path) == ("GET", "/report"):
        return report(environ, start)
    if (method, path) == ("POST", "/greet"):
        return greet(environ, start)
    if (method, path) == ("POST", "/order"):
        return order(environ, start)
    if path.startswith("/books/"):
        return Download(SHELF / "books" / Path(path).name, FIELDS)(environ, start)
    if path.startswith("/store/"):
        return Download(f"{STORE}/books/{Path(path).name}", FIELDS)(environ, start)
    start("404 Not Found", [])
    return []
