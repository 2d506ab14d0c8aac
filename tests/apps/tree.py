"""A tree of Twisted's resources with WSGI applications in it: one child for each thing a server can get wrong."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any
from urllib.parse import parse_qsl

from basic import PATTERN, show_environ
from basic import application as basic_application
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.web.proxy import ReverseProxyResource
from twisted.web.resource import EncodingResourceWrapper, Resource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, GzipEncoderFactory, Request
from twisted.web.static import Data, File
from twisted.web.util import DeferredResource, Redirect, redirectTo
from twisted.web.wsgi import WSGIResource as TwistedWSGIResource
from zope.interface import implementer

from graceful import WSGIResource

MIB = 1024 * 1024
CLIENTS_GONE: list[str] = []
"""What `notifyFinish` has said about requests that name themselves with `?name=`, and what producers say."""
PRODUCED: dict[str, int] = {}
"""How many bytes each named producer has made."""

log = Logger(namespace="tree")


def query(request: Request) -> dict[str, str]:
    """Return the names and values of the query."""
    return dict(parse_qsl(request.uri.decode("ascii").partition("?")[2]))


def note(what: str) -> None:
    """Note what happened, for `/gone` and for the log."""
    CLIENTS_GONE.append(what)
    log.info("{what}", what=what)


def watch(request: Request) -> None:
    """Note how a named request ends."""
    name = query(request).get("name", "")
    request.notifyFinish().addCallbacks(
        lambda ignored: note(f"{name} finished"),
        lambda failure: note(f"{name} lost: {failure.type.__name__}"),
    )


class Leaf(Resource):
    """A leaf that calls one function."""

    isLeaf = True

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def render(self, request: Request) -> Any:
        """Answer with what the function returns."""
        return self.function(request)


def show_json(request: Request, value: object) -> bytes:
    """Answer a value as JSON."""
    request.setHeader(b"Content-Type", b"application/json")
    return json.dumps(value).encode()


def form(request: Request) -> bytes:
    """Answer the arguments of query and form."""
    args = {name.decode(): [value.decode() for value in values] for name, values in request.args.items()}
    return show_json(request, args)


def body(request: Request) -> bytes:
    """Answer length and SHA-256 of the body, and the fields that describe it."""
    digest, size = hashlib.sha256(), 0
    while piece := request.content.read(65536):
        size += len(piece)
        digest.update(piece)
    fields = [request.getHeader(name) for name in ("content-length", "transfer-encoding")]
    return f"{size} {digest.hexdigest()} {fields}".encode()


def session(request: Request) -> bytes:
    """Answer how often this session was here."""
    seen = request.getSession()
    seen.visits = getattr(seen, "visits", 0) + 1
    return str(seen.visits).encode()


def where(request: Request) -> bytes:
    """Answer what the request knows about both ends of the connection, and its own place."""
    client, host = request.getClientAddress(), request.getHost()
    return show_json(
        request,
        {
            "client": [type(client).__name__, getattr(client, "host", None), getattr(client, "port", None)],
            "ip": request.getClientIP(),
            "peer": type(request.transport.getPeer()).__name__,
            "host": [type(host).__name__, getattr(host, "host", None), getattr(host, "port", None)],
            "secure": bool(request.isSecure()),
            "url": request.prePathURL().decode(),
            "hostname": request.getRequestHostname().decode(),
            "prepath": [segment.decode("latin-1") for segment in request.prepath],
            "postpath": [segment.decode("latin-1") for segment in request.postpath],
            "version": request.clientproto.decode(),
        },
    )


def proxy(request: Request) -> object:
    """Answer what this server itself answers to the path behind `/proxy`."""
    upstream = ReverseProxyResource("127.0.0.1", request.getHost().port, b"")
    return getChildForRequest(upstream, request).render(request)


def pass_gate(path: str) -> None:
    """Wait in a thread of the reactor's pool until the test opens the gate: see `tests.support.gate`."""
    with open(path, "rb") as fifo:
        fifo.read()


def finish_at_gate(request: Request, last: bytes) -> None:
    """Send the last of the body when the test opens the gate, if the client is still there."""
    watch(request)
    lost: list[object] = []
    request.notifyFinish().addErrback(lost.append)

    def finish(ignored: object) -> None:
        if not lost:
            request.write(last)
            request.finish()

    deferToThread(pass_gate, query(request)["path"]).addCallback(finish)


def gate(request: Request) -> object:
    """Answer when the test opens the gate, and not before; no thread of ours waits."""
    finish_at_gate(request, b"passed")
    return NOT_DONE_YET


def half_gate(request: Request) -> object:
    """Send the head and half of the body, and the other half when the gate opens."""
    request.setHeader(b"Content-Length", b"10")
    request.write(b"first")
    finish_at_gate(request, b"after")
    return NOT_DONE_YET


def early_head(request: Request) -> object:
    """Send only the head, and the body when the gate opens."""
    request.setHeader(b"X-Early", b"yes")
    request.write(b"")
    finish_at_gate(request, b"late")
    return NOT_DONE_YET


def never(request: Request) -> object:
    """Never answer; only the client can end it."""
    watch(request)
    return NOT_DONE_YET


def pieces(request: Request) -> object:
    """Answer in three pieces of unknown length."""
    watch(request)
    for piece in (b"one ", b"two ", b"three"):
        request.write(piece)
    request.finish()
    return NOT_DONE_YET


def later(request: Request) -> object:
    """Answer in the reactor's next turn."""

    def finish(ignored: object) -> None:
        request.write(b"later")
        request.finish()

    done: Deferred[None] = Deferred()
    done.addCallback(finish)
    reactor.callLater(0, done.callback, None)
    return NOT_DONE_YET


def block(request: Request) -> bytes:
    """Block the event loop, as nobody should."""
    time.sleep(float(query(request)["seconds"]))
    return b"awake"


def fail(request: Request) -> bytes:
    """Fail before anything was sent."""
    raise RuntimeError("failed on purpose")


def fail_late(request: Request) -> bytes:
    """Fail in the middle of a body."""
    watch(request)
    request.write(b"begun")
    raise RuntimeError("failed late on purpose")


def bad_header(request: Request) -> bytes:
    """Answer a status that no answer may have."""
    watch(request)
    request.setResponseCode(42, b"Answer")
    return b"never"


def text(request: Request) -> Any:
    """Answer something that is no bytes."""
    return "text"


def lose(request: Request) -> object:
    """Send a part of the body, and lose the connection by what is asked to lose it."""
    watch(request)
    if "whole" not in query(request):
        request.setHeader(b"Content-Length", b"100")
    request.write(b"a part")
    {
        "request": request.loseConnection,
        "transport": request.transport.loseConnection,
        "channel": request.channel.loseConnection,
        "abort": request.transport.abortConnection,
    }[query(request)["by"]]()
    return NOT_DONE_YET


def finish_and_lose(request: Request) -> object:
    """Answer, and then lose the connection."""
    transport = request.transport
    request.setHeader(b"Content-Length", b"4")
    request.write(b"done")
    request.finish()
    transport.loseConnection()
    return NOT_DONE_YET


def lose_and_finish(request: Request) -> object:
    """Lose the connection in the middle, and finish all the same."""
    watch(request)
    request.write(b"a part")
    request.transport.loseConnection()
    request.finish()
    return NOT_DONE_YET


@implementer(IPullProducer)
class Pull:
    """Makes bytes when it is asked to."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.name = query(request)["name"]
        self.left = int(query(request)["bytes"])
        PRODUCED[self.name] = 0

    def resumeProducing(self) -> None:
        """Make one more piece."""
        piece = PATTERN[: min(len(PATTERN), self.left)]
        self.left -= len(piece)
        PRODUCED[self.name] += len(piece)
        if piece:
            self.request.write(piece)
        if not self.left:
            self.request.unregisterProducer()
            self.request.finish()

    def stopProducing(self) -> None:
        """Note that nobody wants more."""
        self.left = 0
        note(f"{self.name} stopped")


@implementer(IPushProducer)
class Push(Pull):
    """Makes bytes by itself, until it is told to wait."""

    paused = False

    def resumeProducing(self) -> None:
        """Go on."""
        self.paused = False
        self.produce()

    def produce(self) -> None:
        """Make one more piece, and so on."""
        if not self.paused and self.left:
            super().resumeProducing()
            reactor.callLater(0, self.produce)

    def pauseProducing(self) -> None:
        """Wait."""
        self.paused = True


def pull(request: Request) -> object:
    """Answer `bytes` of the pattern, made by a pull producer."""
    watch(request)
    request.registerProducer(Pull(request), False)
    return NOT_DONE_YET


def push(request: Request) -> object:
    """Answer `bytes` of the pattern, made by a push producer."""
    watch(request)
    producer = Push(request)
    request.registerProducer(producer, True)
    producer.produce()
    return NOT_DONE_YET


@implementer(IPullProducer)
class Failing(Pull):
    """Fails after the first piece."""

    def resumeProducing(self) -> None:
        """Make a piece, or fail."""
        if PRODUCED[self.name]:
            raise RuntimeError("failed to produce on purpose")
        super().resumeProducing()


@implementer(IPullProducer)
class Unkind(Pull):
    """Fails when it is told to stop."""

    def stopProducing(self) -> None:
        """Fail."""
        raise RuntimeError("failed to stop on purpose")


def failing(request: Request) -> object:
    """Answer `bytes` by a producer that fails after a while."""
    watch(request)
    request.registerProducer(Failing(request), False)
    return NOT_DONE_YET


def unkind(request: Request) -> object:
    """Answer `bytes` by a producer that fails when it is told to stop."""
    watch(request)
    request.registerProducer(Unkind(request), False)
    return NOT_DONE_YET


class FailingDirectory(Resource):
    """Fails while the way down the tree is looked for."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Fail."""
        raise RuntimeError("failed on the way on purpose")


class Rewritten(Resource):
    """Serves an application at another place than the one that was asked for."""

    def __init__(self, served: Any) -> None:
        super().__init__()
        self.served = served

    def getChild(self, path: bytes, request: Request) -> Any:
        """Take one segment away, and put another one in."""
        request.prepath = [b"elsewhere"]
        request.postpath = [b"instead"]
        return self.served


class Fresh(Resource):
    """Makes a resource of each kind for the application anew for each request."""

    def getChild(self, path: bytes, request: Request) -> Any:
        """Make one."""
        if path == b"ours":
            return WSGIResource(None, None, basic_application)
        return TwistedWSGIResource(reactor, reactor.getThreadPool(), basic_application)


class Root(Resource):
    """What nobody else serves is the WSGI application's."""

    def __init__(self, application: Any) -> None:
        super().__init__()
        self.application = application

    def getChild(self, path: bytes, request: Request) -> Any:
        """Give the application the whole path."""
        request.postpath[:0] = request.prepath
        request.prepath = []
        return self.application


def directory(**children: Any) -> Resource:
    """Return a resource with these children."""
    made = Resource()
    for name, child in children.items():
        made.putChild(name.encode(), child)
    return made


def place() -> Resource:
    """Return a directory with an application that answers its environ at each kind of place."""
    shown = WSGIResource(None, None, show_environ)
    made = Root(shown)
    for name, child in {
        b"wsgi": shown,
        b"stock": TwistedWSGIResource(reactor, reactor.getThreadPool(), show_environ),
        b"deep": directory(er=directory(wsgi=shown)),
        b"a/b": shown,
        b"ends/": shown,
        b"rewritten": Rewritten(shown),
    }.items():
        made.putChild(name, child)
    slash = Resource()
    slash.putChild(b"", shown)
    made.putChild(b"slash", slash)
    return made


wsgi = WSGIResource(None, None, basic_application)
root = Root(wsgi)
for name, child in {
    b"wsgi": wsgi,
    b"stock": TwistedWSGIResource(reactor, reactor.getThreadPool(), basic_application),
    b"place": place(),
    b"fresh": Fresh(),
    b"wrapped": EncodingResourceWrapper(wsgi, [GzipEncoderFactory()]),
    b"deferred": Leaf(lambda request: DeferredResource(later_resource()).render(request)),
    b"files": File(os.environ.get("TREE_FILES", ".")),
    b"data": Data(b"some data", "text/plain"),
    b"directory": Resource(),
    b"redirect": Leaf(lambda request: redirectTo(b"/data", request)),
    b"moved": Redirect(b"/data"),
    b"failing-directory": FailingDirectory(),
    b"gone": Leaf(lambda request: show_json(request, CLIENTS_GONE)),
    b"produced": Leaf(lambda request: show_json(request, PRODUCED)),
}.items():
    root.putChild(name, child)
for function in (
    *(form, body, session, where, proxy, gate, half_gate, early_head, never, pieces, later, block),
    *(fail, fail_late, bad_header, text, lose, finish_and_lose, lose_and_finish, pull, push, failing, unkind),
):
    root.putChild(function.__name__.replace("_", "-").encode(), Leaf(function))


def later_resource() -> Deferred[Any]:
    """Return the WSGI application, in the reactor's next turn."""
    found: Deferred[Any] = Deferred()
    reactor.callLater(0, found.callback, wsgi)
    return found
