"""A start that succeeds, or ends in one line; by itself, and in a real twistd."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import Any

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

import graceful
from graceful.process.startup import EarlyStop, Startup, StartupError, Stopped, Terminal, WaitingParent

CHECKOUT = os.path.dirname(os.path.dirname(graceful.__file__))


class Case(SynchronousTestCase):
    """Signals and the excepthook are put back; the terminal is a pipe."""

    def setUp(self) -> None:
        """Note what is there, and open the pipe."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, signum, signal.getsignal(signum))
        self.patch(sys, "excepthook", sys.excepthook)
        self.read_end, self.write_end = os.pipe()
        self.addCleanup(os.close, self.read_end)
        self.terminal = Terminal(self.write_end)
        self.addCleanup(self.terminal.close)
        os.close(self.write_end)

    def said(self) -> str:
        """What the operator sees."""
        seen = b""
        while select.select([self.read_end], [], [], 0)[0]:
            piece = os.read(self.read_end, 4096)
            seen += piece
            if not piece:
                break
        return seen.decode()


class TerminalTests(Case):
    """The copy of standard error."""

    def test_writes_one_line(self) -> None:
        """Whatever the text holds, it is one line, and tells whose it is."""
        self.terminal.say("cannot listen on tcp:80:\n  port 80 is in use \N{BLACK HEART SUIT}\n")
        self.assertEqual(self.said(), "graceful: cannot listen on tcp:80: port 80 is in use \u2665\n")

    def test_is_closed_on_exec(self) -> None:
        """Programs that the application starts do not hold the operator's terminal."""
        self.assertFalse(os.get_inheritable(self.terminal._fd))

    def test_can_be_closed(self) -> None:
        """A daemon that has started does not hold the terminal; to say something is then harmless."""
        self.terminal.close()
        self.terminal.close()
        self.assertEqual(os.read(self.read_end, 1), b"")
        self.terminal.say("to nobody")

    def test_writes_nothing_without_a_terminal(self) -> None:
        """Without standard error, and with one that is gone, nothing is said and nothing fails."""
        Terminal(stderr=10_000).say("to nobody")
        read_end, write_end = os.pipe()
        terminal = Terminal(write_end)
        os.close(write_end)
        os.close(read_end)
        terminal.say("to nobody")
        terminal.close()


class EarlyStopTests(Case):
    """Signals before the reactor runs."""

    def setUp(self) -> None:
        """Take the signals."""
        super().setUp()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.early = EarlyStop()
        self.early.install()

    def test_a_signal_raises_within_a_step(self) -> None:
        """Inside a step a signal raises what no `except Exception` catches, at once."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            early = EarlyStop()
            early.install()
            reached = []
            with self.assertRaises(Stopped) as caught, early.raising():
                try:
                    os.kill(os.getpid(), signum)
                    reached.append("the next statement")
                except Exception:
                    reached.append("the handler of an application")
            self.assertEqual((caught.exception.signum, reached), (signum, []))

    def test_a_swallowed_signal_still_ends_the_step(self) -> None:
        """If an application catches everything, the step ends it all the same."""

        def application() -> None:
            with self.early.raising():
                try:
                    os.kill(os.getpid(), signal.SIGTERM)
                except BaseException:
                    pass

        self.assertRaises(Stopped, application)

    def test_a_signal_between_steps_ends_the_next(self) -> None:
        """Between steps a signal breaks into nothing, and ends the next step before it begins."""
        os.kill(os.getpid(), signal.SIGTERM)
        self.assertEqual(self.early.requested, signal.SIGTERM)
        reached = []

        def step() -> None:
            with self.early.raising():
                reached.append("the step")

        self.assertRaises(Stopped, step)
        os.kill(os.getpid(), signal.SIGINT)
        self.assertEqual(reached, [])

    def test_a_second_signal_does_not_interrupt(self) -> None:
        """A second signal does not break into what the first one has set going."""
        cleaned = []

        def step() -> None:
            with self.early.raising():
                try:
                    os.kill(os.getpid(), signal.SIGTERM)
                finally:
                    os.kill(os.getpid(), signal.SIGTERM)
                    cleaned.append("up")

        self.assertRaises(Stopped, step)
        self.assertEqual(cleaned, ["up"])

    def test_hands_over_an_earlier_signal(self) -> None:
        """Those who come after get the signals; one that came before is told to them."""
        got: list[int] = []
        handlers = {
            signal.SIGTERM: lambda signum, frame: got.append(signum),
            signal.SIGINT: lambda signum, frame: got.append(-signum),
        }
        os.kill(os.getpid(), signal.SIGINT)
        self.assertEqual(self.early.hand_over(handlers), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        self.assertEqual(got, [signal.SIGTERM, -signal.SIGINT])
        other = EarlyStop()
        other.install()
        self.assertEqual(other.hand_over(handlers), None)

    def test_leaves_ignored_signals_ignored(self) -> None:
        """A signal that is ignored, as under nohup(1), stays so for good."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        early = EarlyStop()
        early.install()
        self.assertEqual(signal.getsignal(signal.SIGINT), signal.SIG_IGN)
        nothing = {signal.SIGTERM: lambda *args: None, signal.SIGINT: lambda *args: None}
        early.hand_over(nothing)
        self.assertEqual(signal.getsignal(signal.SIGINT), signal.SIG_IGN)

    def test_default_lets_signals_kill(self) -> None:
        """Where they shall kill again, they do; also one that has come already."""
        for early_signal in (None, signal.SIGTERM):
            pid = os.fork()
            if not pid:
                if early_signal is not None:
                    os.kill(os.getpid(), early_signal)
                self.early.default()
                os.kill(os.getpid(), signal.SIGINT)
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            self.assertEqual(os.WTERMSIG(status), early_signal or signal.SIGINT)


class StartupTests(Case):
    """Steps."""

    def setUp(self) -> None:
        """Begin a start in a terminal that the test reads; no process waits for a fork of this one."""
        super().setUp()
        self.patch(WaitingParent, "install", lambda self: None)
        self.printed: list[BaseException] = []
        sys.excepthook = lambda kind, error, where: self.printed.append(error)
        self.startup = self.begun()

    def begun(self, log_elsewhere: bool = False) -> Startup:
        """A start that has begun."""
        made = Startup(log_elsewhere)
        made._terminal.close()
        made._terminal = self.terminal
        made.begin()
        return made

    def failing(self, error: BaseException, startup: Startup | None = None) -> StartupError:
        """Let a step fail, and return what it raises."""

        def step() -> None:
            with (startup or self.startup).step():
                raise error

        raised = self.assertRaises(StartupError, step)
        assert isinstance(raised, StartupError)
        self.assertTrue(raised.said)
        return raised

    def test_success_is_silent(self) -> None:
        """A step that succeeds says nothing."""
        with self.startup.step():
            pass
        self.assertEqual(self.said(), "")

    def test_tells_a_startup_error_in_full(self) -> None:
        """The line is said in full, however long, and the error goes on to twistd."""
        error = StartupError("cannot listen on tcp:80: " + "x" * 300)
        self.assertIs(self.failing(error), error)
        self.assertEqual(self.said(), f"graceful: {error}\n")

    def test_tells_our_own_errors_as_they_are(self) -> None:
        """Errors that are written for the operator are said as they are."""
        from graceful.sockets.binding import BindError

        self.failing(BindError("cannot listen on tcp:80: port 80 is in use"))
        self.assertEqual(self.said(), "graceful: cannot listen on tcp:80: port 80 is in use\n")

    def test_tells_what_and_where_of_other_errors(self) -> None:
        """Of any other error the line tells what and where."""
        cause = KeyError("DATABASE_URL")
        raised = self.failing(cause)
        self.assertIs(raised.__cause__, cause)
        self.assertRegex(self.said(), r"^graceful: cannot start: KeyError: 'DATABASE_URL' \(.*test_.*, line \d+\)\n$")

    def test_reports_sys_exit(self) -> None:
        """An application that ends the process, which twistd would never hear of, is an error like others."""
        self.failing(SystemExit("no settings"))
        self.assertIn("sys.exit('no settings')", self.said())

    def test_reports_a_signal(self) -> None:
        """A signal during a step is one, too."""

        def step() -> None:
            with self.startup.step():
                os.kill(os.getpid(), signal.SIGTERM)

        self.assertRaises(StartupError, step)
        self.assertEqual(self.said(), "graceful: stopped by SIGTERM while starting\n")

    def test_undoes_in_reverse_order_once(self) -> None:
        """What earlier steps have left is undone, the last first, before the operator is told; once only."""
        undone: list[Any] = []
        self.startup.undo.callback(lambda: undone.append(("first", self.said())))
        with self.startup.step():
            self.startup.undo.callback(undone.append, "second")
        self.failing(StartupError("no"))
        self.assertEqual(undone, ["second", ("first", "")])
        self.failing(StartupError("again"))
        self.assertEqual(len(undone), 2)

    def test_logs_errors_while_undoing(self) -> None:
        """Trouble while undoing is logged, and the operator is told the reason for it all."""
        self.startup.undo.callback(lambda: 1 // 0)
        self.failing(StartupError("no"))
        self.assertEqual(self.said(), "graceful: no\n")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_does_not_repeat_an_inner_step(self) -> None:
        """What an inner step has said, the outer one does not say again."""

        def step() -> None:
            with self.startup.step(), self.startup.step():
                raise StartupError("once")

        self.assertRaises(StartupError, step)
        self.assertEqual(self.said(), "graceful: once\n")

    def test_logs_elsewhere_with_the_cause(self) -> None:
        """If the log goes elsewhere, it gets the line, with the traceback of what is behind it."""
        with capturedLogs() as events:
            self.failing(StartupError("not logged"))
        self.assertEqual(events, [])
        elsewhere = self.begun(log_elsewhere=True)
        with capturedLogs() as events:
            self.failing(StartupError("plain"), elsewhere)
            self.failing(ValueError("odd"), elsewhere)
        self.assertEqual(formatEvent(events[0]), "plain")
        self.assertIn("ValueError: odd", formatEvent(events[1]))
        self.assertIsInstance(events[1]["log_failure"].value, ValueError)
        self.flushLoggedErrors(ValueError)

    def test_prints_only_errors_not_yet_told(self) -> None:
        """An error that was said is not printed again; any other is."""
        said, unsaid, other = StartupError("said"), StartupError("unsaid"), ValueError()
        self.failing(said)
        for error in (said, unsaid, other):
            sys.excepthook(type(error), error, None)
        self.assertEqual(self.printed, [unsaid, other])

    def test_succeeded_lets_everything_go(self) -> None:
        """When the reactor runs, all is let go: terminal, excepthook, signals, and what was to be undone."""
        got: list[int] = []
        undone: list[str] = []
        self.startup.undo.callback(undone.append, "no")
        os.kill(os.getpid(), signal.SIGINT)
        handlers = {signum: lambda signum, frame: got.append(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
        self.assertEqual(self.startup.succeeded(handlers), signal.SIGINT)
        self.assertEqual(os.read(self.read_end, 1), b"")
        os.kill(os.getpid(), signal.SIGTERM)
        self.assertEqual(got, [signal.SIGTERM])
        error = StartupError("later")
        error.said = True
        sys.excepthook(StartupError, error, None)
        self.startup.undo.close()
        self.assertEqual((self.printed, undone), ([error], []))


PLUGIN = """
from twisted.application.service import ServiceMaker
throw_away = ServiceMaker("throw-away", "throw_away", "for a test", "throw-away")
"""

SERVICE = """
import os, signal, sys, time
from twisted.application.service import Service
from twisted.python import usage
from graceful.process.pidfile import PidFile
from graceful.process.startup import Startup, StartupError


class Options(usage.Options):
    def parseArgs(self, code):
        self.code = code

    def postOptions(self):
        self.pid_file = PidFile(self.parent["pidfile"])
        self.parent["pidfile"] = ""
        self.startup = Startup(log_elsewhere=not self.parent["nodaemon"])
        self.startup.begin()


class ThrowAway(Service):
    def privilegedStartService(self):
        with self.options.startup.step():
            self.options.pid_file.write()
            self.options.startup.undo.callback(self.options.pid_file.remove)

    def startService(self):
        with self.options.startup.step():
            exec(self.options.code, globals())


def makeService(options):
    service = ThrowAway()
    service.options = options
    return service
"""

WAIT = """
try:
    with open('started', 'w') as file:
        file.write(str(os.getpid()))
    time.sleep(60)
    os._exit(9)
except Exception:
    pass
"""


class TwistdTests(SynchronousTestCase):
    """A service that does not start, in a real twistd, in the foreground and as a daemon.

    Of a stock twistd some of these would wait for ever.
    """

    def setUp(self) -> None:
        """Make the plugin."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        plugins = os.path.join(self.directory, "twisted", "plugins")
        os.makedirs(plugins)
        self.put(os.path.join(plugins, "throw_away_plugin.py"), PLUGIN)
        self.put(os.path.join(self.directory, "throw_away.py"), SERVICE)
        self.rundir = os.path.join(self.directory, "run")
        os.mkdir(self.rundir)

    def put(self, path: str, text: str) -> None:
        """Write a file."""
        with open(path, "w") as file:
            file.write(text)

    def start(self, code: str, daemon: bool) -> subprocess.Popen[str]:
        """Start a twistd whose service runs this code when it starts."""
        command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
        return subprocess.Popen(
            [*command, *([] if daemon else ["-n"]), "throw-away", code],
            cwd=self.rundir,
            env={**os.environ, "PYTHONPATH": f"{self.directory}:{CHECKOUT}:{os.environ.get('PYTHONPATH', '')}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, started: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
        """Wait for its end: its status, what the terminal has of its standard error, and the files left."""
        try:
            _, errors = started.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            started.kill()
            started.communicate()
            raise AssertionError("twistd hangs") from None
        files = [name for name in sorted(os.listdir(self.rundir)) if name != "started"]
        return started.returncode, errors, files

    def wait_until_started(self) -> int:
        """Wait until the service's code runs, and return the pid of the process that it runs in."""
        path = os.path.join(self.rundir, "started")
        text = ""
        for _ in range(1000):
            if os.path.exists(path):
                with open(path) as file:
                    text = file.read()
            if text:
                break
            select.select([], [], [], 0.02)
        return int(text)

    def test_tells_one_line_and_exits_with_1(self) -> None:
        """What the service says is the one line in the terminal, in full; the status is 1, no pid file is left."""
        line = "cannot listen on tcp:80: " + "x" * 200
        for daemon, files in ((False, []), (True, ["twistd.log"])):
            ended = self.end(self.start(f"raise StartupError({line!r})", daemon))
            self.assertEqual(ended, (1, f"graceful: {line}\n", files))

    def test_reports_sys_exit(self) -> None:
        """An application that calls sys.exit() ends the start, too, and in a daemon is not waited for."""
        for daemon in (False, True):
            status, errors, files = self.end(self.start("sys.exit('no settings')", daemon))
            self.assertEqual((status, errors.count("\n")), (1, 1))
            self.assertIn("no settings", errors)
            self.assertNotIn("twistd.pid", files)

    def test_does_not_wait_for_a_killed_daemon(self) -> None:
        """A daemon that dies without a word is not waited for, and the terminal tells."""
        status, errors, _ = self.end(self.start("os.kill(os.getpid(), signal.SIGKILL)", daemon=True))
        self.assertEqual((status, errors.count("\n")), (1, 1))
        self.assertIn("without a word", errors)

    def test_tells_errors_outside_steps(self) -> None:
        """An error outside our steps is told by the waiting process, in one line as well."""
        without_step = SERVICE.replace(
            "with self.options.startup.step():\n            exec", "if True:\n            exec"
        )
        self.assertNotEqual(without_step, SERVICE)
        self.put(os.path.join(self.directory, "throw_away.py"), without_step)
        status, errors, _ = self.end(self.start("raise ValueError('odd')", daemon=True))
        self.assertEqual((status, errors.count("\n")), (1, 1))
        self.assertIn("ValueError: odd", errors)

    def test_sigterm_ends_a_start(self) -> None:
        """SIGTERM in the middle of a start ends it, though the application catches what it can."""
        for daemon in (False, True):
            started = self.start(WAIT, daemon)
            os.kill(self.wait_until_started(), signal.SIGTERM)
            status, errors, files = self.end(started)
            self.assertEqual((status, errors), (1, "graceful: stopped by SIGTERM while starting\n"))
            self.assertNotIn("twistd.pid", files)
            os.unlink(os.path.join(self.rundir, "started"))

    def test_a_signal_kills_the_waiting_process(self) -> None:
        """The process that only waits for the daemon dies of a signal as any program."""
        started = self.start(WAIT, daemon=True)
        daemon = self.wait_until_started()
        started.send_signal(signal.SIGTERM)
        self.assertEqual(started.wait(30), -signal.SIGTERM)
        os.kill(daemon, signal.SIGTERM)
        self.end(started)

    def test_reports_a_started_daemon_at_once(self) -> None:
        """A daemon that starts is reported at once, with nothing in the terminal."""
        started = self.start("open('started', 'w').write(str(os.getpid()))", daemon=True)
        status = started.wait(30)
        daemon = self.wait_until_started()
        os.kill(daemon, signal.SIGKILL)
        self.assertEqual((status, self.end(started)[1]), (0, ""))
