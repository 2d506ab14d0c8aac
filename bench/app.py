"""The application of the throughput benchmark: it does next to nothing, so that the figures are the server's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

SMALL = b"Hello, World!"
BIG = b"x" * (1 << 20)
SLEEP = 0.01
"""Seconds that `/sleep` waits: 20 threads can answer it at most 2,000 times a second."""


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    """Answer `/` with 13 bytes, `/sleep` with the same after 10 ms, `/big` with 1 MiB, `/upload` with the length."""
    path = environ["PATH_INFO"]
    body = SMALL
    if path == "/sleep":
        time.sleep(SLEEP)
    elif path == "/big":
        body = BIG
    elif path == "/upload":
        length = environ.get("CONTENT_LENGTH")
        read = environ["wsgi.input"].read
        body = str(len(read(int(length)) if length else read())).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[dict[str, Any]], Any]) -> None:
    """The same for servers that have no WSGI, without `/sleep`."""
    if scope["type"] != "http":
        return
    body = BIG if scope["path"] == "/big" else SMALL
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
