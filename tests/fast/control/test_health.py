"""The health that a balancer is told."""

from __future__ import annotations

from graceful.control.health import Health
from graceful.web.exchange import Exchange
from tests.fast.doubles import Case, parse_answers


def ask(path: str, method: str = "GET") -> bytes:
    """A request."""
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


class HealthTests(Case):
    """Health, at a path in front of the application."""

    def setUp(self) -> None:
        """Serve health at the usual path."""
        super().setUp()
        self.health = Health("/+haproxy", 503, "1.2")
        self.engine.route("/+haproxy", self.health.answer)

    def told(self, path: str = "/+haproxy", method: str = "GET") -> tuple[int, bytes]:
        """Returns the answer; the application has not been asked."""
        client = self.engine.connect().send(ask(path, method))
        (answer,) = parse_answers(client.take(), method)
        self.assertEqual(self.engine.asked, [])
        client.close()
        return answer.status, answer.body

    def test_going_down_cannot_be_undone(self) -> None:
        """Health is serving, away by order, and serving again; going down is for good."""
        serving, away = (200, b"serving, version 1.2\n"), (503, b"away, version 1.2\n")
        down = 503, b"going down, version 1.2\n"
        steps = [(lambda: None, serving), (self.health.enter, serving), (self.health.leave, away)]
        steps += [(self.health.leave, away), (self.health.enter, serving), (self.health.begin_going_down, down)]
        steps += [(self.health.enter, down), (self.health.leave, down)]
        for order, expected in steps:
            order()
            self.assertEqual(self.told(), expected)
        self.nothing_left()

    def test_answers_head_and_options(self) -> None:
        """HEAD has no body; OPTIONS, HAProxy's default, is answered as GET is; other methods are refused."""
        self.assertEqual(self.told(method="HEAD"), (200, b""))
        self.assertEqual(self.told(method="OPTIONS")[0], 200)
        self.assertEqual(self.told(method="POST")[0], 405)

    def test_only_this_path(self) -> None:
        """A query is allowed; a longer path is the application's."""
        self.assertEqual(self.told("/+haproxy?from=me")[0], 200)
        self.engine.connect().send(ask("/+haproxyish")).send(ask("/"))
        self.assertEqual([exchange.target for exchange in self.engine.asked], [b"/+haproxyish"])

    def test_pipelined_answer_waits_its_turn(self) -> None:
        """Behind a request that the application answers, it is told when its turn comes, by whichever thread."""
        client, first = self.ask()
        client.send(ask("/+haproxy"))
        self.answer(first, body=b"first")
        self.assertEqual(self.bodies(client), [b"first", b"serving, version 1.2\n"])

    def test_client_has_left(self) -> None:
        """A client that has gone by then causes no error."""
        client, _ = self.ask()
        exchange = Exchange(client.connection)
        exchange.id, exchange.method, exchange.target = 99, "GET", b"/+haproxy"
        self.assertTrue(self.health.answer(exchange))

    def test_going_down_status_can_be_chosen(self) -> None:
        """The status that means "no more requests" can be chosen."""
        self.health = Health("/x", 404)
        self.health.leave()
        self.engine = type(self.engine)(self)
        self.engine.route("/x", self.health.answer)
        self.assertEqual(self.told("/x"), (404, b"away\n"))
