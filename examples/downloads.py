"""Downloads, long-polls and server-sent events from a plain WSGI application, none of which holds a thread.

Run it in this directory, and look at http://127.0.0.1:8080/:

    twistd -n graceful-app --listen tcp:8080:interface=127.0.0.1 downloads:root

Open http://127.0.0.1:8080/news in one terminal with `curl`, and /tell?hello in another one.  Then begin the download
of a large file, and stop the server with Ctrl-C or `kill -TERM`: a client that waits for news is told to come back,
and the download goes on to its end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from graceful import Download, Parked

WORDS = b"""Try /files/downloads.py, /news, /events, and /tell?hello
"""

Start = Callable[..., Any]

readers: set[Parked] = set()
listeners: set[Parked] = set()


def files(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """Send a file of this directory.  The application decides which client may have it; the event loop sends it."""
    try:
        file = Download(os.path.join(os.getcwd(), os.path.basename(environ["PATH_INFO"])))
    except FileNotFoundError:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There is no such file.\n"]
    return file(environ, start_response)


def news(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """Wait for news: a long-poll, which `tell` answers, or else the server after a minute, with 204."""

    def at_drain() -> tuple[int, list[tuple[str, str]], bytes]:
        return 200, [("Content-Type", "text/plain"), ("Retry-After", "1")], b"Please ask again.\n"

    ticket = Parked(timeout=60, at_drain=at_drain)
    ticket.gone.addCallback(lambda ignored: readers.discard(ticket))
    readers.add(ticket)
    return ticket(environ, start_response)


def events(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """Begin a stream of server-sent events: this sends the head, and `tell` sends the events."""
    ticket = Parked(timeout=3600)
    ticket.gone.addCallback(lambda ignored: listeners.discard(ticket))
    listeners.add(ticket)
    start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache"), *ticket.headers])
    return ticket


def tell(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """Tell all clients that wait.  `answer` and `send` return False for a client that waits no more."""
    text = unquote(environ["QUERY_STRING"]).encode()
    told = 0
    while readers:
        told += readers.pop().answer(200, [("Content-Type", "text/plain")], text + b"\n")
    for ticket in list(listeners):
        if ticket.send(b"data: %b\n\n" % text):
            told += 1
        else:
            listeners.discard(ticket)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d were told.\n" % told]


def root(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """Answer a request with the view for its path."""
    path = environ["PATH_INFO"]
    for prefix, view in {"/files/": files, "/news": news, "/events": events, "/tell": tell}.items():
        if path.startswith(prefix):
            return view(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [WORDS]
