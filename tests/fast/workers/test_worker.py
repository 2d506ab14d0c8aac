"""One worker, as its supervisor sees it; its process is real only so that its end can be watched."""

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
    """Writes down what it is told."""

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
    """Something to start workers with."""

    def setUp(self) -> None:
        """Have what starts something else."""
        self.patch(module, "WorkerClient", WorkerClient)
        self.clock, self.reactor, self.staff = Clock(), Reactor(), WorkerEvents()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.options: dict[str, Any] = {}

    def spawn(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process that waits; its end of the line is ours."""
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
        """Leave nothing behind."""
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def kept(self, count: int) -> list[HeldSocket]:
        """So many sockets in the supervisor's keeping."""
        pair = socket.socketpair()
        for sock in pair:
            self.addCleanup(sock.close)
        return [HeldSocket(key, 1, BoundSocket(f"tcp:{key}", pair[0])) for key in range(count)]

    def make(self, sockets: int = 1) -> WorkerProcess:
        """Start a worker."""
        context = SpawnContext(self.reactor, self.clock, self.spawn)
        return WorkerProcess(1, OLD, self.kept(sockets), self.staff, context)


class StartTests(Case):
    """From nothing."""

    def test_starts_command_of_its_release(self) -> None:
        """By the command line of its release, in its directory; and it has its number and its descriptors."""
        worker = self.make()
        self.addCleanup(worker.client.close)
        options = self.options
        self.assertEqual((options["cwd"], options["number"], options["directory"]), ("/srv/old", 1, "/srv/old"))
        self.assertEqual(options["pass_fds"], (options["line"], options["control"]))
        self.assertTrue(options["start_new_session"])
        self.assertEqual(worker.pid, self.processes[0].pid)

    def test_sends_all_sockets_in_several_messages(self) -> None:
        """It gets all sockets, in as many messages as that takes."""
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
        """What the process has open."""
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

    def test_no_line(self) -> None:
        """Without room for a pair of sockets."""
        real, count = socket.socketpair, [0]

        def socketpair() -> Any:
            count[0] += 1
            if count[0] == 3:  # the first is the test's own, the second the line
                raise OSError("no room")
            return real()

        self.patch(socket, "socketpair", socketpair)
        self.nothing_left()

    def test_no_process(self) -> None:
        """Without room for a process."""

        def spawn(command: list[str], **options: Any) -> Any:
            raise OSError("no room")

        self.patch(self, "spawn", spawn)
        self.nothing_left()

    def test_no_control(self) -> None:
        """Without room in the reactor."""

        def asking(*arguments: Any) -> Any:
            raise OSError("no room")

        self.patch(module, "WorkerClient", asking)
        self.nothing_left()

    def test_no_watching(self) -> None:
        """Without room for a descriptor of the process: one that nobody watches must not be left."""

        def pidfd_open(pid: int) -> int:
            raise OSError("no room")

        self.patch(os, "pidfd_open", pidfd_open)
        self.nothing_left()


class LifeTests(Case):
    """From what it says to what it is."""

    def setUp(self) -> None:
        """Start one."""
        super().setUp()
        self.worker = self.make()
        self.addCleanup(self.worker.client.close)
        self.its.receive(1.0)
        descriptor = self.its.take_descriptor()
        assert descriptor is not None
        os.close(descriptor)

    def says(self, *words: str, **values: Any) -> None:
        """Have it say something, and the reactor notice."""
        for word in words:
            self.its.send(word, **values)
        self.worker.channel.doRead()

    def ends(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it, and have the reactor notice."""
        self.processes[0].send_signal(number)
        poll = select.poll()
        poll.register(self.worker.child, select.POLLIN)
        self.assertTrue(poll.poll(10_000))
        self.worker.child.doRead()

    def test_messages_out_of_turn_are_ignored(self) -> None:
        """Each in its turn; what comes out of turn means nothing."""
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

    def test_served_for(self) -> None:
        """From when it accepts until it has ended, and no longer."""
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

    def test_last_word(self) -> None:
        """However long it is, and though nobody has read it before the process has ended."""
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

    def test_believed_no_more(self) -> None:
        """One that has died was about to accept: it does not, and nobody makes room for it."""
        self.says("ready")
        self.its.send("accepts")
        self.its.close()
        self.ends()
        self.assertEqual(self.staff.told, ["ready", "ended"])
        self.assertFalse(self.worker.has_served)

    def test_reason_sent_before_death_is_known(self) -> None:
        """Why it could not start is known, though it was not read before the process has ended."""
        self.its.send("failed", why="wiki cannot be imported")
        self.its.close()
        self.ends()
        self.assertEqual(self.worker.how(), "wiki cannot be imported")

    def test_nothing_left(self) -> None:
        """When it has ended, nobody watches anything, and no signal is sent to whoever has its number now."""
        self.its.close()
        self.worker.channel.doRead()
        self.ends()
        self.assertEqual((self.reactor.readers, self.clock.getDelayedCalls()), ([], []))
        self.patch(os, "kill", lambda pid, number: self.fail("sent"))
        self.worker.send_signal(signal.SIGTERM)

    def test_descendants(self) -> None:
        """Somebody who has inherited its end of the line delays nothing."""
        self.says("ready")
        self.ends()
        self.assertEqual(self.staff.told, ["ready", "ended"])

    def test_hangs_up(self) -> None:
        """One that dies is not taken for one that is deaf."""
        self.says("ready", "accepts")
        self.its.close()
        self.worker.channel.doRead()
        self.clock.advance(DIES_IN / 2)
        self.ends()
        self.clock.advance(DIES_IN)
        self.assertEqual(self.staff.told, ["ready", "accepts", "ended"])

    def test_serving_worker_without_channel_stops(self) -> None:
        """One that serves, and can be heard no more, stops by itself."""
        self.says("ready", "accepts")
        self.its.close()
        self.worker.channel.doRead()
        self.clock.advance(DIES_IN)
        self.assertEqual(self.staff.told, ["ready", "accepts", "closing"])

    def test_deaf_from_the_start(self) -> None:
        """One that does not serve yet is of no use."""
        self.its.close()
        self.worker.channel.doRead()
        self.clock.advance(DIES_IN)
        self.ends(signal.SIGCONT)
        self.assertEqual((self.worker.status, self.worker.how()), (-9, "it can be heard no more"))

    def test_killed_worker_cannot_accept(self) -> None:
        """One that was killed for being late is not in time."""
        self.says("ready")
        self.worker.kill("it is late")
        self.says("accepts")
        self.assertEqual(self.staff.told, ["ready"])
        self.ends(signal.SIGCONT)
        self.assertEqual((self.worker.status, self.worker.how()), (-9, "it is late"))

    # -- what it is told ----------------------------------------------------------------------------------

    def heard(self) -> dict[str, Any]:
        """What it hears next; what comes beside it is closed."""
        message = self.its.receive(1.0)
        while (descriptor := self.its.take_descriptor()) is not None:
            os.close(descriptor)
        return message

    def test_more_sockets(self) -> None:
        """It gets what it has not, and lets go of what it has."""
        (first,), (other,) = self.worker.sockets, self.kept(1)
        other.key = 7
        self.worker.accept_also([first, other])
        self.assertEqual([one["key"] for one in self.heard()["sockets"]], [7])
        self.worker.accept_also([first])
        self.worker.release_sockets([other])
        self.assertEqual(self.heard(), {"word": "release", "keys": [7]})
        self.assertEqual(self.worker.sockets, [first])

    def test_succeeded_worker_drains(self) -> None:
        """One that serves drains from now on; one that is still coming may accept all the same, and has to end."""
        self.worker.succeeded(5, self.worker.sockets)
        self.assertEqual(self.heard(), {"word": "succeeded", "pid": 5, "handed": [0], "alone": []})
        self.assertEqual(self.worker.state, "starting")
        self.says("ready", "accepts")
        self.worker.succeeded(5, [], self.worker.sockets)
        self.assertEqual(self.heard(), {"word": "succeeded", "pid": 5, "handed": [], "alone": [0]})
        self.assertEqual(self.worker.state, "leaving")

    def test_lost_is_what_was_in_flight_without_last_word(self) -> None:
        """What it had in flight when it was last asked is lost, unless it has had a last word."""
        self.worker.picture = {"in_flight_count": 2}
        self.assertEqual(self.worker.lost, 2)
        self.says("gone", finished=1)
        self.assertEqual(self.worker.lost, 0)
