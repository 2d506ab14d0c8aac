"""The supervisor, as its worker sees it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import socket
from types import SimpleNamespace
from typing import Any

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.workers import parent as module
from graceful.workers.channel import PROTOCOL, Channel
from graceful.workers.parent import Parent, ParentError
from tests.fast.doubles import Reactor

PID = 4711


class PostTests(SynchronousTestCase):
    """A worker's slot, and the supervisor's end of its line."""

    def setUp(self) -> None:
        """Be the supervisor of number 2."""
        ours, theirs = socket.socketpair()
        control, its_control = socket.socketpair()
        self.addCleanup(control.close)
        self.supervisor = Channel(ours)
        self.addCleanup(self.supervisor.close)
        for sock in (theirs, its_control):
            sock.set_inheritable(True)  # as whoever was started with it finds it
        said = {"number": 2, "line": theirs.detach(), "control": its_control.detach(), "directory": "/srv/41"}
        self.parent = Parent(json.dumps(said))
        self.addCleanup(self.parent.close)
        self.addCleanup(self.parent.control.close)
        self.reactor = Reactor()
        self.done: list[Any] = []

    def listening(self) -> socket.socket:
        """A listening socket."""
        sock = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(sock.close)
        return sock

    def offer(self, *keys: int, more: bool = False, protocol: int = PROTOCOL, **others: Any) -> list[socket.socket]:
        """Send sockets; they."""
        sockets = [self.listening() for _ in keys]
        self.supervisor.send(
            "sockets",
            [sock.fileno() for sock in sockets],
            protocol=protocol,
            sockets=[{"key": key, "name": f"tcp:{key}"} for key in keys],
            pid=PID,
            more=more,
            **others,
        )
        return sockets

    def watched(self, *keys: int) -> None:
        """Give it sockets, and let it come to where it listens to us."""
        self.offer(*keys)
        for bound in self.parent.sockets():
            self.addCleanup(bound.socket.close)
        parent, done = self.parent, self.done

        def note(word: str) -> Any:
            def called(*arguments: Any) -> None:
                done.append((word, *(self.names(one) if isinstance(one, list) else one for one in arguments)))

            return called

        words = {
            "begin_to_accept": "accept",
            "accept_more": "more",
            "release": "release",
            "succeeded": "succeeded",
            "supervisor_lost": "lost",
        }
        listener: Any = SimpleNamespace(**{method: note(word) for method, word in words.items()})
        parent.watch(self.reactor, listener)
        self.assertEqual(self.supervisor.receive(1.0), {"word": "ready"})

    def names(self, bound: list[Any]) -> list[str]:
        """What sockets are called."""
        for one in bound:
            self.addCleanup(one.socket.close)
        return [one.name for one in bound]

    def turn(self) -> list[Any]:
        """Have it hear what there is; what it has done."""
        for reader in list(self.reactor.readers):
            reader.doRead()
        done = self.done[:]
        self.done.clear()
        return done

    # -- start --------------------------------------------------------------------------------------------

    def test_reads_environment_and_keeps_descriptors_from_children(self) -> None:
        """What the environment says; its descriptors are nobody's who is started from here."""
        self.assertEqual((self.parent.number, self.parent.directory), (2, "/srv/41"))
        self.assertFalse(self.parent.control.get_inheritable())
        self.assertFalse(os.get_inheritable(self.parent._channel.fileno()))

    def test_told_nonsense(self) -> None:
        """Whoever sets that variable by hand is told so in a line."""
        for said in (
            "",
            "[]",
            "1",
            '{"number": 1}',
            json.dumps({**dict.fromkeys(("line", "control"), 9999), "number": 1}),
        ):
            self.assertRaises(ParentError, Parent, said)

    def test_gets_sockets_in_order_over_several_messages(self) -> None:
        """In their order, however many messages they come in; they are not ours alone, nor ours to block on."""
        self.offer(4, 2, more=True)
        self.offer(7)
        bound = self.parent.sockets()
        self.assertEqual(self.names(bound), ["tcp:4", "tcp:2", "tcp:7"])
        self.assertEqual({(one.shared, one.path, one.socket.getblocking()) for one in bound}, {(True, None, False)})
        self.assertEqual(self.parent.supervisor, PID)

    def cannot(self) -> str:
        """Why there are no sockets."""
        return str(self.assertRaises(ParentError, self.parent.sockets))

    def test_another_version(self) -> None:
        """A supervisor of another version is not understood, and there is a way out."""
        self.offer(1, protocol=PROTOCOL + 1)
        self.assertIn("start with --takeover", self.cannot())

    def test_silent_supervisor_times_out(self) -> None:
        """A supervisor that says nothing is not waited for for ever."""
        self.patch(module, "GETS_IN", 0.01)
        self.assertIn("worker 2 gets no sockets", self.cannot())

    def test_gone(self) -> None:
        """Nor is one that is gone."""
        self.supervisor.close()
        self.assertIn("worker 2 gets no sockets", self.cannot())

    def test_nonsense_is_refused(self) -> None:
        """Nor is one that says nonsense taken at its word."""
        self.supervisor.send("sockets", protocol=PROTOCOL, pid="x")
        self.assertIn("worker 2 gets no sockets", self.cannot())

    def test_does_not_start_with_some_of_the_sockets(self) -> None:
        """One that cannot have all of them does not start with some; the others are closed."""
        self.offer(1, 2)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
        try:
            why = self.cannot()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        self.assertIn("raise the limit", why)

    def test_failed(self) -> None:
        """It says why it cannot start."""
        self.parent.failed("wiki cannot be imported")
        self.assertEqual(self.supervisor.receive(1.0), {"word": "failed", "why": "wiki cannot be imported"})

    def test_failed_with_nobody_to_tell(self) -> None:
        """An application that closes all descriptors has closed the line as well: then it is said into the log."""
        os.close(self.parent._channel.fileno())
        self.addCleanup(self.parent._channel._socket.detach)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.parent.failed("wiki cannot be imported")
        self.assertRegex(said.getvalue(), r"^graceful: worker \d+: wiki cannot be imported\n$")

    # -- while it serves ----------------------------------------------------------------------------------

    def test_orders(self) -> None:
        """Each is passed on, with the sockets that are meant; one that nobody knows is for another version."""
        self.watched(1, 2)
        self.supervisor.send("accept")
        self.supervisor.send("dance")
        self.offer(3)
        self.assertEqual(self.turn() + self.turn(), [("accept",), ("more", ["tcp:3"])])
        self.supervisor.send("release", keys=[3, 8])
        self.supervisor.send("succeeded", pid=5, handed=[1], alone=[2])
        self.assertEqual(self.turn(), [("release", ["tcp:3"]), ("succeeded", 5, ["tcp:1"], ["tcp:2"])])

    def test_closed_already(self) -> None:
        """What it has closed by itself is not meant any more."""
        self.watched(1, 2)
        self.parent._held[0].bound.socket.close()
        self.supervisor.send("succeeded", pid=5, handed=[1, 2], alone=[1])
        self.assertEqual(self.turn(), [("succeeded", 5, ["tcp:2"], [])])

    def test_again_and_again(self) -> None:
        """A socket may come, go and come; it is not remembered for longer, nor taken for the new one."""
        self.watched(1)
        for _ in range(5):
            self.offer(3)
            self.assertEqual(self.turn(), [("more", ["tcp:3"])])
            self.supervisor.send("release", keys=[3])
            self.assertEqual(self.turn(), [("release", ["tcp:3"])])
            self.parent._held[-1].bound.socket.close()
        self.assertLessEqual(len(self.parent._held), 2)

    def test_no_room_for_more(self) -> None:
        """One that has no room for another's sockets goes on with its own, and says so."""
        self.watched(1)
        self.offer(3, 4)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        with capturedLogs() as logged:
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
            try:
                done = self.turn()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        self.assertEqual(done, [("more", ["tcp:3"])])
        self.assertEqual(
            [formatEvent(event) for event in logged],
            ["worker 2 cannot accept from tcp:4 in another's stead: too many open files; raise the limit"],
        )

    def test_may_close(self) -> None:
        """It is asked, and answered with who accepts instead, and with what nobody else holds."""
        self.watched(1, 2)
        answer = self.parent.may_close()
        self.assertEqual(self.supervisor.receive(1.0), {"word": "closing"})
        self.assertNoResult(answer)
        self.supervisor.send("close", pid=0, alone=[2])
        self.turn()
        pid, alone = self.successResultOf(answer)
        self.assertEqual((pid, self.names(alone)), (0, ["tcp:2"]))

    def test_answered_without_a_question(self) -> None:
        """An answer that nobody has asked for is nobody's."""
        self.watched(1)
        self.supervisor.send("close", pid=0, alone=[])
        self.turn()
        self.assertNoResult(self.parent.may_close())

    def test_nobody_to_ask(self) -> None:
        """If the supervisor is gone, before or after the question, that is the answer."""
        self.watched(1)
        answer = self.parent.may_close()
        self.supervisor.close()
        with capturedLogs() as logged:
            self.assertEqual(self.turn(), [("lost",)])
        self.assertEqual(
            [formatEvent(event) for event in logged], [f"the supervisor, process {PID}, is gone: worker 2 stops"]
        )
        self.assertEqual(self.successResultOf(answer), (0, []))
        self.assertEqual(self.successResultOf(self.parent.may_close()), (0, []))
        self.assertEqual(self.turn(), [])

    def test_reports_its_progress(self) -> None:
        """What it says of itself."""
        self.watched(1)
        self.parent.accepts()
        self.parent.closed()
        self.parent.gone({"finished": 3})
        self.assertEqual(
            [self.supervisor.receive(1.0) for _ in range(3)],
            [{"word": "accepts"}, {"word": "closed"}, {"word": "gone", "finished": 3}],
        )
