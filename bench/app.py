"""The application that every server serves here: next to nothing, so that the server is what is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

SMALL = b"Hello, World!"
BIG = b"x" * (1 << 20)
SLEEP = 0.01
"""How long `/sleep` waits, in seconds: 20 threads can answer it 2,000 times a second and no more."""


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    """Answer `/` with 13 bytes, `/sleep` with the same after 10 ms, `/big` with 1 MiB."""
    path = environ["PATH_INFO"]
    body = SMALL
    if path == "/sleep":
        time.sleep(SLEEP)
    elif path == "/big":
        body = BIG
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
