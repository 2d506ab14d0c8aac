"""The places of an instance beside those of its application, and control on a socket that is connected already."""

from __future__ import annotations

import json
import os
import socket
from types import SimpleNamespace
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from graceful.config.settings import Settings
from graceful.control import api, metrics
from graceful.control import control_server as module
from graceful.control.control_server import ControlServer
from graceful.control.control_socket import ControlSocket
from graceful.control.counters import Counters
from graceful.control.health import Health
from graceful.drain.result import DrainResult
from graceful.process.systemd import SystemdNotifier
from graceful.server.server_status import ServerStatus
from graceful.sockets.binding import BindError, BoundSocket
from graceful.web.connection import Connection
from tests.fast.doubles import Case, Engine, Reactor, directory_for, get


class PlacesTests(SynchronousTestCase):
    """Status pages have addresses, too; an instance that leaves has its own until its end."""

    def setUp(self) -> None:
        """Make a control path, and an address that another socket listens at."""
        self.path = os.path.join(directory_for(self), "site.sock")
        self.taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.taken.close)
        settings = Settings(status_listen=(f"tcp:{self.taken.getsockname()[1]}:interface=127.0.0.1",))
        self.server = ControlServer(settings, ServerStatus(settings), ControlSocket(self.path), SystemdNotifier({}))
        self.addCleanup(self.server.close)

    def test_binds_when_the_old_instance_has_just_ended(self) -> None:
        """An instance that ends before it is asked has freed its addresses: binding is tried again."""

        def beside(path: str) -> list[str]:
            self.taken.close()
            return [f"{path}.4711"]

        self.patch(module, "beside", beside)
        self.server.bind({}, None)

    def test_refuses_an_address_of_another_program(self) -> None:
        """The address of another program is not freed, and is an error."""
        with self.assertRaises(BindError):
            self.server.bind({}, None)

    def test_frees_addresses_before_the_path(self) -> None:
        """When the control path is gone, the addresses are free already."""
        self.taken.close()
        self.assertFalse(self.server.serves_metrics)
        self.server.bind({}, None)
        self.assertTrue(self.server.serves_metrics)
        free: list[bool] = []
        site: Any = SimpleNamespace(close=lambda: free.append(os.path.exists(self.path)))
        self.server._sites.append(site)
        self.server.close()
        self.assertEqual((free, os.path.exists(self.path)), ([True], False))


class SuccessorTests(Case):
    """The status page of a successor, on the sockets of its predecessor."""

    def test_reads_no_metrics_from_a_successor_before_it_knows_the_counts(self) -> None:
        """Before it has heard what its predecessor has counted, it leaves the status page's clients to that."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        name = f"tcp:{listening.getsockname()[1]}:interface=127.0.0.1"
        bound = BoundSocket(name, listening, shared=True)
        predecessor: Any = SimpleNamespace(claim=lambda role, wanted: [bound])
        settings = Settings(status_listen=(name,))
        status: Any = ServerStatus(settings)
        reactor = Reactor()
        self.patch(module, "monotonic_clock", lambda reactor: quiet_clock())
        server = ControlServer(settings, status, None, SystemdNotifier({}))
        self.addCleanup(server.close)
        server.bind({}, None, predecessor)
        server.open(reactor, cast(Any, None))
        self.assertNotIn(listening.fileno(), watched(reactor))
        server.inherit_counted({"finished": 3})
        server.succeed()
        self.assertIn(listening.fileno(), watched(reactor))


def watched(reactor: Reactor) -> list[int]:
    """The descriptors that a reactor reads."""
    return [reader.fileno() for reader in reactor.readers]


def quiet_clock() -> Any:
    """A clock on which nothing is ever called."""
    return SimpleNamespace(
        seconds=lambda: 0.0, start=lambda: None, stop=lambda: None, callLater=lambda *ignored: None
    )


class ConnectedTests(Case):
    """A control server without any listening socket, as a worker has it: for one client, to the end of either."""

    def setUp(self) -> None:
        """Have an instance, and a supervisor that is connected to it."""
        super().setUp()
        counters = Counters()
        self.engine = Engine(self, record=counters.before(None))
        self.patch(module, "monotonic_clock", lambda reactor: self.clock)
        self.clock = quiet_clock()
        self.status = ServerStatus(self.engine.site.settings)
        instance: Any = SimpleNamespace(
            site=self.engine.site,
            clock=self.clock,
            health=Health("/+haproxy"),
            working=dict,
            thread_names=dict,
            threads=lambda: (1, 20, 0),
            sockets=lambda: [],
            queues=lambda: [],
        )
        progress: Any = SimpleNamespace(taken_down=0, abandoned=0, latest_exit=lambda: 9.0)
        self.status.read_from(instance, cast(Any, None), progress, progress, counters=counters)
        self.supervisor, ours = socket.socketpair()
        self.addCleanup(self.supervisor.close)
        self.server = ControlServer(self.engine.site.settings, self.status, None, SystemdNotifier({}))
        self.addCleanup(self.server.close)
        self.server.serve(ours)

    def ask(self, request: bytes) -> tuple[int, Any]:
        """Ask; what is answered."""
        self.supervisor.sendall(request)
        assert self.server._hub is not None
        self.server._hub.doRead()
        head, _, said = self.supervisor.recv(65536).partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(said)

    def test_tally_counts_from_the_start(self) -> None:
        """The supervisor gets everything in one answer; what has ended is counted from the start."""
        self.server.open(self.engine.reactor, cast(Any, None))
        client, exchange = self.ask_engine()
        code, told = self.ask(b"GET /tally HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual((code, told["in_flight_count"], told["tally"]["ended"][2][0]), (200, 1, 0))
        self.assertEqual((told["tally"]["phases"]["in the application"], told["ended"]), (0, []))
        self.answer(exchange)
        code, told = self.ask(b"GET /tally?limit=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual((told["finished"], sum(told["tally"]["ended"][2][:-1])), (1, 1))
        client.close()

    def ask_engine(self) -> tuple[Any, Any]:
        """A request of a client, at the instance itself."""
        client = self.engine.connect().send(get(1))
        return client, self.engine.asked[-1]

    def test_counts_for_its_supervisor_if_there_can_be_metrics(self) -> None:
        """A worker counts what ends, although it has no page for metrics; not without the package that makes them."""
        self.assertTrue(self.server.serves_metrics)
        self.patch(metrics, "_client", lambda: None)
        self.assertFalse(self.server.serves_metrics)

    def test_logs_orders_as_the_supervisors(self) -> None:
        """Orders are obeyed, and the log says that they are the supervisor's."""
        left: list[bool] = []
        self.server.open(self.engine.reactor, cast(Any, SimpleNamespace(leave=lambda: left.append(True))))
        said: list[str] = []

        def said_by(connection: Connection) -> str:
            said.append(connection.server[0])
            return "the supervisor"

        self.patch(api, "said_by", said_by)
        code, told = self.ask(b"POST /leave HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual((code, told["state"], left, said), (200, "starting", [True], ["localhost"]))

    def test_a_supervisor_that_is_stuck(self) -> None:
        """The supervisor may send nothing, or read nothing, for as long as it lives."""
        self.server.open(self.engine.reactor, cast(Any, None))
        (site,) = self.server._sites
        for days in (0, 1, 30):
            site.sweep(days * 86_400.0)
        self.assertEqual(self.ask(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")[0], 200)
        for days in (31, 60):
            site.sweep(days * 86_400.0)
        self.assertEqual(self.ask(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")[0], 200)

    def test_connection_ends_with_the_instance(self) -> None:
        """The supervisor's connection ends with the instance, also if control was never open."""
        self.server.open(self.engine.reactor, cast(Any, None))
        self.server.end(DrainResult(0, 1.0, 1, 0, 0))
        self.assertEqual(self.supervisor.recv(1), b"")
        supervisor, ours = socket.socketpair()
        self.addCleanup(supervisor.close)
        never = ControlServer(self.engine.site.settings, self.status, None, SystemdNotifier({}))
        never.serve(ours)
        never.close()
        self.assertEqual(supervisor.recv(1), b"")
