"""Static files beside a WSGI application, in one tree.

Run it in this directory, and look at http://127.0.0.1:8080/ and http://127.0.0.1:8080/files/:

    twistd -n graceful-app --listen tcp:8080:interface=127.0.0.1 files_beside_wsgi:root

Then begin a slow request, http://127.0.0.1:8080/slow?seconds=20, or the download of a large file, and stop the server
with Ctrl-C or `kill -TERM`: it closes its socket at once, and ends when both are through.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from twisted.web.resource import IResource, Resource
from twisted.web.server import Request
from twisted.web.static import File

from graceful import WSGIResource


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """A WSGI application like any other: it runs in a thread, and does not know the rest of the tree."""
    if environ["PATH_INFO"] == "/slow":
        time.sleep(float(parse_qs(environ["QUERY_STRING"]).get("seconds", ["10"])[0]))
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"This is {environ['SCRIPT_NAME']}{environ['PATH_INFO']} of the application.\n".encode()]


class Root(Resource):
    """Serves its children; the application answers every other path."""

    def getChild(self, path: bytes, request: Request) -> IResource:
        """Give the application the whole path, as if it were the root."""
        request.postpath.insert(0, request.prepath.pop())
        return wsgi


# No reactor and no thread pool here: the application runs in the server's threads, as many as `--threads` says.
wsgi = WSGIResource(None, None, application)

root = Root()
# The event loop sends files, so a download holds no thread, however slow its client is.
root.putChild(b"files", File(os.getcwd()))
