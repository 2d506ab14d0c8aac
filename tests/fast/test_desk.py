"""Control on a socket that is connected already, as a worker has it: for one client, to the end of either."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace
from typing import Any, cast

from doubles import Case, get

from graceful.control import api, desk
from graceful.control.desk import Desk
from graceful.control.health import Health
from graceful.control.notify import Notify
from graceful.control.status import Ending, Status
from graceful.web.connection import Connection


class ConnectedTests(Case):
    """A desk without any listening socket."""

    def setUp(self) -> None:
        """Have an instance, and a supervisor that is connected to it."""
        super().setUp()
        self.patch(desk, "on", lambda reactor: self.clock)
        self.clock: Any = SimpleNamespace(
            seconds=lambda: 0.0, start=lambda: None, stop=lambda: None, callLater=lambda *ignored: None
        )
        self.status = Status(self.engine.site.settings)
        instance: Any = SimpleNamespace(
            site=self.engine.site,
            clock=self.clock,
            health=Health("/+haproxy"),
            working=dict,
            thread_names=dict,
            threads=lambda: (1, 20, 0),
            sockets=lambda: [],
        )
        self.status.of(instance, cast(Any, None), cast(Any, SimpleNamespace(taken_down=0, latest_exit=lambda: 9.0)))
        self.supervisor, ours = socket.socketpair()
        self.addCleanup(self.supervisor.close)
        self.desk = Desk(self.engine.site.settings, self.status, None, Notify({}))
        self.addCleanup(self.desk.close)
        self.desk.serve(ours)

    def ask(self, request: bytes) -> tuple[int, Any]:
        """Ask; what is answered."""
        self.supervisor.sendall(request)
        assert self.desk._hub is not None
        self.desk._hub.doRead()
        head, _, said = self.supervisor.recv(65536).partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(said)

    def test_tally(self) -> None:
        """The supervisor is told everything in one answer; what has ended is counted from the start."""
        self.desk.open(self.engine.reactor, cast(Any, None))
        client, exchange = self.ask_engine()
        code, told = self.ask(b"GET /tally HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual((code, told["in_flight_count"], told["tally"]["ended"][2][0]), (200, 1, 0))
        self.assertEqual((told["tally"]["phases"]["in the application"], told["ended"]), (0, []))
        self.answer(exchange)
        code, told = self.ask(b"GET /tally?limit=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual((told["finished"], sum(told["tally"]["ended"][2][:-1])), (1, 1))
        client.close()

    def ask_engine(self) -> tuple[Any, Any]:
        """A request of somebody else's, at the instance itself."""
        client = self.engine.connect().send(get(1))
        return client, self.engine.asked[-1]

    def test_orders(self) -> None:
        """They are obeyed, and said to be the supervisor's in the log."""
        left: list[bool] = []
        self.desk.open(self.engine.reactor, cast(Any, SimpleNamespace(leave=lambda: left.append(True))))
        said: list[str] = []

        def said_by(connection: Connection) -> str:
            said.append(connection.server[0])
            return "the supervisor"

        self.patch(api, "said_by", said_by)
        code, told = self.ask(b"POST /leave HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual((code, told["state"], left, said), (200, "starting", [True], ["localhost"]))

    def test_a_supervisor_that_is_stuck(self) -> None:
        """It may say nothing, or read nothing, for as long as it lives."""
        self.desk.open(self.engine.reactor, cast(Any, None))
        (door,) = self.desk._doors
        for days in (0, 1, 30):
            door.sweep(days * 86_400.0)
        self.assertEqual(self.ask(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")[0], 200)
        for days in (31, 60):
            door.sweep(days * 86_400.0)
        self.assertEqual(self.ask(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")[0], 200)

    def test_the_end(self) -> None:
        """Its connection ends with the instance, also if that has never been open."""
        self.desk.open(self.engine.reactor, cast(Any, None))
        self.desk.end(Ending(0, 1.0, 1, 0, 0))
        self.assertEqual(self.supervisor.recv(1), b"")
        supervisor, ours = socket.socketpair()
        self.addCleanup(supervisor.close)
        never = Desk(self.engine.site.settings, self.status, None, Notify({}))
        never.serve(ours)
        never.close()
        self.assertEqual(supervisor.recv(1), b"")
