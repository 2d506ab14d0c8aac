"""The built-in demo: an application that shows how the server stops.

A page that loads at once does not show what this server is for; a request that still runs while the server stops
does.  So the demo has a request that takes long and one that streams long, and its page says what to type and what to
watch.

The page loads nothing from elsewhere, has no script, and keeps to a Content-Security-Policy that allows nothing but
its one style sheet, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LONGEST: Final = 300.0
"""Seconds that a request takes at most, even if it asks for more."""

_SECONDS: Final = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,6})?")

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 1.05rem/1.55 system-ui, sans-serif; max-width: 40rem; margin: 0 auto; padding: 1.5rem 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
li { margin: .5rem 0; }
code { font: .95em ui-monospace, monospace; }
pre { padding: .8rem 1rem; overflow-x: auto; border: 1px solid #8888; border-left: .3rem solid #2a7; }
"""

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>graceful: stop me</title>
<style>{style}</style>
</head>
<body>
<h1>This server stops without interrupting anybody</h1>
<p>It is process {pid}. Try it:</p>
<h2>1. Start something that takes long</h2>
<ul>
<li><a href="/slow?seconds=20">a slow request</a>: nothing for 20 seconds, then its answer</li>
<li><a href="/stream?seconds=30">a slow stream</a>: a line a second, for 30 seconds</li>
<li><a href="/fast">a fast request</a>, to compare</li>
</ul>
<p>Open the first two in tabs of their own, or in a terminal:</p>
<pre><code>curl -N '{here}/stream?seconds=30'</code></pre>
<h2>2. Stop the server</h2>
<p>While they are still running, in another terminal, now run:</p>
<pre><code>kill -TERM {pid}</code></pre>
<h2>3. Watch</h2>
<ul>
<li>The server says at once that its socket is closed. New connections are refused, and the next process could
already have the port.</li>
<li>The slow request still gets its answer, and the stream goes on to its last line.</li>
<li>Then the server says how many requests it finished, and exits with status 0.</li>
</ul>
</body>
</html>
"""

_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'"
)

_HOST: Final = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")


class Demo:
    """The demo application.

    :param sleep: as `time.sleep`.
    :param pid: returns the id of this process; called for each request, since a daemon forks after the import.
    """

    def __init__(self, sleep: Callable[[float], None] = time.sleep, pid: Callable[[], int] = os.getpid) -> None:
        self._sleep = sleep
        self._pid = pid

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""
        path = environ.get("PATH_INFO", "") or "/"
        if path not in ("/", "/fast", "/slow", "/stream"):
            return self._text(environ, start_response, "404 Not Found", f"Only {_PATHS} exist.\n")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            text = "Only GET and HEAD.\n"
            return self._text(environ, start_response, "405 Method Not Allowed", text, ("Allow", "GET, HEAD"))
        if path == "/":
            return self._page(environ, start_response)
        if path == "/fast":
            return self._text(environ, start_response, "200 OK", f"Served by process {self._pid()}.\n")
        try:
            seconds = _seconds(environ, default=20.0 if path == "/slow" else 30.0)
        except ValueError as error:
            return self._text(environ, start_response, "400 Bad Request", f"{error}\n")
        if path == "/slow":
            if environ["REQUEST_METHOD"] != "HEAD":
                self._sleep(seconds)
            text = f"{seconds:g} seconds later: still served by process {self._pid()}.\n"
            return self._text(environ, start_response, "200 OK", text)
        start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), *_PLAIN])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else self._lines(seconds)

    def _page(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        here = f"http://{host if _HOST.fullmatch(host) else 'localhost:8080'}"
        body = _PAGE.format(style=_STYLE, pid=self._pid(), here=here).encode()
        headers = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", _POLICY),
            *_PLAIN,
        ]
        start_response("200 OK", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _text(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        status: str,
        text: str,
        *more: tuple[str, str],
    ) -> Iterable[bytes]:
        body = text.encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response(status, [*headers, *_PLAIN, *more])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _lines(self, seconds: float) -> Iterator[bytes]:
        passed = 0.0
        while passed < seconds:
            yield f"{passed:3.0f} of {seconds:g} seconds, process {self._pid()}\n".encode()
            step = min(1.0, seconds - passed)
            self._sleep(step)
            passed += step
        yield f"{seconds:g} seconds, and this is the last line: nobody interrupted it\n".encode()


_PATHS: Final = "/, /fast, /slow?seconds=20 and /stream?seconds=30"
# Without nosniff, browsers hold back the first lines of a stream to guess what it is.
_PLAIN: Final = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))


def _seconds(environ: WSGIEnvironment, default: float) -> float:
    """Returns how many seconds the request is to take, from 0 to `LONGEST`.

    :raises ValueError: the query's `seconds` is not one number.
    """
    fields = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=10)
    values = fields.get("seconds", [str(default)])
    if len(values) != 1 or not _SECONDS.fullmatch(values[0]):
        raise ValueError("seconds must be one number, such as /slow?seconds=20")
    return min(max(float(values[0]), 0.0), LONGEST)


application = Demo()
