"""A program that this process starts, and that becomes a child of process 1.

systemd waits for the end of a unit's main process only if that process is a child of its own when it is named;
otherwise a stop kills it at once, and its crash goes unnoticed.  So a successor must lose its parent before that.

A launcher starts it, a small Python process between the two.  It is the program's parent, and reports how the program
ends, until this process lets go of it; then the launcher exits, and process 1, or the nearest subreaper (prctl(2)),
adopts the program.

    this process ── launcher ── program          this process          process 1 ── program
                                         let_go
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

#: Seconds that a launcher has to exit when it is told to.
EXITS_IN: Final = 1.0

#: The launcher says `pid N`, then `ended STATUS`; or `failed ERRNO`.  Only SIGKILL ends it: a signal to all processes
#: of a service is meant for the program, whose end is reported.  Signals that Python handles or ignores are at their
#: defaults again in the program; what was ignored before stays ignored.
LAUNCHER: Final = """
import os, select, signal, sys

def tell(text):
    try:
        os.write(line, text.encode())
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os._exit(1)

line, program, pid = int(sys.argv[1]), sys.argv[2:], 0
os.set_inheritable(line, False)
woken, wake = os.pipe()
os.set_blocking(wake, False)
for one in ("CHLD", "TERM", "INT", "HUP", "QUIT", "USR1", "USR2"):
    number = getattr(signal, "SIG" + one)
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda number, frame: None)
signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
try:
    pid = os.posix_spawnp(program[0], program, os.environ, setsigdef=(signal.SIGPIPE, signal.SIGXFSZ))
except OSError as error:
    os.write(line, f"failed {error.errno}\\n".encode())
    os._exit(1)
tell(f"pid {pid}\\n")
poll = select.poll()
for one in (line, woken):
    poll.register(one, select.POLLIN)
while all(one != line for one, event in poll.poll()):
    os.read(woken, 4096)
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
        tell(f"ended {os.waitstatus_to_exitcode(status)}\\n")
        break
os._exit(0)
"""


class OrphanListener(Protocol):
    """Learns what becomes of a program.  Reactor thread."""

    def started(self, orphan: Orphan) -> None:
        """The program runs; its pid is known."""

    def not_started(self, orphan: Orphan, error: OSError) -> None:
        """The program cannot be started."""

    def ended(self, orphan: Orphan, status: int) -> None:
        """The program has ended, with this exit status; negative for a signal.  Not called once it is let go of."""


@implementer(IReadDescriptor)
class Orphan:
    """A program that is being started.  Reactor thread.

    :ivar pid: its process number; 0 as long as it is not known.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        program: Sequence[str],
        directory: str,
        environment: Mapping[str, str],
        listener: OrphanListener,
        spawn: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
        pidfd_open: Callable[[int], int] = os.pidfd_open,
        interpreter: str = getattr(sys, "_base_executable", None) or sys.executable,
    ) -> None:
        """Start the launcher.

        :param program: the command line.
        :param listener: is told of what happens afterwards.
        :param spawn: as :class:`subprocess.Popen`.
        :param pidfd_open: as :func:`os.pidfd_open`; where the kernel has none, the pid itself is used.
        :param interpreter: runs the launcher; not that of a virtual environment, which may be removed with an old
            release.
        :raises OSError: it cannot be started.
        """
        self.pid = 0
        self._reactor = reactor
        self._listener = listener
        self._pidfd_open = pidfd_open
        self._process = -1  # a descriptor of the program
        self._to_be_killed = False
        self._pending = b""
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._launcher = spawn(
                    [interpreter, "-I", "-S", "-c", LAUNCHER, str(theirs.fileno()), *program],
                    cwd=directory,
                    env=environment,
                    close_fds=True,
                    pass_fds=(theirs.fileno(),),
                )
            except BaseException:
                self._socket.close()
                raise
        self._socket.setblocking(False)
        reactor.addReader(self)

    def fileno(self) -> int:
        """Return a descriptor that is readable when the launcher says something.  For the reactor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Return the name that the reactor logs.  For the reactor."""
        return "successor"

    def doRead(self) -> None:
        """Read what the launcher says.  For the reactor."""
        try:
            said = self._socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        *lines, self._pending = (self._pending + said).split(b"\n")
        for line in lines:
            self._heard(*line.split())
        if not said and self._socket.fileno() >= 0:
            self._lost()

    def _heard(self, word: bytes, number: bytes) -> None:
        if word == b"pid":
            self.pid = int(number)
            with suppress(OSError):
                self._process = self._pidfd_open(self.pid)
            self._listener.started(self)
            if self._to_be_killed:
                self.kill()
        elif word == b"failed":
            self._forget()
            self._listener.not_started(self, OSError(int(number), os.strerror(int(number))))
        elif word == b"ended":
            self._forget()
            self._listener.ended(self, int(number))

    def _lost(self) -> None:
        """The launcher has ended without a word: how the program ends cannot be known any more."""
        self.kill()
        self._forget()
        if self.pid:
            self._listener.ended(self, -signal.SIGKILL)
        else:
            why = f"its launcher has ended with exit status {self._launcher.returncode}"
            self._listener.not_started(self, OSError(errno.ECHILD, why))

    def connectionLost(self, reason: Failure) -> None:
        """Let go: the reactor is shutting down.  For the reactor."""
        self._forget()

    def kill(self) -> None:
        """Kill the program (SIGKILL), as soon as its pid is known."""
        self._to_be_killed = True
        with suppress(ProcessLookupError):
            if self._process >= 0:
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            elif self.pid and self._socket.fileno() >= 0:
                os.kill(self.pid, signal.SIGKILL)

    def let_go(self) -> None:
        """Make the program a child of process 1: it is when this returns, usually within a millisecond."""
        with suppress(OSError):
            self._socket.send(b".")  # a process that the application has forked may have a copy of the socket
        self._forget()

    def _forget(self) -> None:
        """Close the line, at which the launcher exits."""
        if self._socket.fileno() < 0:
            return
        self._reactor.removeReader(self)
        self._socket.close()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1
        try:
            self._launcher.wait(EXITS_IN)
        except subprocess.TimeoutExpired:
            self._launcher.kill()
