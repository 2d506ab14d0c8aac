"""Makes a start-up either succeed, or fail with one clear line and a non-zero status, and leave nothing behind.

twistd makes this harder than it sounds.  To become a daemon it forks, and its first process waits at a pipe for a
message from the daemon:

* The daemon's standard error is /dev/null by the time it imports the application and binds sockets.  Of an exception,
  the waiting process gets 98 ASCII characters, and shows them as a `repr`.
* A daemon that ends in any other way (`sys.exit()` in the application, a signal, a crash in an extension) sends no
  message, and the waiting process waits for ever: it holds the writing end of the pipe open itself.
* With `-n`, an exception prints a traceback.
* A signal that comes before the reactor runs either kills the process, at whatever point start-up has reached, or is
  lost.

`Startup` solves all this.  It is made while options are parsed, before the fork.  What to call, in this order:

1. In `postOptions`: ``startup = Startup(log_elsewhere=…)``, ``startup.begin()``.
2. Each step that may fail, in `makeService`, `privilegedStartService` and `startService`, runs inside
   ``with startup.step():``.  That raises nothing but `StartupError`, whose line the operator has already seen.
3. A step that creates something which must not stay behind if a later step fails, such as a pid file or a bound
   socket, registers how to remove it: ``startup.undo.callback(pidfile.remove)``.
4. By `reactor.callWhenRunning`: ``early = startup.succeeded({SIGTERM: on_term, SIGINT: on_int})``.  If `early` is not
   None, that signal came after the last step; it was kept, and the caller obeys it now.

A signal during a step ends that step, even in the middle of a long import.  A signal between two steps ends the next.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn

from twisted.logger import Logger
from twisted.python.failure import Failure

from graceful.logs.journal import ERROR, is_journal

log = Logger(namespace="graceful")


_STOPPERS: Final = (signal.SIGTERM, signal.SIGINT)


class StartupError(Exception):
    """The server cannot start.  Its text is one line: what happened, to which thing, and what to do.

    :ivar said: the operator has seen the text, so it is not printed again.
    """

    said = False


class Stopped(BaseException):
    """A signal asks the server to end while it still starts.

    It is no `Exception`, so that the application that is being imported does not catch it as an error of its own.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Terminal:
    """The operator's terminal: standard error as it was before the fork."""

    def __init__(self, stderr: int = 2) -> None:
        """Keep a copy of standard error, which is closed on exec.

        :param stderr: the descriptor of standard error; if it is not open, :meth:`say` does nothing.
        """
        self._priority = ERROR if is_journal(stderr) else ""
        try:
            self._fd = os.dup(stderr)
        except OSError:
            self._fd = -1

    def say(self, text: str) -> None:
        """Write one line to the terminal, even after the fork; do nothing if it is gone."""
        line = f"{self._priority}graceful: {' '.join(text.split())}\n"
        if self._fd >= 0:
            with suppress(OSError):
                os.write(self._fd, line.encode(errors="backslashreplace"))

    def close(self) -> None:
        """Close the terminal, since a daemon that has started must not hold it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class EarlyStop:
    """Keeps the signals that come between the parsing of options and the running reactor.  Main thread.

    SIGTERM and SIGINT end a start-up.  SIGHUP is noted, since by default it would kill.

    :ivar requested: the number of the SIGTERM or SIGINT that has come; None if none has.
    :ivar hung_up: SIGHUP has come: the supervisor or operator wants another release already.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self.hung_up = False
        self._raising = False
        self._ours: list[signal.Signals] = []

    def install(self) -> None:
        """Install the handlers.  A signal that is ignored, as under nohup(1), stays ignored."""
        for signum in _STOPPERS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._handle)
                self._ours.append(signum)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL and not os.isatty(0):
            signal.signal(signal.SIGHUP, self._hang_up)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Have a signal raise `Stopped` within the context; a signal that has come before raises it at once.

        It is raised at the end again, in case the application has swallowed it.  A signal that comes in the
        microseconds between Python's last look for signals and a system call waits for the end of that call; a second
        signal interrupts the call.
        """
        try:
            self._raising = True
            self._check()
            yield
            self._check()
        finally:
            self._raising = False

    def hand_over(self, handlers: Mapping[int, Callable[[int, FrameType | None], Any]]) -> int | None:
        """Install the handlers of the running server.

        :param handlers: the handlers of SIGTERM and SIGINT.
        :returns: the signal that has come before, for which no new handler was called; None if none has.
        """
        for signum in self._ours:
            signal.signal(signum, handlers[signum])
        self._ours = []
        return self.requested

    def default(self) -> None:
        """Let the signals kill the process, as they do by default; also one that has come already."""
        for signum in self._ours:
            signal.signal(signum, signal.SIG_DFL)
        self._ours = []
        if signal.getsignal(signal.SIGHUP) == self._hang_up:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
        if self.requested is not None:
            os.kill(os.getpid(), self.requested)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.requested = signum
        if self._raising:
            # Only once: a second signal must not interrupt the clean-up that the first one has begun.
            self._raising = False
            raise Stopped(signum)

    def _hang_up(self, signum: int, frame: FrameType | None) -> None:
        self.hung_up = True

    def _check(self) -> None:
        if self.requested is not None:
            raise Stopped(self.requested)


class WaitingParent:
    """Has twistd's first process wait until the daemon has started, and no longer than the daemon lives.

    A hook on `os.fork`, which twistd's `daemonize` calls, finds the two ends of twistd's pipe in the frame of
    `daemonize`.  If they are not there (another version of twistd, another program), the hook does nothing, and
    twistd waits as it always has.
    """

    def __init__(self, terminal: Terminal, early_stop: EarlyStop) -> None:
        self._terminal = terminal
        self._early_stop = early_stop
        self._pid = -1

    def install(self) -> None:
        """Install the hook in this process."""
        self._pid = os.getpid()
        os.register_at_fork(after_in_parent=self._after_fork)

    def disarm(self) -> None:
        """Have the hook ignore later forks, since it cannot be removed."""
        self._pid = -1

    def _after_fork(self) -> None:
        # The daemon itself forks again, and the application may fork as well.
        if os.getpid() != self._pid:
            return
        pipe = _pipe_of_daemonize(sys._getframe(1))
        if pipe is not None:
            self._wait(*pipe)

    def _wait(self, readable: int, writable: int) -> NoReturn:
        """Wait for a message from the daemon, as twistd does, but no longer than the daemon lives."""
        self._early_stop.default()
        # Once this copy is closed, the pipe ends when the daemon ends.
        os.close(writable)
        word = os.read(readable, 100)
        if word == b"0":
            os._exit(0)
        if not word:
            self._terminal.say(
                "the daemon ended while it was starting, without a word: killed, or crashed; see its log"
            )
        elif not word.startswith(b"1 " + _QUALIFIED_NAME):  # else the daemon has told the operator itself
            why = word[2:].decode("ascii", "backslashreplace")
            self._terminal.say(f"the daemon could not start: {why}; see its log")
        os._exit(1)


_QUALIFIED_NAME: Final = f"{StartupError.__module__}.{StartupError.__qualname__}".encode()


def _pipe_of_daemonize(caller: FrameType) -> tuple[int, int] | None:
    """Returns the two ends of the pipe between twistd's processes; None if the caller is not twistd's `daemonize`."""
    twistd = sys.modules.get("twisted.scripts._twistd_unix")
    daemonize = getattr(getattr(twistd, "UnixApplicationRunner", None), "daemonize", None)
    if daemonize is None or caller.f_code is not daemonize.__code__:
        return None
    readable, writable = caller.f_locals.get("r"), caller.f_locals.get("w")
    if isinstance(readable, int) and isinstance(writable, int):
        return readable, writable
    return None


class Startup:
    """One start of the server.  Main thread.

    :ivar undo: its callbacks are called in reverse order if a step fails.
    """

    def __init__(self, log_elsewhere: bool, tell: Callable[[str], object] | None = None) -> None:
        """Keep the operator's terminal open.

        :param log_elsewhere: the log goes to a file or to syslog, so a failure is told in the terminal and logged.
        :param tell: tells a failure to the process that started this one, instead of to the terminal.
        """
        self.undo = ExitStack()
        self._log_elsewhere = log_elsewhere
        self._terminal = Terminal()
        self._tell = tell
        self._early_stop = EarlyStop()
        self._parent = WaitingParent(self._terminal, self._early_stop)
        self._excepthook = sys.excepthook

    def begin(self) -> None:
        """Install the signal handlers, the hook for twistd's first process, and an `excepthook`."""
        self._early_stop.install()
        self._parent.install()
        sys.excepthook = self._print_unless_said

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run a part of start-up in this context; if it fails, undo all steps and tell the operator.

        :raises StartupError: the part has raised any exception, `SystemExit` included, or a signal has come.
        """
        try:
            with self._early_stop.raising():
                yield
        except BaseException as error:
            failure = _explain(error)
            if failure is not error:
                failure.__cause__ = error
            self._fail(failure)
            raise failure from failure.__cause__

    def succeeded(self, handlers: Mapping[int, Callable[[int, FrameType | None], Any]]) -> int | None:
        """End the start-up, since the reactor runs: release the terminal, the hooks and the signals.

        :param handlers: the handlers of SIGTERM and SIGINT from now on.
        :returns: the signal that has come since the last step; None if none has.
        """
        self._terminal.close()
        self._parent.disarm()
        sys.excepthook = self._excepthook
        self.undo.pop_all()
        return self._early_stop.hand_over(handlers)

    @property
    def hung_up(self) -> bool:
        """Whether SIGHUP has come before the server could handle it."""
        return self._early_stop.hung_up

    def _fail(self, failure: StartupError) -> None:
        if failure.said:  # in a step within this one
            return
        try:
            self.undo.close()
        except Exception:
            log.failure("trouble while undoing a start-up that has failed")
        (self._tell or self._terminal.say)(str(failure))
        failure.said = True
        if self._log_elsewhere:
            cause = failure.__cause__
            if isinstance(cause, Exception):
                log.failure("{reason}", Failure(cause), reason=failure)
            else:
                log.critical("{reason}", reason=failure)

    def _print_unless_said(
        self, kind: type[BaseException], error: BaseException, where: TracebackType | None
    ) -> None:
        if not (isinstance(error, StartupError) and error.said):
            self._excepthook(kind, error, where)


def _explain(error: BaseException) -> StartupError:
    """Returns the error that ended a step as one line for the operator."""
    if isinstance(error, StartupError):
        return error
    if isinstance(error, Stopped):
        return StartupError(f"stopped by {signal.Signals(error.signum).name} while starting")
    if isinstance(error, SystemExit):
        return StartupError(f"something called sys.exit({error.code!r}) while starting: see what was imported")
    if type(error).__module__.partition(".")[0] == __name__.partition(".")[0]:
        return StartupError(str(error))  # graceful's own exceptions are written for the operator
    place = traceback.extract_tb(error.__traceback__)[-1]
    return StartupError(f"cannot start: {type(error).__name__}: {error} ({place.filename}, line {place.lineno})")
