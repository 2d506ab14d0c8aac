"""A WSGI application as a resource: where an exchange leaves the event loop for a thread."""

from __future__ import annotations

from typing import Any

from twisted.web.resource import IResource
from zope.interface import implementer

from graceful.threads.pool import Pool
from graceful.threads.start import NoThread
from graceful.web.application_resource import ApplicationResource
from graceful.web.exchange import Exchange
from graceful.web.interfaces import IHandler
from graceful.wsgi.runner import Application


@implementer(IResource, IHandler)
class WSGIResource(ApplicationResource):
    """Serves a WSGI application, anywhere in a tree of resources.

    It has the signature of :class:`twisted.web.wsgi.WSGIResource`, which is recognised as well
    (:mod:`graceful.wsgi.twisted_resource`).

    :param reactor: not needed any more; a thread answers by itself.
    :param threadpool: tells how many threads, by its `max`, and is otherwise left alone: all applications that
        have it share that number.  None: the number in the settings.
    :param application: the application, as PEP 3333 has it.
    """

    known_as = "WSGIResource"
    serves = "a WSGI application"

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

    def disconnected(self, exchange: Exchange) -> None:
        """Drop it if it still waits for a thread; a thread that works for it notices when it sends something."""
        site, pool = self._known
        if site is exchange.connection.site and pool is not None and pool.withdraw(exchange):
            exchange.release()

    def parked(self, exchange: Exchange) -> bool:
        """A thread works for it, or will."""
        return False

    def works_for(self, exchange: Exchange) -> bool:
        """Return False: its thread works for it, or it waits in a queue, and those are asked themselves."""
        return False
