"""The `graceful` command: its arguments, and its messages when no server answers."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

import graceful.cli
from graceful.commands.common import VARIABLE


class CommandTestCase(SynchronousTestCase):
    """Runs the command in a directory of its own."""

    def setUp(self) -> None:
        """Make the directory, and collect what the command says."""
        self.out, self.err = io.StringIO(), io.StringIO()
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = os.path.join(self.directory, "graceful.sock")
        os.environ.pop(VARIABLE, None)

    def run_command(self, *arguments: str) -> int | str | None:
        """Run it, and return its exit status."""
        with contextlib.redirect_stdout(self.out), contextlib.redirect_stderr(self.err):
            try:
                return graceful.cli.main(arguments)
            except SystemExit as leaving:
                return leaving.code

    def one_line(self) -> str:
        """The one line that it has said to the operator."""
        text = self.err.getvalue()
        self.assertEqual(text.count("\n"), 1, text)
        self.err.seek(0)
        self.err.truncate()
        return text


class CommandLineTests(CommandTestCase):
    """The command line."""

    def test_version_is_the_one_that_a_server_reports(self) -> None:
        """--version tells the version, the one that a server reports, and those of what it runs on."""
        self.assertEqual(self.run_command("--version"), 0)
        self.assertRegex(
            self.out.getvalue(),
            rf"\Agraceful {re.escape(graceful.__version__)}, CPython 3\.\S+, Twisted [2-9]\S+, "
            r"httptools 0\.[^\s,]+(, compiled)?\n\Z",
        )

    def test_help_lists_exit_statuses(self) -> None:
        """--help tells how an instance is started, and what each exit status means."""
        self.assertEqual(self.run_command("--help"), 0)
        for word in ("twistd -n graceful-app", "status", "stop", "extend", "70", "71", "72"):
            self.assertIn(word, self.out.getvalue())

    def test_wrong_command_line_is_status_2(self) -> None:
        """Anything else fails with status 2 and one line."""
        wrong = (
            [],
            ["statu"],
            ["stop", "--wait", "never"],
            ["--nope"],
            ["extend"],
            ["extend", "nan"],
            ["takedown", "x"],
        )
        for arguments in wrong:
            self.assertEqual(self.run_command(*arguments), 2, arguments)
            self.assertIn("--help", self.one_line())
        self.assertEqual(self.out.getvalue(), "")


class ImportTests(SynchronousTestCase):
    """What a command waits for before it begins."""

    def test_orders_and_the_status_import_no_server(self) -> None:
        """A script that asks often is not kept waiting by Twisted, nor by what classes are made with."""
        modules = ", ".join(f"graceful.commands.{name}" for name in ("orders", "status", "stop"))
        program = f"import sys, graceful.cli, {modules}; sys.exit(bool({{'attr', 'twisted'}} & sys.modules.keys()))"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environment)


class BrokenPipeTests(SynchronousTestCase):
    """The reader of the output leaves."""

    def test_every_command_ends_silently_when_nothing_reads_it(self) -> None:
        """No traceback, and the status of an end by SIGPIPE, whatever the command writes, little or much."""
        for arguments in (["--help"], ["--version"], ["status", "--help"], ["deploy", "x"], ["stop"], ["status"]):
            for lines in (1, 100_000) if "help" not in str(arguments) else (1,):
                with self.subTest((arguments, lines)):
                    code = (
                        "import sys; from importlib import import_module; import graceful.cli as cli\n"
                        "def run(given):\n    print('line\\n' * int(sys.argv[1]))\n    return 0\n"
                        "cli._lazily = lambda module, name: run\n"
                        "sys.stdin.readline(); sys.exit(cli.main(sys.argv[2:]))"
                    )
                    process = subprocess.Popen(
                        [sys.executable, "-c", code, str(lines), *arguments],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                    )
                    assert process.stdout is not None
                    process.stdout.close()
                    process.stdout = None
                    _, errors = process.communicate(b"\n", 60)
                    # argparse leaves it at that if its own help cannot be written, where nothing is buffered.
                    self.assertIn(process.returncode, (141,) if "-" not in arguments[-1] else (0, 141))
                    self.assertEqual(errors, b"")


class UnreachableTests(CommandTestCase):
    """When there is no server, or something else."""

    def answer(self, serve: Callable[[socket.socket], None]) -> None:
        """Let something of ours answer at the control socket, once."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(listening.close)
        listening.bind(self.path)
        listening.listen(1)

        def run() -> None:
            connection, _ = listening.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)

    def test_stop_succeeds_without_a_server(self) -> None:
        """A server that is down has stopped already; every other command needs one."""
        for arguments in (["stop"], ["stop", "--wait", "gone"], ["wait", "closed"], ["wait", "gone"]):
            self.assertEqual(self.run_command(*arguments, "--control", self.path), 0, arguments)
        self.assertEqual(self.err.getvalue(), "")
        for arguments in (["status"], ["status", "--json"], ["leave"], ["enter"], ["takedown", "1"], ["extend", "5"]):
            self.assertEqual(self.run_command(*arguments, "--control", self.path), 2, arguments)
            self.assertEqual(self.one_line(), f"graceful: no server answers at {self.path}\n")

    def test_where_it_looks(self) -> None:
        """The command line, the environment, this directory: in that order."""
        os.environ[VARIABLE] = os.path.join(self.directory, "environment")
        self.addCleanup(os.environ.pop, VARIABLE, None)
        self.run_command("status", "--control", os.path.join(self.directory, "typed"))
        self.assertIn("/typed\n", self.one_line())
        self.run_command("status")
        self.assertIn("/environment\n", self.one_line())
        del os.environ[VARIABLE]
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.directory)
        self.run_command("status")
        name_it = "; name another control socket by --control PATH or $GRACEFUL_CONTROL\n"
        self.assertIn(f"/graceful.sock{name_it}", self.one_line())

    def test_control_may_stand_before_the_command(self) -> None:
        """Before the command or behind it, --control means the same; behind it counts if it is given twice."""
        self.run_command("--control", os.path.join(self.directory, "typed"), "status")
        self.assertIn("/typed\n", self.one_line())
        self.run_command("--control", os.path.join(self.directory, "typed"), "status", "--control", self.path)
        self.assertIn("/graceful.sock\n", self.one_line())
        self.assertEqual(self.run_command("--control", self.path, "deploy", "deploy.toml"), 2)
        self.assertIn("deploy has no --control", self.one_line())

    def test_a_stale_file(self) -> None:
        """A socket file on which no process listens is no server."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(self.path)
        self.assertEqual(self.run_command("stop", "--control", self.path), 0)
        self.assertEqual(self.run_command("status", "--control", self.path), 2)
        self.assertIn("no server answers", self.one_line())

    def test_recognises_other_servers(self) -> None:
        """A server of another protocol, or another HTTP server, is not a graceful server."""
        for said in (
            b"220 mail.example ESMTP\r\n",
            b"HTTP/1.1 200 OK\r\nServer: other\r\nContent-Length: 2\r\n\r\n{}",
        ):

            def serve(connection: socket.socket, said: bytes = said) -> None:
                connection.recv(4096)
                connection.sendall(said)

            self.answer(serve)
            self.assertEqual(self.run_command("status", "--control", self.path), 2)
            self.assertIn("is not a graceful server", self.one_line())
            os.unlink(self.path)

    def test_no_last_word_has_its_own_status(self) -> None:
        """A server that ends without a last word has a status of its own."""
        self.answer(lambda connection: connection.recv(4096) and None)
        self.assertEqual(self.run_command("stop", "--wait", "gone", "--control", self.path), 72)
        self.assertIn("without a last word", self.one_line())
