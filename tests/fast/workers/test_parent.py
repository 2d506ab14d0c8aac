"""The supervisor, as a worker sees it."""

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
    """A worker's end of the channel, and the supervisor's end."""

    def setUp(self) -> None:
        """Be the supervisor of worker 2."""
        ours, theirs = socket.socketpair()
        control, its_control = socket.socketpair()
        self.addCleanup(control.close)
        self.supervisor = Channel(ours)
        self.addCleanup(self.supervisor.close)
        for sock in (theirs, its_control):
            sock.set_inheritable(True)  # as whoever was started with it finds it
        said = {"number": 2, "line": theirs.detach(), "control": its_control.detach(), "directory": "/srv/41"}
        self.tied: list[int] = []  # the supervisors that it would end with
        self.is_there = True
        self.parent = Parent(json.dumps(said), self.end_with, self.tied.clear)
        self.addCleanup(self.parent.close)
        self.addCleanup(self.parent.control.close)
        self.reactor = Reactor()
        self.done: list[Any] = []

    def end_with(self, supervisor: int) -> bool:
        """Note which process it would end with."""
        self.tied.append(supervisor)
        return self.is_there

    def listening(self) -> socket.socket:
        """Returns a listening socket."""
        sock = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(sock.close)
        return sock

    def offer(self, *keys: int, more: bool = False, protocol: int = PROTOCOL, **others: Any) -> list[socket.socket]:
        """Send sockets to the worker.  Returns them."""
        sockets = [self.listening() for _ in keys]
        self.supervisor.send(
            "sockets",
            [sock.fileno() for sock in sockets],
            protocol=protocol,
            sockets=[{"key": key, "name": f"tcp:{key}", "ours": key != 3} for key in keys],
            pid=PID,
            more=more,
            **others,
        )
        return sockets

    def watched(self, *keys: int) -> None:
        """Give the worker sockets, and have it listen to the supervisor."""
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
            "give_connections": "give",
            "take_connections": "take",
            "supervisor_lost": "lost",
        }
        listener: Any = SimpleNamespace(**{method: note(word) for method, word in words.items()})
        parent.watch(self.reactor, listener)
        self.assertEqual(self.supervisor.receive(1.0), {"word": "ready", "moves": True})

    def names(self, bound: list[Any]) -> list[str]:
        """Returns the names of sockets, and closes them at the end of the test."""
        for one in bound:
            self.addCleanup(one.socket.close)
        return [one.name for one in bound]

    def turn(self) -> list[Any]:
        """Have the worker read what the supervisor sent.  Returns what it was made to do."""
        for reader in list(self.reactor.readers):
            reader.doRead()
        done = self.done[:]
        self.done.clear()
        return done

    # -- start --------------------------------------------------------------------------------------------

    def test_ends_with_the_supervisor_until_it_listens(self) -> None:
        """While the application is imported, the kernel ends the worker with its supervisor; later it drains."""
        self.offer(1)
        for bound in self.parent.sockets():
            self.addCleanup(bound.socket.close)
        self.assertEqual(self.tied, [PID])
        self.parent.watch(self.reactor, SimpleNamespace())  # type: ignore[arg-type]
        self.assertEqual(self.tied, [])

    def test_a_supervisor_that_has_ended_is_told_of(self) -> None:
        """A worker whose supervisor has died meanwhile does not start."""
        self.is_there = False
        self.offer(1)
        with self.assertRaisesRegex(ParentError, "worker 2 gets no sockets: the supervisor, process 4711, has ended"):
            self.parent.sockets()

    def test_reads_environment_and_keeps_descriptors_from_children(self) -> None:
        """The worker reads its environment, and processes that it starts do not inherit its descriptors."""
        self.assertEqual((self.parent.number, self.parent.directory), (2, "/srv/41"))
        self.assertFalse(self.parent.control.get_inheritable())
        self.assertFalse(os.get_inheritable(self.parent._channel.fileno()))

    def test_a_bad_environment_variable_is_an_error(self) -> None:
        """A variable that was set by hand is an error in one line."""
        for said in (
            "",
            "[]",
            "1",
            '{"number": 1}',
            json.dumps({**dict.fromkeys(("line", "control"), 9999), "number": 1}),
        ):
            self.assertRaises(ParentError, Parent, said)

    def test_gets_sockets_in_order_over_several_messages(self) -> None:
        """The sockets come in order over several messages; they are shared, and do not block."""
        self.offer(4, 2, more=True)
        self.offer(7)
        bound = self.parent.sockets()
        self.assertEqual(self.names(bound), ["tcp:4", "tcp:2", "tcp:7"])
        self.assertEqual({(one.shared, one.path, one.socket.getblocking()) for one in bound}, {(True, None, False)})
        self.assertEqual(self.parent.supervisor, PID)

    def cannot(self) -> str:
        """Returns why the worker gets no sockets."""
        return str(self.assertRaises(ParentError, self.parent.sockets))

    def test_a_supervisor_of_another_version_is_refused(self) -> None:
        """A supervisor of another version is refused, by an error that says what to do."""
        self.offer(1, protocol=PROTOCOL + 1)
        self.assertIn("start with --takeover", self.cannot())

    def test_silent_supervisor_times_out(self) -> None:
        """The worker does not wait for ever for a supervisor that sends nothing."""
        self.patch(module, "GETS_IN", 0.01)
        self.assertIn("worker 2 gets no sockets", self.cannot())

    def test_a_supervisor_that_is_gone_is_an_error(self) -> None:
        """The worker does not wait for a supervisor that is gone."""
        self.supervisor.close()
        self.assertIn("worker 2 gets no sockets", self.cannot())

    def test_nonsense_is_refused(self) -> None:
        """A supervisor that sends nonsense is refused."""
        self.supervisor.send("sockets", protocol=PROTOCOL, pid="x")
        self.assertIn("worker 2 gets no sockets", self.cannot())

    def test_does_not_start_with_some_of_the_sockets(self) -> None:
        """A worker that cannot have all sockets does not start with some; they are closed."""
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

    def test_the_supervisor_is_told_why_the_worker_cannot_start(self) -> None:
        """The worker tells the supervisor why it cannot start."""
        self.parent.failed("wiki cannot be imported")
        self.assertEqual(self.supervisor.receive(1.0), {"word": "failed", "why": "wiki cannot be imported"})

    def test_a_failure_is_logged_if_the_channel_is_closed(self) -> None:
        """If the application has closed the channel's descriptor, the failure is written to the log."""
        os.close(self.parent._channel.fileno())
        self.addCleanup(self.parent._channel._socket.detach)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.parent.failed("wiki cannot be imported")
        self.assertRegex(said.getvalue(), r"^graceful: worker \d+: wiki cannot be imported\n$")

    # -- while it serves ----------------------------------------------------------------------------------

    def test_orders_are_passed_on_with_their_sockets(self) -> None:
        """Each order is passed on with the sockets that it means; an unknown one is ignored."""
        self.watched(1, 2)
        self.supervisor.send("accept")
        self.supervisor.send("dance")
        self.offer(3)
        self.assertEqual(self.turn() + self.turn(), [("accept",), ("more", ["tcp:3"])])
        self.supervisor.send("release", keys=[3, 8])
        self.supervisor.send("succeeded", pid=5, handed=[1], alone=[2])
        self.assertEqual(self.turn(), [("release", ["tcp:3"]), ("succeeded", 5, ["tcp:1"], ["tcp:2"], [])])

    def test_ends_of_links_are_passed_on(self) -> None:
        """The end on which connections go, and the end on which they come; what is incomplete is closed."""
        self.watched(1)
        ours, theirs = socket.socketpair()
        self.supervisor.send("give", [theirs.fileno()])
        self.supervisor.send("take", [theirs.fileno(), ours.fileno()], pid=5)
        (_, given), (_, link) = self.turn() + self.turn()
        self.assertEqual((given.family, link.sock.family, link.pid), (socket.AF_UNIX, socket.AF_UNIX, 5))
        given.close()
        link.close()
        theirs.close()
        with capturedLogs() as logged:
            self.supervisor.send("take", [ours.fileno()], pid=5)
            self.supervisor.send("give")
            self.assertEqual(self.turn() + self.turn(), [])
        self.assertIn("no connections move from process 5", str(formatEvent(logged[0])))
        ours.close()

    def test_an_order_leaves_out_sockets_that_are_closed(self) -> None:
        """An order leaves out the sockets that the worker has closed by itself."""
        self.watched(1, 2)
        self.parent._held[0].bound.socket.close()
        self.supervisor.send("succeeded", pid=5, handed=[1, 2], alone=[1])
        self.assertEqual(self.turn(), [("succeeded", 5, ["tcp:2"], [], [])])

    def test_a_socket_may_come_and_go_again_and_again(self) -> None:
        """A socket may come, go and come again; the old one is forgotten, and not taken for the new one."""
        self.watched(1)
        for _ in range(5):
            self.offer(3)
            self.assertEqual(self.turn(), [("more", ["tcp:3"])])
            self.supervisor.send("release", keys=[3])
            self.assertEqual(self.turn(), [("release", ["tcp:3"])])
            self.parent._held[-1].bound.socket.close()
        self.assertLessEqual(len(self.parent._held), 2)

    def test_a_worker_without_room_for_more_sockets_keeps_its_own(self) -> None:
        """A worker without room for a sibling's socket serves on with its own, and logs that."""
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

    def test_may_close_fires_with_the_supervisors_answer(self) -> None:
        """The worker asks, and gets the process that accepts instead, and the sockets that no other process holds."""
        self.watched(1, 2)
        answer = self.parent.may_close()
        self.assertEqual(self.supervisor.receive(1.0), {"word": "closing"})
        self.assertNoResult(answer)
        self.supervisor.send("close", pid=0, alone=[2])
        self.turn()
        pid, alone = self.successResultOf(answer)
        self.assertEqual((pid, self.names(alone)), (0, ["tcp:2"]))

    def test_an_answer_without_a_question_is_ignored(self) -> None:
        """An answer without a question is ignored."""
        self.watched(1)
        self.supervisor.send("close", pid=0, alone=[])
        self.turn()
        self.assertNoResult(self.parent.may_close())

    def test_a_lost_supervisor_leaves_what_no_successor_holds(self) -> None:
        """The worker knows which of its sockets it may end for all: not those that another instance holds, too."""
        for said, known in (((), ["tcp:1", "tcp:2"]), (([2, 3],), ["tcp:2", "tcp:3"]), (([2], []), [])):
            with self.subTest(said=said):
                self.setUp()
                self.watched(1, 2, 3)
                for keys in said:
                    self.supervisor.send("ours", keys=keys)
                self.turn()
                self.supervisor.close()
                self.assertEqual(self.turn(), [("lost", known)])

    def test_may_close_fires_if_the_supervisor_is_gone(self) -> None:
        """If the supervisor is gone, before or after the question, the worker may close."""
        self.watched(1)
        answer = self.parent.may_close()
        self.supervisor.close()
        with capturedLogs() as logged:
            self.assertEqual(self.turn(), [("lost", ["tcp:1"])])
        self.assertEqual(
            [formatEvent(event) for event in logged], [f"the supervisor, process {PID}, is gone: worker 2 stops"]
        )
        self.assertEqual(self.successResultOf(answer), (0, [self.parent._held[0].bound]))
        self.assertEqual(self.successResultOf(self.parent.may_close()), (0, []))
        self.assertEqual(self.turn(), [])

    def test_reports_its_progress(self) -> None:
        """The worker reports that it accepts, that it has closed, and its last word."""
        self.watched(1)
        self.parent.accepts()
        self.parent.closed()
        self.parent.gone({"finished": 3})
        self.assertEqual(
            [self.supervisor.receive(1.0) for _ in range(3)],
            [{"word": "accepts"}, {"word": "closed"}, {"word": "gone", "finished": 3}],
        )

    def test_nothing_is_done_after_gone(self) -> None:
        """What the supervisor sends before it hears that this worker is gone is closed: its sender waits."""
        self.watched(1)
        self.parent.gone({"finished": 3})
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.supervisor.send("give", [theirs.fileno()])
        theirs.close()
        self.supervisor.send("accept")
        self.assertEqual(self.turn(), [])
        ours.settimeout(1)
        self.assertEqual(ours.recv(1), b"")
