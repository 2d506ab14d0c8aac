"""An ASGI application in a tree, beside a WSGI application and a resource of Twisted's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from asgi_starlette import app as starlette
from twisted.web.resource import Resource

import graceful


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"wsgi"]


class Plain(Resource):
    """The resource."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return b"resource"


application = Resource()
application.putChild(b"asgi", graceful.ASGIResource(starlette))
application.putChild(b"wsgi", graceful.WSGIResource(None, None, wsgi))
application.putChild(b"plain", Plain())
