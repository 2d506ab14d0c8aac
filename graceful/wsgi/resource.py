"""A WSGI application as a resource: where an exchange leaves the event loop for a thread."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from twisted.python.components import registerAdapter
from twisted.web.resource import IResource
from twisted.web.wsgi import WSGIResource as TwistedWSGIResource
from zope.interface import implementer

from graceful.web.exchange import Exchange
from graceful.web.handler import IHandler
from graceful.wsgi.pool import Pool
from graceful.wsgi.run import Application, Runner


@implementer(IResource, IHandler)
class WSGIResource:
    """Serves a WSGI application, anywhere in a tree of resources.

    It has the signature of :class:`twisted.web.wsgi.WSGIResource`, which is recognised in a tree as well.

    :param reactor: not needed any more; a thread answers by itself.
    :param threadpool: tells how many threads, by its `max`, and is otherwise left alone; None: as many as the
        settings say.
    :param application: the application, as PEP 3333 has it.
    """

    isLeaf = True
    server: Any = None

    def __init__(self, reactor: Any, threadpool: Any, application: Application) -> None:
        self._size: int | None = getattr(threadpool, "max", None)
        self._run = Runner(application)
        self._pool: Pool[Exchange] | None = None

    # -- IHandler -----------------------------------------------------------------------------------------

    def handle(self, exchange: Exchange) -> None:
        """Have a thread answer; with too many waiting already, say so at once."""
        pool = self._pool
        if pool is None:
            pool = self._pool = exchange.connection.site.new_pool(self._size, self._run)
        if pool.crowded():
            exchange.connection.site.answer(exchange, 503)
        else:
            pool.put(exchange)

    def take(self, exchange: Exchange, prefix: list[bytes]) -> None:
        """Answer below a prefix, which the application sees as its `SCRIPT_NAME`."""
        exchange.mount = b"".join(b"/" + segment for segment in prefix).decode("latin-1").rstrip("/")
        self.handle(exchange)

    def disconnected(self, exchange: Exchange) -> None:
        """The thread will notice by itself when it has something to send."""

    # -- IResource, for trees that ask --------------------------------------------------------------------

    def render(self, request: Any) -> bytes:
        """Only `graceful`'s own site can serve it."""
        raise RuntimeError("graceful's WSGIResource is served by graceful's Site, not by twisted.web.server.Site")

    def getChildWithDefault(self, name: bytes, request: Any) -> Any:
        """A leaf has no children."""
        raise RuntimeError("a WSGI application has no child resources")

    def putChild(self, path: bytes, child: Any) -> None:
        """A leaf has no children."""
        raise RuntimeError("a WSGI application has no child resources")


_recognised: WeakKeyDictionary[TwistedWSGIResource, WSGIResource] = WeakKeyDictionary()


def _recognise(resource: TwistedWSGIResource) -> WSGIResource:
    """Twisted's own resource is served the fast way, too."""
    ours = _recognised.get(resource)
    if ours is None:
        ours = WSGIResource(resource._reactor, resource._threadpool, resource._application)
        _recognised[resource] = ours
    return ours


registerAdapter(_recognise, TwistedWSGIResource, IHandler)
