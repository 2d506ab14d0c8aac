"""Fork servers, as the supervisor sees them: imports, forks, and every way in which one is lost."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.process.origin import Origin
from graceful.workers import fork_server as module
from graceful.workers.channel import Channel, ChannelLost
from graceful.workers.fork_server import ForkServer
from graceful.workers.preloading import Preloading
from tests.fast.doubles import Reactor
from tests.fast.workers.workforce import NEW, OLD


class ForkServerCase(SynchronousTestCase):
    """A supervisor that starts fork servers; each is a `cat`, and the test speaks for it."""

    def setUp(self) -> None:
        """Have a supervisor without a fork server."""
        self.reactor, self.clock = Reactor(), Clock()
        self.told: list[dict[str, Any]] = []
        self.lines: list[Channel] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.servers = Preloading(self.reactor, self.clock, 60.0, make=self.make)
        self.cannot: OSError | None = None
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)

    def make(self, release: Origin, reactor: Any, changed: Callable[[ForkServer], object]) -> ForkServer:
        """Make a fork server."""
        return ForkServer(release, reactor, changed, self.spawn)

    def spawn(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process that waits; the test has its end of the channel."""
        if self.cannot is not None:
            raise self.cannot
        said = json.loads(options["env"]["GRACEFUL_FORK_SERVER"])
        self.told.append({"command": command, "cwd": options["cwd"], **said})
        line = Channel(socket.socket(fileno=os.dup(said["line"])))
        self.lines.append(line)
        self.addCleanup(line.close)
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        self.processes.append(process)
        self.addCleanup(self.end, process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process, and have the supervisor learn of it."""
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
        self.turn()

    def turn(self) -> None:
        """Have the supervisor read what was said to it."""
        for reader in list(self.reactor.readers):
            if reader in self.reactor.readers and self.ready(reader):
                reader.doRead()

    @staticmethod
    def ready(reader: Any) -> bool:
        """Whether there is something to read."""
        import select

        poll = select.poll()
        poll.register(reader, select.POLLIN)
        return bool(poll.poll(0))

    def text(self) -> list[str]:
        """Returns the lines of the log since the last call."""
        said = [formatEvent(cast(LogEvent, event)) for event in self.logged]
        self.logged.clear()  # type: ignore[attr-defined]
        return said

    def preload(self, release: Origin = NEW) -> list[str | None]:
        """Begin an import in a deploy.  Returns where its answer will be."""
        answers: list[str | None] = []
        self.servers.preload(release).addCallback(answers.append)
        return answers

    def import_ends(self, number: int = 0) -> None:
        """Have a fork server say that it has imported its release."""
        self.lines[number].send("ready", caveats=[])
        self.turn()


class ImportTests(ForkServerCase):
    """From the start of a process to its first word."""

    def test_it_is_started_by_the_command_of_its_release(self) -> None:
        """In its directory, and told what it is."""
        self.preload()
        (told,) = self.told
        self.assertEqual((told["command"], told["cwd"]), (NEW.program(), "/srv/new"))
        self.assertEqual((told["supervisor"], told["directory"]), (os.getpid(), "/srv/new"))

    def test_an_import_is_awaited(self) -> None:
        """And what it has to say about forks is in the log."""
        answers = self.preload()
        self.assertEqual(answers, [])
        self.lines[0].send("ready", caveats=["dice are loaded"])
        self.turn()
        self.assertEqual(answers, [None])
        said = self.text()
        self.assertEqual(said[0], "preload: dice are loaded")
        self.assertRegex(said[1], r"^fork server, process \d+, has imported /srv/new$")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_import_that_fails_is_why_there_is_no_deploy(self) -> None:
        """Its stack is kept for the page that shows it."""
        answers = self.preload()
        self.lines[0].send("failed", why="no module", error="Traceback: no module")
        self.turn()
        self.assertEqual((answers, self.servers.error), (["no module"], "Traceback: no module"))
        self.assertIsNone(self.servers.fork(NEW, 1, 0, 0))

    def test_an_import_that_hangs_is_ended(self) -> None:
        """At the time that a worker would have had."""
        answers = self.preload()
        self.clock.advance(60.0)
        self.assertEqual(answers, ["it has not been imported within 60 s"])
        self.assertEqual(self.processes[0].wait(), -signal.SIGKILL)

    def test_what_cannot_be_forked_is_served_all_the_same(self) -> None:
        """As what ends without a word, and what cannot be started."""
        first = self.preload()
        self.lines[0].send("unfit", why="it has a thread")
        self.turn()
        second = self.preload()
        self.end(self.processes[1])
        self.cannot = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        third = self.preload()
        self.assertEqual((first, second, third), ([None], [None], [None]))
        self.assertEqual(
            self.text(),
            [
                "no preload: it has a thread; each worker imports the application",
                "no preload: it has ended with signal 9; each worker imports the application",
                "no preload: Resource temporarily unavailable; each worker imports the application",
            ],
        )
        self.assertIsNone(self.servers.fork(NEW, 1, 0, 0))

    def test_a_stop_gives_up_an_import(self) -> None:
        """The process is killed: it reads nothing before it has imported."""
        answers = self.preload()
        self.servers.stop_importing("it is stopping")
        self.servers.stop_importing("it is stopping")
        self.assertEqual(answers, ["it is stopping"])
        self.assertEqual(self.processes[0].wait(), -signal.SIGKILL)
        self.turn()
        self.assertEqual((self.text(), self.clock.getDelayedCalls()), ([], []))

    def test_the_first_import_is_waited_for(self) -> None:
        """Before the reactor runs, by its own poll."""
        make = self.make

        def say(word: str, **values: Any) -> Callable[..., ForkServer]:
            def made(*arguments: Any) -> ForkServer:
                server = make(*arguments)
                self.lines[-1].send(word, **values)
                return server

            return made

        self.servers._make = say("ready")
        self.assertIsNone(self.servers.start(OLD))
        self.servers._make = say("failed", why="no module")
        self.assertEqual(self.servers.start(OLD), "no module")

        def dies(*arguments: Any) -> ForkServer:
            server = make(*arguments)
            self.processes[-1].kill()
            return server

        self.servers._make = dies
        self.assertIsNone(self.servers.start(OLD))
        self.cannot = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.servers._make = make
        self.assertIsNone(self.servers.start(OLD))

    def test_a_start_that_fails_leaves_nothing(self) -> None:
        """No process, and no descriptor."""

        class Child:
            def __init__(self, *ignored: Any) -> None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        self.patch(module, "Child", Child)
        before = set(os.listdir("/proc/self/fd"))
        self.assertRaises(OSError, self.make, OLD, self.reactor, lambda server: None)
        self.lines[0].close()
        (process,) = self.processes
        self.assertEqual(process.returncode, -signal.SIGKILL)
        assert process.stdin is not None
        process.stdin.close()
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)


class ForkTests(ForkServerCase):
    """A fork server that has imported its release."""

    def setUp(self) -> None:
        """Have one, and descriptors for a worker."""
        super().setUp()
        self.preload()
        self.import_ends()
        self.text()
        pair = socket.socketpair()
        for sock in pair:
            self.addCleanup(sock.close)
        self.pair = [sock.fileno() for sock in pair]

    def fork(self, **answer: Any) -> Any:
        """Have a worker forked, which the fork server has answered before it is asked."""
        self.lines[0].send(answer.pop("word", "forked"), **answer)
        return self.servers.fork(NEW, 3, *self.pair)

    def heard(self) -> dict[str, Any]:
        """Returns the next thing that the fork server is told; what comes beside it is closed."""
        message = self.lines[0].receive(1.0)
        self.lines[0].drop_descriptors()
        return message

    def test_a_worker_is_forked_with_its_descriptors(self) -> None:
        """And collected through the fork server, which is its parent."""
        worker = self.fork(pid=4711)
        self.assertEqual(worker.pid, 4711)
        message = self.lines[0].receive(1.0)
        self.assertEqual(message, {"word": "fork", "number": 3, "directory": "/srv/new"})
        self.assertIsNotNone(self.lines[0].take_descriptor())
        self.assertIsNotNone(self.lines[0].take_descriptor())
        self.assertEqual(self.servers.describe()[0]["workers"], 1)
        self.lines[0].send("ended", pid=4711, status=70)
        self.assertEqual((worker.wait(), self.heard()), (70, {"word": "wait", "pid": 4711}))
        self.assertEqual(self.servers.describe()[0]["workers"], 0)

    def test_another_release_is_not_forked_from_it(self) -> None:
        """Nor from one that is retired and has ended."""
        self.assertIsNone(self.servers.fork(OLD, 1, *self.pair))

    def test_a_refused_fork_is_started_without(self) -> None:
        """The system has no room for a process now; it may have later."""
        self.assertIsNone(self.fork(word="refused", why="Resource temporarily unavailable"))
        self.assertEqual(self.text(), ["worker 3 is not forked: Resource temporarily unavailable"])
        self.assertIsNotNone(self.fork(pid=4711))

    def test_one_that_says_nothing_is_killed(self) -> None:
        """After some seconds, in which the supervisor waits; then workers are started without."""
        self.patch(module, "ANSWERS_IN", 0.05)
        self.assertIsNone(self.servers.fork(NEW, 3, *self.pair))
        self.assertEqual(self.processes[0].wait(), -signal.SIGKILL)
        lost, refused = self.text()
        self.assertRegex(
            lost, r"^the fork server, process \d+, is lost: .* until the next deploy, new workers import"
        )
        self.assertRegex(refused, "^worker 3 is not forked: ")
        self.assertIsNone(self.servers.fork(NEW, 3, *self.pair))
        self.turn()
        self.assertEqual((self.text(), self.servers.describe()), ([], []))

    def test_one_that_dies_is_told_once(self) -> None:
        """Whose workers live on, and end with an unknown status."""
        worker = self.fork(pid=4711)
        self.end(self.processes[0])
        (line,) = self.text()
        self.assertRegex(line, "is lost: it has ended with signal 9; until the next deploy")
        self.assertEqual(worker.wait(), -signal.SIGKILL)
        self.turn()
        self.assertEqual(self.text(), [])

    def test_an_unknown_child_has_an_unknown_status(self) -> None:
        """The fork server says that it is none of its own."""
        worker = self.fork(pid=4711)
        self.lines[0].send("ended", pid=4711, status=None)
        self.assertEqual(worker.wait(), -signal.SIGKILL)

    def test_it_ends_with_its_last_worker(self) -> None:
        """Once another release is served."""
        worker = self.fork(pid=4711)
        self.preload(OLD)
        self.import_ends(1)
        self.servers.keep_only(OLD)
        self.assertEqual([one["state"] for one in self.servers.describe()], ["retired", "ready"])
        self.heard()
        self.lines[0].send("ended", pid=4711, status=0)
        worker.wait()
        self.heard()
        self.assertRaises(ChannelLost, self.lines[0].receive, 1.0)
        self.end(self.processes[0])
        self.servers.keep_only(OLD)
        self.assertEqual([one["state"] for one in self.servers.describe()], ["ready"])
        self.assertNotIn("lost", " ".join(self.text()))

    def test_all_end_with_the_instance(self) -> None:
        """Their lines are closed, at which they exit."""
        self.servers.close()
        self.assertRaises(ChannelLost, self.lines[0].receive, 1.0)

    def test_a_forked_process_can_be_killed(self) -> None:
        """By its number; one that has ended is not."""
        victim = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        assert victim.stdin is not None
        worker = self.fork(pid=victim.pid)
        worker.kill()
        self.assertEqual(victim.wait(), -signal.SIGKILL)
        victim.stdin.close()
        worker.kill()
