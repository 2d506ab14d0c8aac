"""A WSGI application as a resource: where an exchange leaves the event loop for a thread."""

from __future__ import annotations

from typing import Any

from twisted.python.components import registerAdapter
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from twisted.web.wsgi import WSGIResource as TwistedWSGIResource
from zope.interface import implementer

from graceful.threads.pool import Pool
from graceful.threads.start import NoThread
from graceful.web.exchange import Exchange
from graceful.web.interfaces import IHandler
from graceful.wsgi.runner import Application


@implementer(IResource, IHandler)
class WSGIResource:
    """Serves a WSGI application, anywhere in a tree of resources.

    It has the signature of :class:`twisted.web.wsgi.WSGIResource`, which is recognised in a tree as well.

    :param reactor: not needed any more; a thread answers by itself.
    :param threadpool: tells how many threads, by its `max`, and is otherwise left alone: all applications that
        have it share that number.  None: the number in the settings.
    :param application: the application, as PEP 3333 has it.
    """

    isLeaf = True
    server: Any = None

    def __init__(self, reactor: Any, threadpool: Any, application: Application) -> None:
        self.application = application
        self.threadpool = threadpool
        # The site that has asked last, and its pool: one field, since any thread may ask.
        self._known: tuple[Any, Pool[Exchange] | None] = (None, None)

    # -- IHandler -----------------------------------------------------------------------------------------

    def handle(self, exchange: Exchange) -> None:
        """Have a thread answer; with too many waiting already, say so at once."""
        site = exchange.connection.site
        known, pool = self._known
        if known is not site or pool is None:
            try:
                pool = site.pool_for(self.threadpool)
            except NoThread:
                exchange.handler = self
                site.answer(exchange, 503)
                return
            self._known = site, pool
        exchange.handler = self
        if not pool.offer(exchange):
            site.answer(exchange, 503)

    def take(self, exchange: Exchange, prefix: list[bytes], rest: list[bytes]) -> None:
        """Answer below a prefix, which the application sees as its `SCRIPT_NAME`."""
        end = len(prefix)
        while end and not prefix[end - 1]:
            end -= 1  # an application at `a/` is seen at `a`, and asked for `/`
        exchange.mount = _path(prefix[:end]), _path([*prefix[end:], *rest])
        self.handle(exchange)

    def disconnected(self, exchange: Exchange) -> None:
        """The thread will notice by itself when it has something to send."""

    def parked(self, exchange: Exchange) -> bool:
        """A thread works for it, or will."""
        return False

    # -- IResource, for trees that ask --------------------------------------------------------------------

    def render(self, request: Any) -> int:
        """Take the exchange over, from a resource that is wrapped around this one.

        :raises RuntimeError: the request is stock Twisted's.
        """
        give_to = getattr(request.channel, "give_to", None)
        if give_to is None:
            raise RuntimeError("graceful's WSGIResource is served by graceful, not by twisted.web.server.Site")
        give_to(self, request.prepath, request.postpath)
        return NOT_DONE_YET

    def getChildWithDefault(self, name: bytes, request: Any) -> Any:
        """A leaf has no children."""
        raise RuntimeError("a WSGI application has no child resources")

    def putChild(self, path: bytes, child: Any) -> None:
        """A leaf has no children."""
        raise RuntimeError("a WSGI application has no child resources")


def _path(segments: list[bytes]) -> str:
    return b"".join(b"/" + segment for segment in segments).decode("latin-1")


def _recognise(resource: TwistedWSGIResource) -> WSGIResource:
    """Twisted's own resource is served the fast way, too."""
    return WSGIResource(resource._reactor, resource._threadpool, resource._application)


registerAdapter(_recognise, TwistedWSGIResource, IHandler)
