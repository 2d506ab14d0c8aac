"""What a test is told of a server's processes while one of them is replaced."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.control import client as control_client
from graceful.control.client import NobodyThere
from graceful.testing.server import LiveServer

CONTROL = "control"
OLD, NEW = 7, 8


class ReplacedTests(SynchronousTestCase):
    """The former process moves its control socket, and the new one has the path from then on."""

    def setUp(self) -> None:
        """Have two processes, and their control sockets."""
        self.sockets = {CONTROL: OLD}
        self.looked: list[str] = []
        self.after: Callable[[str], object] = lambda path: None
        self.alive = {OLD: True, NEW: True}
        self.server: Any = object.__new__(LiveServer)
        self.server._control = CONTROL
        self.server._processes = [self.process(OLD), self.process(NEW)]
        test = self

        class Client:
            """Stands for a client of control."""

            def __init__(self, path: str, timeout: float) -> None:
                test.looked.append(path)
                self.peer_pid = test.sockets.get(path)
                test.after(path)
                if self.peer_pid is None:
                    raise NobodyThere("nobody listens")

            def __enter__(self) -> Client:
                return self

            def __exit__(self, *error: object) -> None:
                pass

            def close(self) -> None:
                pass

            def get(self, target: str) -> dict[str, Any]:
                return {"in_flight": [self.peer_pid], "state": "finishing"}

        self.patch(control_client, "ControlClient", Client)

    def process(self, pid: int) -> Any:
        """Returns a process."""
        return SimpleNamespace(popen=SimpleNamespace(pid=pid), alive=lambda: self.alive[pid], told=False)

    def move(self, path: str) -> None:
        """The former process gives the path away, behind the first look at another one."""
        self.sockets = {f"{CONTROL}.{OLD}": OLD, CONTROL: NEW}

    def test_a_process_that_moves_its_socket_just_now_is_not_missed(self) -> None:
        """It is nowhere for a look at one path, and then at the other; so the first is looked at again."""
        self.after = self.move
        self.assertEqual(self.server.in_flight(), [OLD, NEW])
        self.assertEqual(self.looked[:3], [f"{CONTROL}.{OLD}", CONTROL, f"{CONTROL}.{OLD}"])

    def test_a_process_that_has_ended_is_not_asked(self) -> None:
        """Its path is another's by now."""
        self.move(CONTROL)
        self.alive[OLD] = False
        self.assertEqual(self.server.in_flight(), [NEW])
        self.assertNotIn(f"{CONTROL}.{OLD}", self.looked)
