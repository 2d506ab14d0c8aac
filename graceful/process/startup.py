"""Start-up that either succeeds, or ends in one clear line and a status that is not zero, with nothing left.

twistd makes this harder than it sounds.  To become a daemon it forks, and its first process waits at a pipe
for word from the daemon:

* The daemon's standard error is /dev/null by the time it imports the application and binds sockets.  Of an
  exception, the waiting process gets 98 ASCII characters, and shows them as a `repr`.
* A daemon that ends in any other way (`sys.exit()` in the application, a signal, a crash in an extension)
  sends no word, and the waiting process waits for ever: it holds the writing end of the pipe open itself.
* With `-n`, an exception prints a traceback.
* A signal that comes before the reactor runs kills, at whatever point start-up has reached, or is lost.

`Startup` is made while options are parsed, before the fork, and sees to all this.  What to call, in this
order:

1. In `postOptions`: ``startup = Startup(log_elsewhere=…)``, ``startup.begin()``.
2. Whatever may fail, in `makeService`, `privilegedStartService` and `startService`, happens in
   ``with startup.step():``.  It raises nothing but `StartupError`, with the line already said.
3. What must not stay behind if a later step fails, such as a pid file or a bound socket, is noted on the way:
   ``startup.undo.callback(pidfile.remove)``.
4. By `reactor.callWhenRunning`: ``early = startup.succeeded({SIGTERM: on_term, SIGINT: on_int})``.  If
   `early` is not None, that signal came after the last step; it was kept and is to be obeyed now.

A signal during a step ends that step, be it in the middle of a long import.  One between steps ends the next.
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

log = Logger(namespace="graceful")


_STOPPERS: Final = (signal.SIGTERM, signal.SIGINT)


class StartupError(Exception):
    """The server cannot start.  Its text is one line: what happened, to which thing, and what to do.

    :ivar said: whether the operator has been told, so that it is not printed again.
    """

    said = False


class Stopped(BaseException):
    """A signal asks for the end while the server still starts.

    Not an `Exception`: the application being imported must not catch it as one of its own errors.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Terminal:
    """The operator's terminal: standard error as it was before the fork."""

    def __init__(self, stderr: int = 2) -> None:
        """Keep a copy of standard error, closed on exec.

        :param stderr: its descriptor; without one, nothing is ever said.
        """
        try:
            self._fd = os.dup(stderr)
        except OSError:
            self._fd = -1

    def say(self, text: str) -> None:
        """Write one line to the terminal, even after the fork; do nothing if it is gone."""
        line = f"graceful: {' '.join(text.split())}\n"
        if self._fd >= 0:
            with suppress(OSError):
                os.write(self._fd, line.encode(errors="backslashreplace"))

    def close(self) -> None:
        """Let go of the terminal: a daemon that has started must not hold it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class EarlyStop:
    """SIGTERM and SIGINT, from the time options are parsed until the reactor runs; and SIGHUP, which would kill.

    :ivar requested: the number of the signal that has come, None if none has.  Main thread only, as is all
        here.
    :ivar hung_up: SIGHUP has come: the supervisor or operator wants another release already.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self.hung_up = False
        self._raising = False
        self._ours: list[signal.Signals] = []

    def install(self) -> None:
        """Take the signals.  One that is ignored, as under nohup(1), stays ignored."""
        for signum in _STOPPERS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._handle)
                self._ours.append(signum)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL and not os.isatty(0):
            signal.signal(signal.SIGHUP, self._hang_up)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """While this lasts, a signal raises `Stopped`; one that has come before does so at once.

        At the end as well, in case the application has swallowed it.  One that comes in the microseconds between
        Python's last look for signals and a system call waits for the end of that call; a second one breaks it off.
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

        :param handlers: for SIGTERM and SIGINT.
        :returns: the signal that has come meanwhile; none of the new handlers was called for it.
        """
        for signum in self._ours:
            signal.signal(signum, handlers[signum])
        self._ours = []
        return self.requested

    def default(self) -> None:
        """Let the signals kill, as they do by default, also one that has come already."""
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
            # Once only: another one must not break into what the first has set going.
            self._raising = False
            raise Stopped(signum)

    def _hang_up(self, signum: int, frame: FrameType | None) -> None:
        self.hung_up = True

    def _check(self) -> None:
        if self.requested is not None:
            raise Stopped(self.requested)


class WaitingParent:
    """twistd's first process, which waits until the daemon says that it has started.

    It is reached by a hook on `os.fork`, called by twistd's `daemonize`, in whose frame the two ends of its
    pipe are found.  Where these are not (another version of twistd, another program), nothing is done, and
    twistd waits as it always has.
    """

    def __init__(self, terminal: Terminal, early_stop: EarlyStop) -> None:
        self._terminal = terminal
        self._early_stop = early_stop
        self._pid = -1

    def install(self) -> None:
        """Be called after this process has forked."""
        self._pid = os.getpid()
        os.register_at_fork(after_in_parent=self._after_fork)

    def disarm(self) -> None:
        """Do nothing after later forks: a hook cannot be removed."""
        self._pid = -1

    def _after_fork(self) -> None:
        # The daemon itself forks once more, and the application may fork as well.
        if os.getpid() != self._pid:
            return
        pipe = _pipe_of_daemonize(sys._getframe(1))
        if pipe is not None:
            self._wait(*pipe)

    def _wait(self, readable: int, writable: int) -> NoReturn:
        """Wait for word from the daemon, as twistd does, but not for longer than there is one."""
        self._early_stop.default()
        # Without this copy, the pipe ends when the daemon does.
        os.close(writable)
        word = os.read(readable, 100)
        if word == b"0":
            os._exit(0)
        if not word:
            self._terminal.say(
                "the daemon ended while it was starting, without a word: killed, or crashed; see its log"
            )
        elif not word.startswith(b"1 " + _QUALIFIED_NAME):  # the daemon has said all of that itself
            why = word[2:].decode("ascii", "backslashreplace")
            self._terminal.say(f"the daemon could not start: {why}; see its log")
        os._exit(1)


_QUALIFIED_NAME: Final = f"{StartupError.__module__}.{StartupError.__qualname__}".encode()


def _pipe_of_daemonize(caller: FrameType) -> tuple[int, int] | None:
    """Return the two ends of the pipe between twistd's processes, if it is twistd that becomes a daemon here."""
    twistd = sys.modules.get("twisted.scripts._twistd_unix")
    daemonize = getattr(getattr(twistd, "UnixApplicationRunner", None), "daemonize", None)
    if daemonize is None or caller.f_code is not daemonize.__code__:
        return None
    readable, writable = caller.f_locals.get("r"), caller.f_locals.get("w")
    if isinstance(readable, int) and isinstance(writable, int):
        return readable, writable
    return None


class Startup:
    """One start of the server.  Main thread only.

    :ivar undo: called in reverse order if a step fails.
    """

    def __init__(self, log_elsewhere: bool, tell: Callable[[str], object] | None = None) -> None:
        """Keep hold of the operator's terminal.

        :param log_elsewhere: the log goes to a file or to syslog, so that what is said in the terminal has to
            be written there as well.
        :param tell: reports a failure to the process that started this one, instead of the terminal.
        """
        self.undo = ExitStack()
        self._log_elsewhere = log_elsewhere
        self._terminal = Terminal()
        self._tell = tell
        self._early_stop = EarlyStop()
        self._parent = WaitingParent(self._terminal, self._early_stop)
        self._excepthook = sys.excepthook

    def begin(self) -> None:
        """Take the signals, the waiting of twistd's first process, and the printing of what ends this one."""
        self._early_stop.install()
        self._parent.install()
        sys.excepthook = self._print_unless_said

    @contextmanager
    def step(self) -> Iterator[None]:
        """Surround a part of start-up; it succeeds, or all that was done is undone and the operator is told.

        :raises StartupError: for everything that was raised inside, `SystemExit` included, and for a signal.
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
        """Let go of everything: the reactor runs.

        :param handlers: for SIGTERM and SIGINT from now on.
        :returns: the signal that has come since the last step, None if none has.
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
    """Return the error that ended a step as one line for the operator."""
    if isinstance(error, StartupError):
        return error
    if isinstance(error, Stopped):
        return StartupError(f"stopped by {signal.Signals(error.signum).name} while starting")
    if isinstance(error, SystemExit):
        return StartupError(f"something called sys.exit({error.code!r}) while starting: see what was imported")
    if type(error).__module__.partition(".")[0] == __name__.partition(".")[0]:
        return StartupError(str(error))  # one of our own: written for the operator
    place = traceback.extract_tb(error.__traceback__)[-1]
    return StartupError(f"cannot start: {type(error).__name__}: {error} ({place.filename}, line {place.lineno})")
