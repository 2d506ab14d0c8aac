"""The way of an exchange through a site, to its handler."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from graceful.web.exchange import Exchange
from graceful.web.prefix_routes import PrefixRoutes
from graceful.web.site import Interceptor, Site


class Noting:
    """An interceptor that notes what it sees."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    def before(self, handle: Callable[[Exchange], object]) -> Callable[[Exchange], None]:
        """Returns a handler that notes an exchange, and then calls `handle`."""

        def noting(exchange: Exchange) -> None:
            self.seen.append(self.name)
            handle(exchange)

        return noting


class SiteTests(SynchronousTestCase):
    """A site with interceptors, a route and a handler."""

    def test_interceptors_see_each_exchange_first_and_in_their_order(self) -> None:
        """What a route answers has also passed all interceptors."""
        seen: list[str] = []
        routes = PrefixRoutes()
        routes.add("/health", lambda exchange: not seen.append("route"))
        handler: Any = SimpleNamespace(handle=lambda exchange: seen.append("handler"))
        interceptors: list[Interceptor] = [Noting("first", seen), Noting("second", seen)]
        site = Site(handler, routes=routes, interceptors=interceptors)
        for target, answers in ((b"/", "handler"), (b"/health", "route")):
            site.handle(cast(Any, SimpleNamespace(target=target)))
            self.assertEqual(seen, ["first", "second", answers])
            seen.clear()
