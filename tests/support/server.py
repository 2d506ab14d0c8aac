"""A real server process: started, watched, and always ended.

What this project promises can only be seen from outside the process: a line in the log, an exit status, a
port that refuses.  A `Server` starts `twistd graceful-app` as people do, in the foreground or as a daemon,
collects its log while it is written, and ends it by its own pid whatever the test does.  Leaving its `with`
block normally is itself a test: the server must stop at SIGTERM with exit status 0, and no traceback may
stand in its log.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import TracebackType

from tests.support.home import Home
from tests.support.log import Log
from tests.support.log_followers import FileFollower, Follower, PipeFollower
from tests.support.quick import Quick
from tests.support.waiting import PATIENCE, wait_for

APPLICATIONS = Path(__file__).parent.parent / "apps"
WITHOUT_TLS = Path(__file__).parent / "without_tls"
PROGRAMS = Path(sys.executable).parent
OPEN = r"socket (?P<address>\S+) open \(pid (?P<pid>\d+)\)"
CLOSED = r"socket (?P<address>\S+) closed \(pid (?P<pid>\d+)\)"
DRAINED = (
    r"drained in (?P<seconds>[0-9.]+) s: "
    r"(?P<finished>\d+) finished, (?P<taken_down>\d+) taken down, (?P<abandoned>\d+) abandoned"
)
LOG_FILE = "twistd.log"
LOOPBACK = "tcp:{port}:interface=127.0.0.1"

# The interpreter of a test run may live in a home directory that only root can read, so unprivileged users are
# allowed to read everything, and nothing else: when they are unprivileged from the start,
UNPRIVILEGED_USER = ("--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
# and when they become so by `twistd --uid`, which otherwise takes all privileges away: also what they start.
KEEPS_READING = (
    "setpriv",
    "--securebits=+no_setuid_fixup",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
    "--bounding-set=-all,+dac_read_search,+setuid,+setgid,+chown",
)
PR_SET_CHILD_SUBREAPER = 36
#: Variables that count while Python starts, or its C library: a process that has started cannot be given them.
AT_THE_START = re.compile("PYTHON|LD_|MALLOC_|GLIBC_|TZ|LC_|LANG")


class Server:
    """A `twistd graceful-app` process.

    :param home: where it runs.
    :param options: options of `graceful-app`.
    :param application: MODULE:CALLABLE in tests/apps, or None for the built-in demo.
    :param port: to listen on; 0 lets the kernel choose one.
    :param listen: endpoints instead of the loopback `port`.
    :param daemon: whether twistd goes to the background.
    :param twistd_options: options before `graceful-app`.
    :param environment: added to the process's environment.
    :param preload: a shared library for LD_PRELOAD.
    :param open_files: RLIMIT_NOFILE.
    :param cpu: the only processor that the process may use.
    :param pass_fds: descriptors that the process inherits.
    :param prefix: a command that starts this one, such as setpriv(1).
    :param program: `twistd`, or `twist`, which knows no daemons.
    :param command: what to run instead of all that: another program that has a server in it.
    :param wait_open: whether to wait until it accepts connections.
    :param tls: whether the server can import pyOpenSSL though no word of its command has to do with TLS.
    :param fresh: whether Python itself is started: for what a start does, and when; see :mod:`tests.support.quick`.
    :ivar tracebacks: how many tracebacks the test expects in the log; None: any number.
    """

    def __init__(
        self,
        home: Home,
        *options: str,
        application: str | None = "basic:application",
        port: int = 0,
        listen: Sequence[str] | None = None,
        daemon: bool = False,
        twistd_options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        preload: Path | None = None,
        open_files: int | None = None,
        cpu: int | None = None,
        pass_fds: Sequence[int] = (),
        prefix: Sequence[str] = (),
        program: str = "twistd",
        command: Sequence[str] | None = None,
        wait_open: bool = True,
        tls: bool = False,
        fresh: bool = False,
    ) -> None:
        self.home = home
        self.daemon = daemon
        self.log = Log()
        self.log_file = home.logs / LOG_FILE
        self.pid = 0
        self.status: int | None = None
        self.tracebacks: int | None = 0
        self._wait_open = wait_open
        self._limits: list[Callable[[], object]] = []
        if open_files is not None:
            self._limits.append(partial(resource.setrlimit, resource.RLIMIT_NOFILE, (open_files, open_files)))
        if cpu is not None:
            self._limits.append(partial(os.sched_setaffinity, 0, {cpu}))
        self._pass_fds = pass_fds
        self._follower: Follower | None = None
        self._process: subprocess.Popen[str] | None = None
        self._fresh = fresh or daemon or command is not None or program != "twistd" or bool(prefix or pass_fds)
        if command is None:
            listen = listen or [LOOPBACK.format(port=port)]
            command = self._command(prefix, program, twistd_options, options, listen, application)
        self.command = list(command)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(APPLICATIONS),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(home.temporary),
            **(environment or {}),
        }
        if not tls:
            self.without_tls()
        if preload is not None:
            self.environment["LD_PRELOAD"] = str(preload)

    def without_tls(self) -> None:
        """Have the server start without pyOpenSSL, unless a word of its command has to do with TLS."""
        if not re.search("ssl|tls|https", " ".join(self.command)):
            self.environment["PYTHONPATH"] = f"{WITHOUT_TLS}:{self.environment['PYTHONPATH']}"

    def _command(
        self,
        prefix: Sequence[str],
        program: str,
        twistd_options: Sequence[str],
        options: Sequence[str],
        listen: Sequence[str],
        application: str | None,
    ) -> list[str]:
        command = list(prefix)
        if self.home.uid != os.getuid():
            user = (f"--reuid={self.home.uid}", f"--regid={self.home.uid}")
            command += ["setpriv", *user, *UNPRIVILEGED_USER]
        command += [str(PROGRAMS / program), *twistd_options]
        if self.daemon:
            command.append(f"--logfile={self.log_file}")
        else:
            command.append("-n" if program == "twistd" else "--log-format=text")
        command.append("graceful-app")
        for endpoint in listen:
            command += ["--listen", endpoint]
        command += options
        if application is not None:
            command.append(application)
        return command

    def __enter__(self) -> Server:
        try:
            self.start()
            if self._wait_open:
                self.wait_open()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                if self.status is None:
                    self.terminate()
                    assert self.wait() == 0, f"exit status {self.status}:\n{self.log}"
                self.check_log()
        finally:
            self.kill()
            if kind is not None:
                print(f"{' '.join(self.command)}\nexit status {self.status}\n{self.log}", file=sys.stderr)

    def start(self) -> None:
        """Start the process; with `daemon`, return when the parent has ended well."""
        if self._may_fork():
            reads, writes = os.pipe()
            try:
                self.pid = _quick(self._with_tls()).start(self.command, self.home.run, self.environment, writes)
            finally:
                os.close(writes)
            self._follower = PipeFollower(os.fdopen(reads, errors="replace"), self.log)
            return
        process = self._popen()
        self._process = process
        if not self.daemon:
            self.pid = process.pid
            assert process.stdout is not None
            self._follower = PipeFollower(process.stdout, self.log)
            return
        become_subreaper()
        assert process.stdout is not None
        try:
            said, _ = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.pid = self.daemon_pid()
            raise AssertionError("the parent of the daemon hangs") from None
        assert process.returncode == 0, f"twistd ended with {process.returncode}: {said}"
        self.pid = self.daemon_pid()
        self._follower = FileFollower(self.log_file, self.log)

    def daemon_pid(self) -> int:
        """Return the daemon's process number, 0 if it has not written it."""
        pid_file = self.home.run / "twistd.pid"
        return int(pid_file.read_text()) if pid_file.exists() else 0

    def run(self, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run the command to its end instead of starting a server: for a start that must fail, or `--check`.

        :raises AssertionError: if it does not end.
        """
        with self._popen() as process:
            try:
                said, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired as hang:
                process.kill()
                raise AssertionError(f"does not end in {timeout} s: {hang.output!r}") from None
        return subprocess.CompletedProcess(self.command, process.returncode, said)

    def _may_fork(self) -> bool:
        """Whether the server can be a fork of a process that has imported what it needs."""
        if self._fresh or self._limits or self.home.uid != os.getuid():
            return False
        own = {name: value for name, value in self.environment.items() if AT_THE_START.match(name)}
        return own == _at_the_start(self._with_tls())

    def _with_tls(self) -> bool:
        """Whether it can import pyOpenSSL."""
        return not self.environment["PYTHONPATH"].startswith(f"{WITHOUT_TLS}:")

    def _popen(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command,
            cwd=self.home.run,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=self._limit if self._limits else None,  # for a function, this large process is copied
            pass_fds=self._pass_fds,
            errors="replace",
        )

    def _limit(self) -> None:
        """Set the limits of the new process, in the new process."""
        for limit in self._limits:
            limit()

    def wait_line(self, pattern: str, timeout: float = PATIENCE, count: int = 1, start: int = 0) -> re.Match[str]:
        """Wait for the `count`-th log line from number `start` on that matches, and return the match."""
        return self.log.wait(pattern, timeout, count, start)[1]

    def wait_open(self, timeout: float = PATIENCE) -> float:
        """Wait until the first listener accepts; return the moment (`time.monotonic`) it was known."""
        return self.log.wait(OPEN, timeout)[0]

    def wait_closed(self, timeout: float = 10.0) -> float:
        """Wait until the first listener is closed; return the moment (`time.monotonic`) it was known."""
        return self.log.wait(CLOSED, timeout)[0]

    @property
    def ports(self) -> list[int]:
        """The ports of its TCP listeners, in the order in which they were opened."""
        addresses = [match["address"] for _, match in self.log.find_all(OPEN)]
        return [int(address.rpartition(":")[2]) for address in addresses if address.startswith("tcp")]

    @property
    def port(self) -> int:
        """The port of its first TCP listener."""
        return self.ports[0]

    def in_flight(self, phase: str = "") -> int:
        """Ask the process what is in flight, and return how many exchanges are in a phase, such as `parked`."""
        start = len(self.log)
        self.send_signal(signal.SIGUSR2)
        count = int(self.wait_line(r"(\d+) in flight, \d+ connections", start=start)[1])
        if count:
            self.wait_line(r"^\s+exchange \d+ ", count=count, start=start)
        return len(self.log.find_all(rf"^\s+exchange \d+ .*: {phase}", start))

    def settle(self, in_flight: int = 0) -> None:
        """Wait until so many exchanges are in flight: a client has its answer before the server has noted the end.

        A test that counts what a stop finishes waits for this first, if it has been answered before the stop.

        :raises AssertionError: if it says another number for all of that time.
        """
        wait_for(lambda: self.in_flight() == in_flight)

    def drained(self) -> tuple[int, int, int]:
        """Return what the last line says: how many were finished, taken down and abandoned."""
        match = self.wait_line(DRAINED)
        return int(match["finished"]), int(match["taken_down"]), int(match["abandoned"])

    def send_signal(self, number: signal.Signals) -> float:
        """Send a signal; return the moment just before (`time.monotonic`)."""
        moment = time.monotonic()
        os.kill(self.pid, number)
        return moment

    def terminate(self) -> float:
        """Send SIGTERM; return the moment just before (`time.monotonic`)."""
        return self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for its end; return the exit status, negative for a signal.

        :raises AssertionError: if it still runs.
        """
        if self.status is None:
            pidfd = os.pidfd_open(self.pid)
            try:
                if not readable(pidfd, timeout):
                    raise AssertionError(f"process {self.pid} still runs after {timeout} s:\n{self.log}")
            finally:
                os.close(pidfd)
            self._reap()
        assert self.status is not None
        return self.status

    def stays(self, seconds: float) -> bool:
        """Whether the process is still there after so many seconds."""
        if self.status is not None:
            return False
        pidfd = os.pidfd_open(self.pid)
        try:
            return not readable(pidfd, seconds)
        finally:
            os.close(pidfd)

    def kill(self) -> None:
        """End the process at once, if it has not ended, and collect the rest of its log."""
        if self.pid and self.status is None:
            self.home.disturbed = True
            os.kill(self.pid, signal.SIGKILL)
            self._reap()

    def _reap(self) -> None:
        # Not by `Popen.wait`, to which a child that somebody else has collected is one that ended well.
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if self._process is not None:
            self._process.returncode = self.status
        if self._follower is not None:
            self._follower.process_has_ended()

    def check_log(self) -> None:
        """Assert that the log has just the tracebacks that the test expects."""
        found = self.log.find_all("Traceback|Unhandled")
        tracebacks = [match for _, match in found if match[0] == "Traceback"]
        if self.tracebacks is None:
            return
        assert len(tracebacks) == len(found) == self.tracebacks, f"expected {self.tracebacks} tracebacks:\n{self.log}"


@cache
def _quick(tls: bool) -> Quick:
    """Returns the process that becomes a server by a fork, with pyOpenSSL or without; it ends with this one."""
    become_subreaper()
    quick = Quick({**os.environ, **_at_the_start(tls)})
    atexit.register(quick.end)
    return quick


@cache
def _at_the_start(tls: bool) -> dict[str, str]:
    """Returns the variables that count while an ordinary server starts, with pyOpenSSL or without."""
    inherited = {name: value for name, value in os.environ.items() if AT_THE_START.match(name)}
    path = str(APPLICATIONS) if tls else f"{WITHOUT_TLS}:{APPLICATIONS}"
    return {**inherited, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def become_subreaper() -> None:
    """Become the parent of daemons that this process starts, to learn their exit status (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def readable(descriptor: int, seconds: float) -> bool:
    """Whether a descriptor, of any number, has something to read within that time."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(1000 * seconds))


def resident(pid: int) -> int:
    """How many bytes of memory a process has in use (proc(5), statm)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
