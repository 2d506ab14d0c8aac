"""One worker, as its supervisor sees it; its process is real, so that its end can be watched."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from graceful.sockets.binding import BoundSocket
from graceful.workers import worker as module
from graceful.workers.channel import AT_ONCE, PROTOCOL, Channel
from graceful.workers.slot_sockets import HeldSocket
from graceful.workers.worker import DIES_IN, SpawnContext, WorkerProcess
from tests.fast.doubles import Reactor
from tests.fast.workers.workforce import OLD


class WorkerClient:
    """Holds its socket."""

    def __init__(self, reactor: Any, clock: Any, sock: socket.socket) -> None:
        self.sock = sock.dup()
        sock.close()

    def close(self) -> None:
        self.sock.close()


class WorkerEvents:
    """Records the events of a worker."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def ready(self, worker: WorkerProcess) -> None:
        self.told.append("ready")

    def accepts(self, worker: WorkerProcess) -> None:
        self.told.append("accepts")

    def closing(self, worker: WorkerProcess) -> None:
        self.told.append("closing")

    def closed(self, worker: WorkerProcess) -> None:
        self.told.append("closed")

    def ended(self, worker: WorkerProcess) -> None:
        self.told.append("ended")


class Case(SynchronousTestCase):
    """A supervisor that can start workers."""

    def setUp(self) -> None:
        """Make a clock, a reactor, and what records events."""
        self.patch(module, "WorkerClient", WorkerClient)
        self.clock, self.reactor, self.staff = Clock(), Reactor(), WorkerEvents()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.options: dict[str, Any] = {}

    def spawn(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process that waits; the test has its end of the channel."""
        said = json.loads(options["env"]["GRACEFUL_WORKER"])
        self.options = {"command": command, **options, **said}
        self.its = Channel(socket.socket(fileno=os.dup(said["line"])))
        self.addCleanup(self.its.close)
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        self.processes.append(process)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        """Kill a process."""
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def kept(self, count: int) -> list[HeldSocket]:
        """Returns `count` sockets that the supervisor holds."""
        pair = socket.socketpair()
        for sock in pair:
            self.addCleanup(sock.close)
        return [HeldSocket(key, 1, BoundSocket(f"tcp:{key}", pair[0])) for key in range(count)]

    def make(self, sockets: int = 1) -> WorkerProcess:
        """Start a worker."""
        context = SpawnContext(self.reactor, self.clock, self.spawn)
        return WorkerProcess(1, OLD, self.kept(sockets), self.staff, context)


class StartTests(Case):
    """The start of a worker."""

    def test_starts_command_of_its_release(self) -> None:
        """A worker is started by its release's command, in its directory, with its number and descriptors."""
        worker = self.make()
        self.addCleanup(worker.client.close)
        options = self.options
        self.assertEqual((options["cwd"], options["number"], options["directory"]), ("/srv/old", 1, "/srv/old"))
        self.assertEqual(options["pass_fds"], (options["line"], options["control"]))
        self.assertTrue(options["start_new_session"])
        self.assertEqual(worker.pid, self.processes[0].pid)

    def test_sends_all_sockets_in_several_messages(self) -> None:
        """A worker gets all its sockets, in as many messages as they need."""
        worker = self.make(AT_ONCE + 2)
        self.addCleanup(worker.client.close)
        keys, more = [], True
        while more:
            message = self.its.receive(1.0)
            self.assertEqual((message["protocol"], message["pid"]), (PROTOCOL, os.getpid()))
            more = message["more"]
            for one in message["sockets"]:
                keys.append(one["key"])
                descriptor = self.its.take_descriptor()
                assert descriptor is not None
                os.close(descriptor)
        self.assertEqual(keys, list(range(AT_ONCE + 2)))

    @staticmethod
    def open_files() -> set[str]:
        """Returns the open files of this process."""
        found = set()
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one by which the directory was read
                found.add(os.readlink(f"/proc/self/fd/{number}"))
        return found

    def nothing_left(self) -> None:
        """Check that a start which fails leaves no descriptor and no process."""
        sockets = self.kept(1)
        before = self.open_files()
        context = SpawnContext(self.reactor, self.clock, self.spawn)
        # With the exception, everything is kept that would otherwise be collected.
        kept = self.assertRaises(OSError, WorkerProcess, 1, OLD, sockets, self.staff, context)
        self.assertEqual(str(kept), "no room")
        for process in self.processes:
            self.assertEqual(process.returncode, -9)
            self.its.close()
            assert process.stdin is not None
            process.stdin.close()
        self.assertEqual(self.open_files(), before)
        self.assertEqual(self.reactor.readers, [])

    def test_a_start_without_a_pair_of_sockets_leaves_nothing(self) -> None:
        """A start that gets no pair of sockets leaves nothing behind."""
        real, count = socket.socketpair, [0]

        def socketpair() -> Any:
            count[0] += 1
            if count[0] == 3:  # the first is the test's own, the second the line
                raise OSError("no room")
            return real()

        self.patch(socket, "socketpair", socketpair)
        self.nothing_left()

    def test_a_start_without_a_process_leaves_nothing(self) -> None:
        """A start that gets no process leaves nothing behind."""

        def spawn(command: list[str], **options: Any) -> Any:
            raise OSError("no room")

        self.patch(self, "spawn", spawn)
        self.nothing_left()

    def test_a_start_without_a_control_connection_leaves_nothing(self) -> None:
        """A start whose control connection fails leaves nothing behind."""

        def asking(*arguments: Any) -> Any:
            raise OSError("no room")

        self.patch(module, "WorkerClient", asking)
        self.nothing_left()

    def test_a_start_without_a_pidfd_leaves_no_process(self) -> None:
        """A start that gets no descriptor of its process kills the process, which nothing would watch."""

        def pidfd_open(pid: int) -> int:
            raise OSError("no room")

        self.patch(os, "pidfd_open", pidfd_open)
        self.nothing_left()


class LifeTests(Case):
    """The life of a worker, from its start to its end."""

    def setUp(self) -> None:
        """Start a worker."""
        super().setUp()
        self.worker = self.make()
        self.addCleanup(self.worker.client.close)
        self.its.receive(1.0)
        descriptor = self.its.take_descriptor()
        assert descriptor is not None
        os.close(descriptor)

    def says(self, *words: str, **values: Any) -> None:
        """Have the worker send messages, and the reactor notice."""
        for word in words:
            self.its.send(word, **values)
        self.worker.channel.doRead()

    def ends(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the worker's process by a signal, and have the reactor notice."""
        self.processes[0].send_signal(number)
        poll = select.poll()
        poll.register(self.worker.child, select.POLLIN)
        self.assertTrue(poll.poll(10_000))
        self.worker.child.doRead()

    def test_messages_out_of_turn_are_ignored(self) -> None:
        """Each message changes the state in its turn only; one that comes out of turn is ignored."""
        for word, state in (
            ("accepts", "starting"),
            ("ready", "ready"),
            ("ready", "ready"),
            ("accepts", "serving"),
            ("accepts", "serving"),
            ("dance", "serving"),
        ):
            self.says(word)
            self.assertEqual(self.worker.state, state)
        self.says("closing", "closed")
        self.assertEqual(self.staff.told, ["ready", "accepts", "closing", "closed"])
        self.assertTrue(self.worker.closed)

    def test_served_for_counts_from_accepting_to_the_end(self) -> None:
        """`served_for` counts from the moment in which the worker accepts until it has ended."""
        self.says("ready")
        self.clock.advance(3)
        self.assertEqual((self.worker.served_for, self.worker.has_served), (0.0, False))
        self.says("accepts")
        self.assertTrue(self.worker.has_served)  # also if it is over in the same moment
        self.clock.advance(3)
        self.assertEqual(self.worker.served_for, 3.0)
        self.ends()
        self.clock.advance(3)
        self.assertEqual(self.worker.served_for, 3.0)

    def test_a_long_last_word_is_read_after_the_end(self) -> None:
        """A last word is read however long it is, also after the process has ended."""
        self.says("ready", "accepts")
        self.its.send("closing")
        self.its.send("gone", finished=3, reports=["r" * 100] * 1000)
        self.its.close()
        self.ends(signal.SIGTERM)
        assert self.worker.word is not None
        self.assertEqual((self.worker.word["finished"], len(self.worker.word["reports"])), (3, 1000))
        self.assertEqual(self.staff.told, ["ready", "accepts", "ended"])
        self.assertEqual((self.worker.state, self.worker.status, self.worker.closed), ("gone", -15, True))
        self.assertEqual(self.worker.how(), "signal 15")

    def test_a_dead_workers_accepts_is_ignored(self) -> None:
        """A worker that died just as it was about to accept does not accept."""
        self.says("ready")
        self.its.send("accepts")
        self.its.close()
        self.ends()
        self.assertEqual(self.staff.told, ["ready", "ended"])
        self.assertFalse(self.worker.has_served)

    def test_reason_sent_before_death_is_known(self) -> None:
        """The reason why a worker could not start is known, also if it is read after the end of the process."""
        self.its.send("failed", why="wiki cannot be imported")
        self.its.close()
        self.ends()
        self.assertEqual(self.worker.how(), "wiki cannot be imported")

    def test_nothing_is_watched_or_signalled_after_the_end(self) -> None:
        """After its end nothing is watched, and no signal is sent: another process may have its id."""
        self.its.close()
        self.worker.channel.doRead()
        self.ends()
        self.assertEqual((self.reactor.readers, self.clock.getDelayedCalls()), ([], []))
        self.patch(os, "kill", lambda pid, number: self.fail("sent"))
        self.worker.send_signal(signal.SIGTERM)

    def test_a_descendant_that_holds_the_channel_delays_nothing(self) -> None:
        """A process that has inherited the worker's end of the channel delays nothing."""
        self.says("ready")
        self.ends()
        self.assertEqual(self.staff.told, ["ready", "ended"])

    def test_a_dying_worker_that_closes_its_channel_is_not_asked_to_stop(self) -> None:
        """A worker that closes its channel because it dies only ends."""
        self.says("ready", "accepts")
        self.its.close()
        self.worker.channel.doRead()
        self.clock.advance(DIES_IN / 2)
        self.ends()
        self.clock.advance(DIES_IN)
        self.assertEqual(self.staff.told, ["ready", "accepts", "ended"])

    def test_serving_worker_without_channel_stops(self) -> None:
        """A worker that serves, and whose channel is closed, stops by itself."""
        self.says("ready", "accepts")
        self.its.close()
        self.worker.channel.doRead()
        self.clock.advance(DIES_IN)
        self.assertEqual(self.staff.told, ["ready", "accepts", "closing"])

    def test_a_starting_worker_without_a_channel_is_killed(self) -> None:
        """A worker that does not serve yet, and whose channel is closed, is killed."""
        self.its.close()
        self.worker.channel.doRead()
        self.clock.advance(DIES_IN)
        self.ends(signal.SIGCONT)
        self.assertEqual((self.worker.status, self.worker.how()), (-9, "it can be heard no more"))

    def test_killed_worker_cannot_accept(self) -> None:
        """A worker that was killed for being late cannot accept any more."""
        self.says("ready")
        self.worker.kill("it is late")
        self.says("accepts")
        self.assertEqual(self.staff.told, ["ready"])
        self.ends(signal.SIGCONT)
        self.assertEqual((self.worker.status, self.worker.how()), (-9, "it is late"))

    # -- what it is told ----------------------------------------------------------------------------------

    def heard(self) -> dict[str, Any]:
        """Returns the next message that the worker gets, and closes its descriptors."""
        message = self.its.receive(1.0)
        while (descriptor := self.its.take_descriptor()) is not None:
            os.close(descriptor)
        return message

    def test_a_worker_gets_and_releases_further_sockets(self) -> None:
        """A worker gets only sockets that it has not, and releases those that it was given."""
        (first,), (other,) = self.worker.sockets, self.kept(1)
        other.key = 7
        self.worker.accept_also([first, other])
        self.assertEqual([one["key"] for one in self.heard()["sockets"]], [7])
        self.worker.accept_also([first])
        self.worker.release_sockets([other])
        self.assertEqual(self.heard(), {"word": "release", "keys": [7]})
        self.assertEqual(self.worker.sockets, [first])

    def test_a_link_has_its_other_end_at_the_worker(self) -> None:
        """The supervisor keeps neither end, and sends a taker the descriptor of the process that gives."""
        link = self.worker.link()
        self.assertEqual((link.pid, self.heard()), (self.worker.pid, {"word": "give"}))
        self.assertEqual(link.sock.recv(1), b"")  # the worker has closed its own
        self.worker.take_connections(link)
        self.assertEqual(link.sock.fileno(), -1)
        self.assertEqual(self.heard(), {"word": "take", "pid": link.pid})

    def test_succeeded_worker_drains(self) -> None:
        """A worker that serves drains once it is succeeded; one that is coming may still accept."""
        self.worker.succeeded(5, self.worker.sockets)
        self.assertEqual(self.heard(), {"word": "succeeded", "pid": 5, "handed": [0], "alone": [], "served": []})
        self.assertEqual(self.worker.state, "starting")
        self.says("ready", "accepts")
        self.worker.succeeded(5, [], self.worker.sockets)
        self.assertEqual(self.heard(), {"word": "succeeded", "pid": 5, "handed": [], "alone": [0], "served": []})
        self.assertEqual(self.worker.state, "leaving")

    def test_lost_is_what_was_in_flight_without_last_word(self) -> None:
        """A worker has lost what it had in flight when it was last asked, unless it has sent a last word."""
        self.worker.picture = {"in_flight_count": 2}
        self.assertEqual(self.worker.lost, 2)
        self.says("gone", finished=1)
        self.assertEqual(self.worker.lost, 0)
