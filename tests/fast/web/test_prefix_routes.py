"""What is answered before the application is asked."""

from __future__ import annotations

from graceful.web.exchange import Exchange
from graceful.web.prefix_routes import PrefixRoutes
from tests.fast.doubles import Case


class FrontTests(Case):
    """Routes by prefix."""

    def setUp(self) -> None:
        """Note who is asked."""
        super().setUp()
        self.order: list[str] = []
        self.front = PrefixRoutes()

    def route(self, prefix: str, name: str, *, answers: bool = True) -> None:
        """Add a route."""

        def answer(exchange: Exchange) -> bool:
            self.order.append(name)
            return answers

        self.front.add(prefix, answer)

    def otherwise(self, exchange: Exchange) -> None:
        """What stands for the application."""
        self.order.append("application")

    def asked(self, target: bytes) -> list[str]:
        """Who is asked for a target, in order."""
        self.order.clear()
        exchange = self.ask()[1]
        exchange.target = target
        self.front.before(self.otherwise)(exchange)
        return self.order.copy()

    def test_without_routes_the_handler_is_called(self) -> None:
        """Without routes nothing stands in between."""
        self.assertEqual(self.front.before(self.otherwise), self.otherwise)

    def test_a_route_answers_what_begins_with_its_prefix(self) -> None:
        """Only the route is asked for what begins with its prefix."""
        self.route("/health", "health")
        self.route("/files", "files")
        for target, order in (
            (b"/health", ["health"]),
            (b"/health?x", ["health"]),
            (b"/files/a", ["files"]),
            (b"/", ["application"]),
            (b"/healt", ["application"]),
            (b"x/health", ["application"]),
            (b"*", ["application"]),
            (b"", ["application"]),
            (b"/\xff", ["application"]),
        ):
            self.assertEqual(self.asked(target), order, target)

    def test_declined_request_goes_to_the_next_route(self) -> None:
        """One that was not meant has the next one asked, in the order of their coming; at last the application."""
        self.route("/a", "first", answers=False)
        self.route("/b", "other")
        self.route("/a/b", "second", answers=False)
        self.route("/a", "third")
        self.assertEqual(self.asked(b"/a/b"), ["first", "second", "third"])
        self.assertEqual(self.asked(b"/a"), ["first", "third"])
        self.route("/c", "never", answers=False)
        self.assertEqual(self.asked(b"/c"), ["never", "application"])

    def test_prefixes_are_bytes_as_sent(self) -> None:
        """Prefixes are bytes as they are sent."""
        self.route("/\xe4", "raw")
        self.assertEqual((self.asked(b"/\xe4"), self.asked("/\xe4".encode())), (["raw"], ["application"]))

    def test_a_site_asks_its_routes_first(self) -> None:
        """A site asks its routes first."""
        exchange = self.ask()[1]

        def answer(asked: Exchange) -> bool:
            self.order.append("route")
            return True

        self.engine.route("/1", answer)
        self.ask(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual((self.order, self.engine.asked), (["route"], [exchange]))
