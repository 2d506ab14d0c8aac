"""A server starts its own successor."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.process.origin import VARIABLE, Origin
from graceful.takeover.reload import GONE_IN, Reload
from graceful.takeover.socket_handover import PROTOCOL, SocketHandover, TakeoverRefused
from tests.fast.takeover.test_socket_handover import SocketHolder

TIMEOUT = 60.0


class OriginTests(SynchronousTestCase):
    """How a process was started, by the paths as they were given."""

    def setUp(self) -> None:
        """Make a release, and a link to it."""
        self.directory = os.path.realpath(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.release, self.current = os.path.join(self.directory, "41"), os.path.join(self.directory, "current")
        os.mkdir(self.release)
        os.symlink(self.release, self.current)

    def script(self, first_line: str, mode: int = 0o755) -> str:
        """Make a script in the release; its path through the link."""
        path = os.path.join(self.release, "twistd")
        with open(path, "w") as file:
            file.write(first_line)
        os.chmod(path, mode)
        return os.path.join(self.current, "twistd")

    def origin(self, *argv: str, changes_to: str | None = None, **environ: str) -> Origin:
        """Returns the origin of a process with these arguments and environment."""
        return Origin.of_this_process(changes_to, environ, argv or ("twistd",), self.release)

    def test_directory_is_as_the_shell_wrote_it(self) -> None:
        """The shell's path of the directory counts if it leads here."""
        self.assertEqual(self.origin(PWD=self.current).directory, self.current)
        for elsewhere in (self.directory, "current", "/no/such/directory", ""):
            self.assertEqual(self.origin(PWD=elsewhere).directory, self.release)
        found = self.origin(PWD=self.current)
        self.assertEqual((found.application, found.led_to), (self.current, self.release))

    def test_application_is_the_directory_of_chdir(self) -> None:
        """With --chdir, that directory is the application's; relative to the directory in which it was typed."""
        found = self.origin(PWD=self.directory, changes_to="../current")
        self.assertEqual(found.directory, self.release)
        self.assertEqual(os.path.realpath(found.application), self.release)
        self.assertEqual(self.origin(changes_to=self.current).application, self.current)

    def test_script_is_called_without_interpreter(self) -> None:
        """A script names its interpreter itself, and another release's script names another one."""
        script = self.script("#!/old/release/bin/python\n")
        self.assertEqual(self.origin("/old/release/bin/python", script, "-n").command, (script, "-n"))
        self.assertEqual(self.origin("python", "twistd", "-n").command, ("twistd", "-n"))

    def test_interpreter_is_kept_without_executable_script(self) -> None:
        """Without such a script, the interpreter is needed."""
        for argv in (("python", "-m", "twisted"), ("python", "-X", "dev", "twistd"), ("python",), ("python", "gone")):
            self.assertEqual(self.origin(*argv).command, argv)
        for script in (self.script("import twisted\n"), self.script("#!/bin/python\n", 0o644)):
            self.assertEqual(self.origin("python", script).command, ("python", script))

    def test_environment_lacks_what_was_for_this_process(self) -> None:
        """The environment is kept, without the variables that were for this process alone."""
        found = self.origin(PWD="/", A="b", LISTEN_PID="1", LISTEN_FDS="2", WATCHDOG_PID="1", **{VARIABLE: "/x"})
        self.assertEqual(found.environment, {"PWD": self.release, "A": "b"})


class Successor:
    """A successor that is being started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.done: list[str] = []

    def kill(self) -> None:
        """Note the call."""
        self.done.append("kill")

    def let_go(self) -> None:
        """Note the call."""
        self.done.append("let go")


class ReloadTests(SynchronousTestCase):
    """One deploy at a time."""

    def setUp(self) -> None:
        """Make an instance that could deploy."""
        self.clock, self.holder = Clock(), SocketHolder()
        self.handover = SocketHandover(self.clock, self.holder, TIMEOUT, lambda: self.reload.takeover_ended())
        self.started: list[tuple[list[str], str, dict[str, str]]] = []
        self.processes: list[Successor] = []
        self.trouble: OSError | None = None
        self.control: str | None = "/run/site.sock"
        self.container_ends: str | None = None
        self.takes_over = False
        self.killed: list[tuple[int, int]] = []
        origin = Origin(("/srv/bin/twistd", "-n"), "/srv", {"A": "b"}, "/srv")
        self.reload = Reload(
            origin,
            lambda: self.control,
            self.handover,
            None,
            self.clock,
            TIMEOUT,
            self.start,
            lambda: self.container_ends,
            lambda pid, number: self.killed.append((pid, number)),
            lambda: self.takes_over,
        )
        logs = capturedLogs()
        self.events = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)

    def start(
        self, reactor: object, program: list[str], directory: str, environment: dict[str, str], listener: object
    ) -> Any:
        """Begin to start a process."""
        self.assertIs(listener, self.reload)
        if self.trouble is not None:
            raise self.trouble
        self.started.append((program, directory, environment))
        self.processes.append(Successor(5000 + len(self.processes)))
        return self.processes[-1]

    def deploy(self) -> Any:
        """Deploy until the successor runs; returns it."""
        self.reload.deploy()
        found: Any = self.processes[-1]
        self.reload.started(found)
        return found

    def said(self) -> str:
        """Returns the last line of the log."""
        return formatEvent(self.events[-1])

    def test_starts_same_command_in_same_directory(self) -> None:
        """The command and the directory are the same; the environment names the control path to ask at."""
        self.deploy()
        environment = {"A": "b", VARIABLE: "/run/site.sock"}
        self.assertEqual(self.started, [(["/srv/bin/twistd", "-n"], "/srv", environment)])
        self.assertEqual(self.said(), "deploy: successor, process 5000, runs /srv (was /srv)")

    def test_another_deploy_follows_one_that_fails(self) -> None:
        """Of deploys that are asked for during one, a single one begins when that has failed."""
        successor = self.deploy()
        for _ in range(2):
            self.reload.deploy()
            self.assertEqual(self.said(), "deploy: one is under way; another one follows it")
        self.assertEqual(len(self.started), 1)
        self.reload.ended(successor, 1)
        self.assertEqual(len(self.started), 2)
        self.reload.ended(self.processes[1], 1)
        self.assertEqual(len(self.started), 2)

    def test_another_deploy_waits_until_the_sockets_are_back(self) -> None:
        """The successor that is too late has the sockets until its end; before that no other one can get them."""
        self.reload.deploy()
        self.clock.advance(1)
        self.handover.offer(self, 1, PROTOCOL)
        self.reload.deploy()
        self.clock.advance(TIMEOUT - 1)
        self.assertEqual((self.processes[0].done, len(self.started)), (["kill"], 1))
        self.handover.lost(self)
        self.assertEqual(len(self.started), 2)

    def test_another_deploy_is_left_to_the_process_that_has_taken_over(self) -> None:
        """When the deploy succeeds, the process that serves now is asked for the next one, as by an operator."""
        successor = self.deploy()
        self.reload.deploy()
        self.handover.offer(self, successor.pid, PROTOCOL)
        self.handover.accepts(self, [])
        self.assertEqual(self.killed, [(successor.pid, signal.SIGHUP)])
        self.assertEqual(len(self.started), 1)

    def test_deploys_when_it_has_taken_over_itself(self) -> None:
        """A process that takes over itself has no control socket yet: its successor is started when it has."""
        self.takes_over, self.control = True, None
        self.reload.deploy()
        self.assertEqual((self.said(), self.started), ("deploy: one is under way; another one follows it", []))
        self.takes_over, self.control = False, "/run/site.sock"
        self.reload.has_taken_over()
        self.assertEqual(len(self.started), 1)
        self.reload.has_taken_over()
        self.assertEqual(len(self.started), 1)

    def test_no_other_deploy_follows_a_stop(self) -> None:
        """What was asked for before a stop is forgotten with it."""
        self.reload.deploy()
        self.reload.deploy()
        self.reload.give_up()
        self.reload.ended(self.processes[0], -9)
        self.assertEqual(len(self.started), 1)

    def test_fails_when_successor_exits_early(self) -> None:
        """A successor that exits before it asks for the sockets has failed."""
        for status, how in ((1, "exit status 1"), (-9, "signal 9")):
            successor = self.deploy()
            self.reload.ended(successor, status)
            self.assertEqual(
                self.said(),
                f"no deploy: the successor, process {successor.pid}, has ended with {how}; "
                "its own log says why; this one serves on",
            )
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_becomes_daemon(self) -> None:
        """A successor that ends well before it asks for the sockets has become a daemon, and is waited for."""
        self.reload.ended(self.deploy(), 0)
        self.assertIn("deploy: successor", self.said())
        self.reload.deploy()
        self.assertEqual(self.said(), "deploy: one is under way; another one follows it")

    def test_fails_when_successor_cannot_be_started(self) -> None:
        """A launcher that cannot start the program ends the deploy with one line; the next one is possible."""
        self.reload.deploy()
        before = len(self.events)
        self.reload.not_started(self.processes[0], OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
        self.assertEqual(
            self.said(),
            "no deploy: /srv/bin/twistd cannot be started in /srv: Resource temporarily unavailable; "
            "this one serves on",
        )
        self.assertEqual((len(self.events), self.clock.getDelayedCalls()), (before + 1, []))
        self.reload.deploy()
        self.assertEqual(len(self.started), 2)

    def test_lets_go_of_successor_before_it_is_named(self) -> None:
        """A successor is a child of process 1 before the service manager learns that it is the main process."""
        successor = self.deploy()
        self.handover.offer(self, successor.pid, PROTOCOL)
        self.holder.hand_over = lambda kept, pid: successor.done.append("named")  # type: ignore[method-assign]
        self.handover.accepts(self, [])
        self.assertEqual(successor.done, ["let go", "named"])

    def test_keeps_successor_whose_takeover_fails(self) -> None:
        """A successor that has not accepted is not let go of: its end is reported."""
        successor = self.deploy()
        self.handover.offer(self, successor.pid, PROTOCOL)
        self.handover.lost(self)
        self.assertEqual(successor.done, [])

    def test_kills_successor_that_is_too_late(self) -> None:
        """A successor that takes too long is killed."""
        self.reload.deploy()
        self.clock.advance(TIMEOUT)
        self.assertEqual(self.processes[0].done, ["kill"])
        self.assertEqual(self.said(), "no deploy: the successor has not accepted within 60 s; this one serves on")

    def test_does_not_kill_successor_that_has_taken_over(self) -> None:
        """A successor that has taken over is not killed after the time limit."""
        self.reload.deploy()
        self.handover.offer(self, self.processes[0].pid, PROTOCOL)
        self.handover.accepts(self, [])
        self.clock.advance(TIMEOUT * 2)
        self.assertEqual(self.processes[0].done, ["let go"])

    def test_stop_kills_successor_and_waits_for_it(self) -> None:
        """A stop kills the successor, and waits until it does not hold the sockets any more."""
        self.reload.deploy()
        self.handover.offer(self, 1, PROTOCOL)
        given_up = self.reload.give_up()
        self.assertEqual(self.said(), "no deploy: it is stopping")
        self.assertEqual(self.processes[0].done, ["kill"])
        self.assertEqual(self.killed, [(1, signal.SIGKILL)])  # a daemon is not a child
        self.assertRaises(TakeoverRefused, self.handover.accepts, self, [])
        self.reload.ended(self.processes[0], -9)
        self.assertNoResult(given_up)
        self.handover.lost(self)
        self.successResultOf(given_up)
        self.assertEqual(self.holder.done, ["share", "reclaim"])
        self.assertIn("has ended before it accepted; its own log says why; this one stops", self.said())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_waits_for_successor_that_has_not_asked_yet(self) -> None:
        """A stop waits for a successor that has not asked for the sockets yet, too."""
        self.reload.deploy()
        given_up = self.reload.give_up()
        self.assertNoResult(given_up)
        self.reload.ended(self.processes[0], -9)
        self.successResultOf(given_up)
        self.assertEqual((self.said(), self.killed), ("no deploy: it is stopping", []))

    def test_stop_does_not_wait_for_ever(self) -> None:
        """A stop waits a limited time for a successor that cannot be killed."""
        self.reload.deploy()
        given_up = self.reload.give_up()
        self.clock.advance(GONE_IN)
        self.successResultOf(given_up)

    def test_stop_without_deploy_waits_for_nothing(self) -> None:
        """Without a deploy under way a stop waits for nothing; a successor that has taken over goes on."""
        self.successResultOf(self.reload.give_up())
        self.reload.deploy()
        self.handover.offer(self, self.processes[0].pid, PROTOCOL)
        self.handover.accepts(self, [])
        self.successResultOf(self.reload.give_up())
        self.assertEqual((self.processes[0].done, self.killed), (["let go"], []))

    def test_end_of_earlier_successor_does_not_end_deploy(self) -> None:
        """The exit of an earlier successor says nothing about the current one."""
        self.reload.deploy()
        self.handover.offer(self, 1, PROTOCOL)
        self.handover.lost(self)
        self.reload.deploy()
        self.reload.ended(self.processes[0], -9)
        self.clock.advance(TIMEOUT)
        self.assertEqual(self.processes[1].done, ["kill"])

    def test_logs_why_it_cannot_deploy(self) -> None:
        """Each reason against a deploy is logged in one line."""
        self.trouble = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.reload.deploy()
        self.assertEqual(
            self.said(),
            "no deploy: /srv/bin/twistd cannot be started in /srv: No such file or directory; this one serves on",
        )
        self.trouble = None
        self.container_ends = "the container would end with process 1, which this is"
        self.reload.deploy()
        self.assertEqual(
            self.said(), "no deploy: the container would end with process 1, which this is; this one serves on"
        )
        self.container_ends, self.control = None, None
        self.reload.deploy()
        self.assertIn("control socket", self.said())
        self.control, self.holder.why = "/run/site.sock", "it is stopping"
        self.reload.deploy()
        self.assertIn("it is stopping", self.said())
        self.assertEqual(self.started, [])
