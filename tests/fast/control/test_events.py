"""The status as it changes: one picture for everybody, and none that waits in memory for a slow reader."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

from graceful.control import api
from graceful.control.api import ControlApi
from graceful.control.events import HISTORY, MOST, Events
from graceful.control.health import Health
from graceful.control.metrics import Metrics
from graceful.control.read_api import ReadApi
from graceful.drain.result import DrainResult
from graceful.drain.state import State
from graceful.server.server_status import ServerStatus
from tests.fast.doubles import Case, get

LOOK = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"


class StatusPoller(Case):
    """Clients at a door of their own; the instance that they look at is another engine."""

    def setUp(self) -> None:
        """Have an instance with many exchanges in flight."""
        super().setUp()
        self.served = type(self.engine)(self)
        for number in range(50):
            self.served.connect().send(get(number))
        self.status = ServerStatus(self.served.site.settings)
        self.status.enter(State.SERVING)
        instance: Any = SimpleNamespace(
            site=self.served.site,
            clock=SimpleNamespace(seconds=lambda: 0.0),
            health=Health("/+haproxy"),
            working=dict,
            thread_names=dict,
            threads=lambda: (1, 20, 0),
            sockets=lambda: [],
            queues=lambda: [],
        )
        self.status.inputs = instance
        self.events = Events(self.status)
        self.reading = ReadApi(self.status, self.events, Metrics(self.status), None)
        self.engine.serve(self.reading)

    def told(self, data: bytes) -> list[tuple[str, Any]]:
        """The events in what a client has got, by their names."""
        lines = [line for line in data.decode().split("\n") if line.startswith(("event: ", "data: "))]
        self.assertEqual(len(lines) % 2, 0)
        pairs = zip(lines[::2], lines[1::2], strict=True)
        return [(name.removeprefix("event: "), json.loads(text.removeprefix("data: "))) for name, text in pairs]


class EventsTests(StatusPoller):
    """Those who look."""

    def test_first_event_has_history_last_has_the_end(self) -> None:
        """The first one has the history, each later one only what is now, and the last one how it ended."""
        self.events.remember_load()
        client = self.engine.connect().send(LOOK)
        ((name, first),) = self.told(client.take())
        self.assertEqual((name, first["history"], first["in_flight_count"]), ("status", [50], 50))
        self.events.tick()
        ((name, second),) = self.told(client.take())
        self.assertNotIn("history", second)
        self.status.ending = DrainResult(70, 1.5, 48, 2, 0)
        self.events.end()
        *_, (name, last) = self.told(client.take())
        self.assertEqual((name, last["exit_status"], last["taken_down"]), ("gone", 70, 2))
        self.assertEqual(len(self.events), 0)

    def test_a_slow_reader(self) -> None:
        """Nothing is kept for one that has not taken the last picture; it goes on when it has."""
        client = self.engine.connect(buffer=4096).send(LOOK)
        for _ in range(100):
            self.events.tick()
        held = client.connection.write_token.held
        self.assertGreater(held, 0)
        self.assertLess(held, 50_000)
        before = len(client.take())
        self.events.tick()
        self.assertGreater(len(client.take()), before // 3)

    def test_forgets_clients_that_leave(self) -> None:
        """A client that leaves is forgotten, also if it only says that it will send nothing more."""
        one, other = self.engine.connect().send(LOOK), self.engine.connect().send(LOOK)
        one.take(), other.take()
        one.finish()
        other.close()
        self.events.tick()
        self.assertEqual((len(self.events), self.engine.open), (0, 0))

    def test_readers_and_history_are_bounded(self) -> None:
        """The number of readers and the length of the history have a limit."""
        for _ in range(HISTORY + 10):
            self.events.remember_load()
        clients = [self.engine.connect().send(LOOK) for _ in range(MOST + 1)]
        self.assertIn(b" 503 ", clients[-1].take())
        self.assertEqual(len(self.told(clients[0].take())[0][1]["history"]), HISTORY)
        for client in clients:
            client.close()

    def test_makes_no_status_without_readers(self) -> None:
        """No status is made without readers."""
        self.patch(self.events, "_snapshot", None)
        self.events.tick()
        self.events.end()


class OrdersTests(StatusPoller):
    """Orders at the control socket."""

    def setUp(self) -> None:
        """Make orders that are written down."""
        super().setUp()
        self.patch(api, "said_by", lambda connection: "a test")
        self.given: list[Any] = []
        test = self

        class Orders:
            def leave(self) -> None:
                test.given.append("leave")

            def enter(self) -> None:
                test.given.append("enter")

            def stop(self, quiet: bool, deadline: float | None) -> None:
                test.given.append((quiet, deadline))
                test.status.enter(State.FINISHING)
                test.status.ending = DrainResult(0, 0.0, 0, 0, 0)

            def extend(self, seconds: float) -> None:
                test.given.append(seconds)

            def take_down(self, which: str) -> list[int]:
                return [5] if which == "5" else []

        self.control = ControlApi(self.status, self.events, Metrics(self.status))
        self.control.obey(cast(Any, Orders()))
        self.engine.serve(self.control)

    def order(self, target: str, body: bytes = b"") -> tuple[int, Any]:
        """Give an order; what is answered."""
        head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        client = self.engine.connect().send(head.encode() + body)
        head, _, said = client.take().decode().partition("\r\n\r\n")
        client.close()
        return int(head.split()[1]), json.loads(said)

    def test_orders_are_answered_with_the_status(self) -> None:
        """Each order has its effect, and is answered with the status."""
        self.assertEqual(self.order("/leave")[0], 200)
        self.assertEqual(self.order("/enter")[1]["state"], "serving")
        self.assertEqual(self.order("/extend", b'{"seconds": -5}')[0], 200)
        self.assertEqual(self.order("/exchanges/5/takedown"), (200, {"taken_down": [5]}))
        self.assertEqual(self.order("/exchanges/6/takedown")[0], 404)
        self.assertEqual(self.given, ["leave", "enter", -5.0])

    def test_stop_that_ends_at_once(self) -> None:
        """A client that waits for the end gets the last word, even if the end has come already."""
        code, word = self.order("/stop", b'{"quiet": true, "deadline": 3, "wait": "gone"}')
        self.assertEqual((code, word["exit_status"]), (200, 0))
        self.assertEqual(self.given, [(True, 3.0)])
        self.assertFalse(self.control.obeying)
        self.assertEqual(self.order("/enter")[0], 409)

    def test_refuses_orders_while_starting(self) -> None:
        """Orders are refused with 503 while the instance starts."""
        self.engine.serve(ControlApi(self.status, self.events, Metrics(self.status)))
        self.assertEqual(self.order("/stop")[0], 503)
        self.assertEqual(self.given, [])
