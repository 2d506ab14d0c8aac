"""What is answered before the application is asked, by its path alone.

A load balancer's health check must be answered with all threads stuck, and a public file needs no thread to be found.
So a few paths are looked at before anything else.  It has to cost next to nothing for all the others: one
`startswith` for all prefixes together, and nothing at all when there are none.
"""

from __future__ import annotations

from collections.abc import Callable

from graceful.web.exchange import Exchange

Handle = Callable[[Exchange], None]
Answer = Callable[[Exchange], bool]


class PrefixRoutes:
    """Routes by prefix, in front of a handler."""

    def __init__(self) -> None:
        self._routes: list[tuple[bytes, Answer]] = []

    def add(self, prefix: str, answer: Answer) -> None:
        """Add a route.

        :param prefix: what a request target begins with, as it is sent.
        :param answer: called in any thread, must not wait.  False: it was not meant, ask the next one.
        """
        self._routes.append((prefix.encode("latin-1"), answer))

    def leaves_to_handler(self, exchange: Exchange) -> bool:
        """Whether no route may answer an exchange."""
        return not any(exchange.target.startswith(prefix) for prefix, _ in self._routes)

    def before(self, handle: Handle) -> Handle:
        """Return what handles an exchange: a route, or else `handle`."""
        routes = self._routes
        if not routes:
            return handle
        prefixes = tuple(prefix for prefix, _ in routes)

        # A closure: this is done for every request, and looks up nothing but what it has.
        def handle_routed(exchange: Exchange) -> None:
            target = exchange.target
            if target.startswith(prefixes):
                for prefix, answer in routes:
                    if target.startswith(prefix) and answer(exchange):
                        return
            handle(exchange)

        return handle_routed
