"""An ASGI application as a resource: where an exchange leaves the event loop for a task."""

from __future__ import annotations

from twisted.web.resource import IResource
from zope.interface import implementer

from graceful.asgi.http_session import Application
from graceful.threads.start import NoThread
from graceful.web.application_resource import ApplicationResource
from graceful.web.exchange import Exchange
from graceful.web.interfaces import IHandler


@implementer(IResource, IHandler)
class ASGIResource(ApplicationResource):
    """Serves an ASGI 3 application, anywhere in a tree of resources.

    As the root of a server it gets request bodies while they arrive; deeper in a tree, when they are complete.

    :param application: the application, `async def application(scope, receive, send)`.
    """

    known_as = "ASGIResource"
    serves = "an ASGI application"

    def __init__(self, application: Application) -> None:
        self.application = application

    # -- IHandler -----------------------------------------------------------------------------------------

    def handle(self, exchange: Exchange) -> None:
        """Have a task answer."""
        exchange.handler = self
        site = exchange.connection.site
        try:
            site.coroutines.serve(exchange, self.application)
        except NoThread:
            site.answer(exchange, 503)

    def disconnected(self, exchange: Exchange) -> None:
        """Tell the application, if it asks."""
        exchange.connection.site.coroutines.disconnected(exchange)

    def parked(self, exchange: Exchange) -> bool:
        """Whether the exchange is a stream with nothing to send just now; asked when its client sends no more."""
        return bool(exchange.connection.site.coroutines.input_ended(exchange))

    def works_for(self, exchange: Exchange) -> bool:
        """Whether a task works for the exchange, or will."""
        return exchange in exchange.connection.site.coroutines.tasks
