"""A program that becomes a child of process 1, with real processes: the launcher is one."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.process.orphan import Orphan

#: Seconds that anything may take here, on a machine under load.
LONG = 20.0

WAITS = "import sys; sys.stdin.read()"


class Reactor:
    """Keeps the readers, and reads from the first one."""

    def __init__(self) -> None:
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)

    def read(self) -> None:
        """Wait until a reader can read, and let it."""
        found = select.select(self.readers, [], [], LONG)[0]
        assert found, "nothing to read"
        for one in found:
            one.doRead()


class OrphanTests(SynchronousTestCase):
    """A program, its launcher, and this process."""

    def setUp(self) -> None:
        """Be a listener."""
        self.reactor = Reactor()
        self.events: list[tuple[str, Any]] = []
        self.launchers: list[subprocess.Popen[bytes]] = []
        self.directory = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, self.directory)
        self.addCleanup(self.end)

    def end(self) -> None:
        """End every process that a test has left."""
        for one in list(self.reactor.readers):
            if one.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
            one.connectionLost(None)
        for launcher in self.launchers:
            launcher.wait(LONG)

    def started(self, orphan: Orphan) -> None:
        """Note it."""
        self.events.append(("started", orphan.pid))

    def not_started(self, orphan: Orphan, error: OSError) -> None:
        """Note it."""
        self.events.append(("not started", error))

    def ended(self, orphan: Orphan, status: int) -> None:
        """Note it."""
        self.events.append(("ended", status))

    def spawn(self, command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        """Start a launcher whose standard input, and so the program's, is a pipe."""
        self.launchers.append(subprocess.Popen(command, stdin=subprocess.PIPE, **how))
        return self.launchers[-1]

    def start(self, *program: str, environment: dict[str, str] | None = None, **others: Any) -> Orphan:
        """Start a program."""
        return Orphan(
            self.reactor,  # type: ignore[arg-type]
            program,
            self.directory,
            environment if environment is not None else dict(os.environ),
            self,
            self.spawn,
            **others,
        )

    def run_python(self, code: str, **others: Any) -> Orphan:
        """Start a Python program, and wait until it runs."""
        orphan = self.start(sys.executable, "-S", "-c", code, **others)
        self.reactor.read()
        self.assertEqual(self.events[0][0], "started")
        return orphan

    def let_go(self, orphan: Orphan) -> None:
        """Let go of a program, which ends with the test."""
        self.addCleanup(self.kill, orphan.pid)
        orphan.let_go()

    def kill(self, pid: int) -> None:
        """Kill a program; it may be a zombie already."""
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # unless a test before has made this process a subreaper
            os.waitpid(pid, 0)

    def test_is_a_child_of_another_process_once_it_is_let_go_of(self) -> None:
        """Until it is let go of its parent is the launcher; when let_go returns, whichever process adopts orphans."""
        orphan = self.run_python(WAITS)
        self.assertEqual(parent_of(orphan.pid), self.launchers[0].pid)
        self.let_go(orphan)
        self.assertNotEqual(parent_of(orphan.pid), self.launchers[0].pid)
        self.assertEqual(self.launchers[0].returncode, 0)
        self.assertEqual((self.reactor.readers, self.events), ([], [("started", orphan.pid)]))

    def test_runs_in_the_directory_and_with_the_environment_given(self) -> None:
        """The program has the directory, the environment, the process group and no descriptor of the launcher."""
        code = (
            "import os, signal; signal.signal(signal.SIGCHLD, signal.SIG_DFL); print(os.getcwd(), os.environ['A'], "
            "sorted(map(int, os.listdir('/proc/self/fd')))[:-1], os.getpgrp(), "
            "signal.getsignal(signal.SIGTERM).name, file=open('/proc/self/fd/2', 'w'))"
        )
        with tempfile.TemporaryFile("w+") as said:
            spawn = self.spawn
            self.spawn = lambda command, **how: spawn(command, stderr=said, **how)  # type: ignore[method-assign]
            self.run_python(code, environment={"A": "b"})
            self.reactor.read()
            said.seek(0)
            expected = f"{os.path.realpath(self.directory)} b [0, 1, 2] {os.getpgrp()} SIG_DFL\n"
            self.assertEqual(said.read(), expected)

    def test_reports_how_the_program_ends(self) -> None:
        """The exit status of the program, or the signal that has ended it, is reported."""
        for code, status in (("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 15)", -15), ("", 0)):
            self.events.clear()
            self.run_python(code)
            if len(self.events) < 2:
                self.reactor.read()
            self.assertEqual(self.events[1:], [("ended", status)])
            self.assertEqual(self.reactor.readers, [])

    def test_kill_kills_the_program(self) -> None:
        """A kill reaches the program, not the launcher, with a pidfd or without."""

        def no_pidfd(pid: int) -> int:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        for pidfd_open in (os.pidfd_open, no_pidfd):
            self.events.clear()
            orphan = self.run_python(WAITS, pidfd_open=pidfd_open)
            orphan.kill()
            self.reactor.read()
            self.assertEqual(self.events[1:], [("ended", -signal.SIGKILL)])
            orphan.kill()  # does nothing: the number may be another process's by now

    def test_kill_before_the_pid_is_known(self) -> None:
        """A program that is killed while the launcher starts is killed as soon as its pid is known."""
        orphan = self.start(sys.executable, "-S", "-c", WAITS)
        orphan.kill()
        while len(self.events) < 2:
            self.reactor.read()
        self.assertEqual(self.events, [("started", orphan.pid), ("ended", -signal.SIGKILL)])

    def test_signals_to_all_processes_end_the_program_alone(self) -> None:
        """systemd signals every process of a unit: the launcher stays to report how the program ends."""
        orphan = self.run_python(WAITS)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(self.launchers[0].pid, number)
        os.kill(orphan.pid, signal.SIGTERM)
        self.reactor.read()
        self.assertEqual(self.events[1:], [("ended", -signal.SIGTERM)])

    def test_program_that_is_stopped_and_continued_is_let_go_of(self) -> None:
        """The end of the program is not mistaken: SIGSTOP and SIGCONT tell its parent, too."""
        orphan = self.run_python(WAITS)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            os.kill(orphan.pid, number)
        self.let_go(orphan)
        self.assertEqual((self.launchers[0].returncode, self.events), (0, [("started", orphan.pid)]))

    def test_a_launcher_that_is_killed_takes_the_program_with_it(self) -> None:
        """Without its launcher nothing reports how the program ends, so it is killed."""
        orphan = self.run_python(WAITS)
        program = os.pidfd_open(orphan.pid)
        self.addCleanup(os.close, program)
        self.launchers[0].kill()
        self.reactor.read()
        self.assertEqual(self.events[1:], [("ended", -signal.SIGKILL)])
        self.assertEqual(select.select([program], [], [], LONG)[0], [program])

    def test_failure_of_each_step_is_reported(self) -> None:
        """A program that does not exist, a launcher that does not run: each failure is an OSError."""
        self.start("/no/such/program")
        self.reactor.read()
        self.assertEqual(self.events[0][1].errno, errno.ENOENT)
        self.start("unused", interpreter="/bin/false")
        self.reactor.read()
        self.assertEqual(self.events[1][1].strerror, "its launcher has ended with exit status 1")
        self.assertRaises(FileNotFoundError, self.start, "unused", interpreter="/no/such/python")
        self.assertEqual(self.reactor.readers, [])

    def test_no_descriptors_left_is_a_failure(self) -> None:
        """Without a descriptor for the line to the launcher nothing is started."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            error = self.assertRaises(OSError, self.start, "unused")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assertEqual((error.errno, self.launchers), (errno.EMFILE, []))

    def test_no_descriptor_is_lost_when_the_launcher_cannot_be_spawned(self) -> None:
        """A fork that is refused leaves nothing open."""

        def spawn(command: list[str], **how: Any) -> Any:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        self.spawn = spawn  # type: ignore[method-assign]
        before = os.listdir("/proc/self/fd")
        self.assertRaises(OSError, self.start, "unused")
        self.assertEqual(os.listdir("/proc/self/fd"), before)


def parent_of(pid: int) -> int:
    """Returns the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
