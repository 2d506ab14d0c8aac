"""A WSGI application whose answers are sent by the event loop: downloads by all their ways, and parked requests."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable

import basic
from basic import Environ, Start, query
from event_tickets import send_event, tickets

from graceful import Download, Parked

gone: list[str] = []


def download(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer with the `target`, a path or a URL."""
    return Download(query(environ)["target"])(environ, start)


def named(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer with the `target`, under fields of our own."""
    fields = [
        ("Content-Type", "text/x-own"),
        ("Content-Disposition", 'attachment; filename="own"'),
        ("Set-Cookie", "own=1"),
        ("Cache-Control", "private"),
    ]
    return Download(query(environ)["target"], fields)(environ, start)


def redirect(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer with an `X-Accel-Redirect` to what `to` says."""
    start(
        "200 OK",
        [("Content-Type", "text/x-own"), ("Set-Cookie", "own=1"), ("X-Accel-Redirect", query(environ)["to"])],
    )
    return [b"this is for nobody"]


def park(environ: Environ, start: Start) -> Iterable[bytes]:
    """Wait for news under a `name`, for at most `timeout` seconds."""
    asked = query(environ)
    name = asked["name"]
    drain = at_drain(name, asked["drain"]) if "drain" in asked else None
    ticket = Parked(float(asked.get("timeout", "60")), drain, move="move" in asked)
    ticket.gone.addCallback(lambda ignored: gone.append(name))
    tickets[name] = ticket
    if "now" in asked:
        ticket.answer(200, [("Content-Type", "text/plain")], asked["now"].encode())
    return ticket(environ, start)


def at_drain(name: str, how: str) -> Callable[[], tuple[int, list[tuple[str, str]], bytes]]:
    """What makes the answer when the server stops."""

    def answer() -> tuple[int, list[tuple[str, str]], bytes]:
        if how == "fail":
            raise RuntimeError("failed on purpose")
        thread = threading.current_thread().name
        return 200, [("Content-Type", "text/plain")], f"come back, {name} (from {thread})".encode()

    return answer


def events(environ: Environ, start: Start) -> Iterable[bytes]:
    """Wait for events under a `name`."""
    name = query(environ)["name"]
    ticket = tickets[name] = Parked(60)
    start("200 OK", [("Content-Type", "text/event-stream"), *ticket.headers])
    return ticket


def feed(environ: Environ, start: Start) -> Iterable[bytes]:
    """Wait for events under a `name`, also in the next process; tell at once what that is, and what it was asked."""
    name = query(environ)["name"]
    ticket = tickets[name] = Parked(60, move=True)
    start("200 OK", [("Content-Type", "text/event-stream"), *ticket.headers])
    ticket.send(f"data: {os.getpid()} {environ.get('HTTP_LAST_EVENT_ID')}\n\n".encode())
    return ticket


def answer(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer who waits under a `name`, and say whether it is in time."""
    asked = query(environ)
    ticket = tickets.get(asked["name"])
    in_time = ticket is not None and ticket.answer(201, [("X-News", "yes")], asked["body"].encode())
    start("200 OK", [("Content-Type", "text/plain")])
    return [str(in_time).encode()]


def broadcast(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer all, and say how many were in time."""
    count = sum(ticket.answer(200, (), b"for all") for ticket in list(tickets.values()))
    start("200 OK", [("Content-Type", "text/plain")])
    return [str(count).encode()]


def send(environ: Environ, start: Start) -> Iterable[bytes]:
    """Send an event to who waits under a `name`; without a `body`, finish."""
    in_time = send_event(query(environ))
    start("200 OK", [("Content-Type", "text/plain")])
    return [str(in_time).encode()]


def show_gone(environ: Environ, start: Start) -> Iterable[bytes]:
    """Answer the names of those who have left."""
    start("200 OK", [("Content-Type", "text/plain")])
    return [",".join(gone).encode()]


def doze(environ: Environ, start: Start) -> Iterable[bytes]:
    """Never end, outside of Python code."""
    time.sleep(1000)
    return []


PATHS: dict[str, Callable[[Environ, Start], Iterable[bytes]]] = {
    "/download": download,
    "/named": named,
    "/redirect": redirect,
    "/park": park,
    "/events": events,
    "/feed": feed,
    "/answer": answer,
    "/broadcast": broadcast,
    "/send": send,
    "/gone": show_gone,
    "/doze": doze,
}


def application(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Call the path's handler; for other paths, `basic`'s."""
    handler = PATHS.get(environ["PATH_INFO"], basic.application)
    return handler(environ, start_response)
