"""An API in klein beside a WSGI application, in one tree.

Run it in this directory (`pip install klein` before), and look at http://127.0.0.1:8080/ and
http://127.0.0.1:8080/api/hello/world:

    twistd -n graceful-app --listen tcp:8080:interface=127.0.0.1 klein_beside_wsgi:root

Then begin a slow call of the API, http://127.0.0.1:8080/api/slow/20, and stop the server with Ctrl-C or `kill -TERM`:
it closes its socket at once, and ends when the call is through.

klein imports the reactor as soon as it is imported itself.  In a module that graceful-app gets by its name, this does
no harm: graceful-app imports it after every fork, when the reactor has been chosen.  A module that is imported
earlier, such as a plugin of twistd, has to import klein inside a function; `AppServer` takes such a function as its
root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from klein import Klein
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from graceful import WSGIResource

api = Klein()


@api.route("/hello/<name>")
def hello(request: Request, name: str) -> str:
    """Answer at once, in the event loop."""
    return f"Hello, {name}!\n"


@api.route("/slow/<float:seconds>")
@api.route("/slow/<int:seconds>")
def slow(request: Request, seconds: float) -> Deferred[str]:
    """Answer later, without a thread.  If the client leaves, or the deadline comes, the Deferred is cancelled."""
    return deferLater(reactor, seconds, lambda: f"{seconds} seconds later\n")


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """A WSGI application like any other."""
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"This is {environ['PATH_INFO']} of the application.\n".encode()]


class Root(Resource):
    """Serves its children; the application answers every other path."""

    def getChild(self, path: bytes, request: Request) -> IResource:
        """Give the application the whole path, as if it were the root."""
        request.postpath.insert(0, request.prepath.pop())
        return wsgi


wsgi = WSGIResource(None, None, application)
root = Root()
root.putChild(b"api", api.resource())
