"""The application of bench/downloads.py: gives long answers in each way that the servers have for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import graceful

STORE = os.environ.get("BENCH_STORE", "")
FILES = os.environ.get("BENCH_FILES", "")

tickets: list[graceful.Parked] = []


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer `/url/X`, `/file/X`, `/wrapped/X`, `/accel/PATH`; `/park`, `/parked` and `/broadcast`."""
    what, _, name = environ["PATH_INFO"][1:].partition("/")
    if what == "url":
        return graceful.Download(f"{STORE}/{name}")(environ, start_response)
    if what == "file":
        return graceful.Download(f"{FILES}/{name}")(environ, start_response)
    if what == "wrapped":
        size = os.path.getsize(f"{FILES}/{name}")
        start_response("200 OK", [("Content-Length", str(size))])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](open(f"{FILES}/{name}", "rb"))  # noqa: SIM115
        return wrapped
    if what == "accel":
        start_response("200 OK", [("X-Accel-Redirect", f"/{name}")])
        return []
    if what == "park":
        ticket = graceful.Parked()
        tickets.append(ticket)
        return ticket(environ, start_response)
    body = b"small"
    if what == "parked":
        body = str(len(tickets)).encode()
    elif what == "broadcast":
        for ticket in tickets:
            ticket.answer(200, [("Content-Type", "text/plain")], b"news\n")
        tickets.clear()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
