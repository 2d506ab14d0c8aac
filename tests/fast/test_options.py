"""The command line and the settings: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from typing import Any, cast

import attrs
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

import graceful.config.settings
import graceful.options
from graceful.config.option_table import GROUPS
from graceful.config.settings import BadSetting, Settings, half_of_open_files
from graceful.config.values import Limit
from graceful.options import Options


class Startup:
    """Stands for what takes signals and the terminal: a test keeps its own.

    :ivar log_elsewhere: as it was told.
    :ivar begun: whether it would have taken them.
    """

    def __init__(self, log_elsewhere: bool, tell: object = None) -> None:
        self.log_elsewhere = log_elsewhere
        self.begun = False

    def begin(self) -> None:
        """Take nothing."""
        self.begun = True


class OptionsTestCase(SynchronousTestCase):
    """Parses command lines."""

    def setUp(self) -> None:
        """Have a directory of our own, and leave this process's signals alone."""
        self.patch(graceful.options, "Startup", Startup)
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)

    def inside(self, *names: str) -> str:
        """A path in the directory."""
        return os.path.join(self.directory, *names)

    def parsed(self, *arguments: str, parent: dict[str, Any] | None = None) -> Options:
        """Options that have parsed a command line, as a part of twistd's if a parent is given."""
        options = Options()
        if parent is not None:
            options.parent = usage.Options()
            options.parent.update(parent)
        options.parseOptions(list(arguments))
        return options


class AcceptedTests(OptionsTestCase):
    """What can be typed, and what it means."""

    def test_an_empty_command_line_gives_the_defaults(self) -> None:
        """An empty command line gives the settings' own defaults, the demo, and serving."""
        options = self.parsed()
        self.assertEqual(options.settings, Settings())
        self.assertIsNone(options.application)
        self.assertFalse(options.check)

    def test_the_defaults_that_people_rely_on(self) -> None:
        """The documented defaults are what they are documented to be."""
        settings = Settings()
        self.assertEqual(settings.listen, ("tcp:8080",))
        self.assertEqual((settings.threads, settings.queue), (20, 1000))
        self.assertEqual((settings.deadline, settings.idle_grace), (200, 10))
        self.assertEqual((settings.keep_alive, settings.header_timeout, settings.send_timeout), (75, 20, 60))
        self.assertEqual(settings.max_body, 1024**3)
        self.assertEqual((settings.trusted_proxy, settings.access_log), ((), None))
        self.assertTrue(os.path.isdir(settings.spool))

    def test_numbers_and_seconds_are_taken_as_typed(self) -> None:
        """Whole numbers and seconds, also fractions of one, are taken as they are typed."""
        settings = self.parsed(
            *("--threads", "3", "--queue", "0", "--max-connections", "7", "--deadline", "0"),
            *("--idle-grace", "0.25", "--keep-alive", "2", "--header-timeout", "1.5", "--send-timeout", "9"),
        ).settings
        self.assertEqual((settings.threads, settings.queue, settings.max_connections), (3, 0, 7))
        self.assertEqual((settings.deadline, settings.idle_grace, settings.keep_alive), (0, 0.25, 2))
        self.assertEqual((settings.header_timeout, settings.send_timeout), (1.5, 9))

    def test_a_size_may_have_a_suffix(self) -> None:
        """A size is in bytes, or has a suffix in either case that multiplies by powers of 1,024."""
        for text, size in {"10": 10, "2K": 2048, "3M": 3 << 20, "4G": 4 << 30, "5m": 5 << 20}.items():
            self.assertEqual(self.parsed("--max-body", text).settings.max_body, size)

    def test_listen_is_repeatable(self) -> None:
        """Every --listen adds an endpoint, in order, and the default one is then not used."""
        options = self.parsed("--listen", "tcp:8001:interface=127.0.0.1", "--listen", "unix:/run/site.socket")
        self.assertEqual(options.settings.listen, ("tcp:8001:interface=127.0.0.1", "unix:/run/site.socket"))

    def test_trusted_proxy_is_repeatable(self) -> None:
        """Networks, single addresses and the word unix can be trusted."""
        networks = ("10.0.0.0/8", "::1", "192.0.2.1", "unix")
        typed = [word for network in networks for word in ("--trusted-proxy", network)]
        self.assertEqual(self.parsed(*typed).settings.trusted_proxy, networks)

    def test_request_timeouts_keep_their_order(self) -> None:
        """Limits for all and for some, also to be tried out; the order is kept."""
        typed = ("30", "/api=2.5", "/slow=100:report", "9:report", "/a=b=1")
        options = [word for limit in typed for word in ("--request-timeout", limit)]
        limits = (Limit(30), Limit(2.5, "/api"), Limit(100, "/slow", True), Limit(9, "", True), Limit(1, "/a=b"))
        self.assertEqual(self.parsed(*options).settings.request_timeout, limits)

    def test_the_options_of_reports_are_taken(self) -> None:
        """Where reports go, of what, and what they do not show."""
        hidden = ("--report-hide", "token", "--report-hide", "X-Key")
        settings = self.parsed("--reports", os.curdir, "--report-slower-than", "2.5", *hidden).settings
        self.assertEqual(settings.reports, os.path.abspath(os.curdir))
        self.assertEqual((settings.report_slower_than, settings.report_hide), (2.5, ("token", "X-Key")))
        self.assertEqual((self.parsed().settings.reports, self.parsed().settings.report_slower_than), (None, None))

    def test_the_application_is_a_module_with_or_without_a_callable(self) -> None:
        """The positional argument names a module, and perhaps a callable in it."""
        self.assertEqual(self.parsed("mysite.wsgi").application, "mysite.wsgi")
        self.assertEqual(self.parsed("mysite.wsgi:site.app").application, "mysite.wsgi:site.app")

    def test_check_is_a_flag(self) -> None:
        """--check is a flag."""
        self.assertTrue(self.parsed("--check", "mysite").check)

    def test_paths_are_taken_from_twistds_directory(self) -> None:
        """A relative path means the same file after twistd has changed to its --rundir."""
        os.mkdir(self.inside("spool"))
        parent = {"rundir": os.path.relpath(self.directory)}
        settings = self.parsed("--spool", "spool", "--access-log", "access.log", parent=parent).settings
        self.assertEqual(settings.spool, self.inside("spool"))
        self.assertEqual(settings.access_log, self.inside("access.log"))

    def test_access_log_on_standard_output(self) -> None:
        """A process that stays in the foreground, under twistd or twist, can log to standard output."""
        foreground: list[dict[str, Any]] = [{"nodaemon": 1}, {"nodaemon": 0, "debug": True}, {}]
        for parent in foreground:
            self.assertEqual(self.parsed("--access-log", "-", parent=parent).settings.access_log, "-")


class StartupTests(OptionsTestCase):
    """What is taken over from twistd, once everything that was typed is known to be good."""

    def test_start_up_begins_when_all_options_are_checked(self) -> None:
        """Start-up begins when everything is checked, also for a mere check, which can fail as well."""
        for arguments in ([], ["--check"]):
            self.assertTrue(cast(Startup, self.parsed(*arguments).startup).begun)

    def test_twistd_does_not_get_the_pid_file(self) -> None:
        """twistd's pid file is taken out of its hands; it would remove a successor's."""
        options = self.parsed(parent={"pidfile": "twistd.pid", "rundir": self.directory})
        assert options.pid_file is not None and options.parent is not None
        # As twistd has it: where the operator is, not where the daemon will be.
        self.assertEqual(options.pid_file.path, os.path.abspath("twistd.pid"))
        self.assertEqual(options.parent["pidfile"], "")

    def test_no_pid_file(self) -> None:
        """A mere check, a twistd that was told to have none, and twist have none."""
        parent = {"pidfile": self.inside("twistd.pid")}
        self.assertIsNone(self.parsed("--check", parent=parent).pid_file)
        self.assertIsNone(self.parsed(parent={"pidfile": ""}).pid_file)
        self.assertIsNone(self.parsed(parent={}).pid_file)
        self.assertIsNone(self.parsed().pid_file)

    def test_the_control_socket_is_beside_the_pid_file_by_default(self) -> None:
        """The control socket is beside the pid file and called like it, or in the directory."""
        for pid_file, expected in (
            ("twistd.pid", os.path.abspath("graceful.sock")),
            (self.inside("twistd.pid"), self.inside("graceful.sock")),
            (self.inside("one.pid"), self.inside("one.sock")),
            (self.inside("one"), self.inside("one.sock")),
        ):
            self.assertEqual(self.parsed(parent={"pidfile": pid_file}).control, expected)
        self.assertEqual(
            self.parsed(parent={"pidfile": "", "rundir": self.directory}).control, self.inside("graceful.sock")
        )
        self.assertEqual(self.parsed().control, os.path.abspath("graceful.sock"))

    def test_the_control_socket_can_be_chosen_or_left_out(self) -> None:
        """What is asked for instead is the settings'; nothing means none."""
        settings = self.parsed("--control", "mine", parent={"rundir": self.directory}).settings
        self.assertEqual(settings.control, self.inside("mine"))
        self.assertEqual(self.parsed("--control", "").settings.control, "")
        self.assertIsNone(self.parsed().settings.control)
        self.assertEqual(self.parsed("--control-mode", "0660", "--control-group", "0").settings.control_mode, 0o660)

    def test_the_user_that_twistd_changes_to_is_known_beforehand(self) -> None:
        """The user that twistd will change to is known beforehand."""
        parent = {"nodaemon": True, "uid": 33, "gid": None}
        self.assertEqual(self.parsed(parent=parent).owner, (33, -1))
        self.assertEqual(self.parsed(parent={}).owner, (-1, -1))

    def test_the_json_log_is_refused_where_twistd_has_no_log(self) -> None:
        """twistd is told to write its log as JSON; where it has no say, that is refused."""
        parent = {"nodaemon": True, "logfile": "-"}
        options = self.parsed("--log-format", "json", parent=parent)
        assert options.parent is not None
        self.assertEqual(options.parent["logger"], "graceful.logs.twistd_log.json_observer")
        self.assertNotIn("logger", cast(dict[str, Any], self.parsed("--log-format", "text", parent=parent).parent))
        for file in ({"nodaemon": True, "logfile": "site.log"}, {"nodaemon": False}):
            shared = cast(dict[str, Any], self.parsed(parent=file).parent)
            self.assertEqual(shared["logger"], "graceful.logs.twistd_log.text_observer")
        for own in ({"syslog": True}, {"logger": "a.b"}):
            left = cast(dict[str, Any], self.parsed(parent={"nodaemon": False, **own}).parent)
            self.assertEqual(left.get("logger"), own.get("logger"))
        refused: list[tuple[str, dict[str, Any]]] = [
            ("xml", parent),
            ("json", {}),
            ("json", parent | {"syslog": True}),
            ("json", parent | {"logger": "a.b"}),
        ]
        for value, other in refused:
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                self.parsed("--log-format", value, parent=other)

    def test_status_listen_is_repeatable(self) -> None:
        """Every --status-listen adds an endpoint."""
        typed = ("--status-listen", "tcp:9090:interface=127.0.0.1", "--status-listen", "unix:/run/status.sock")
        self.assertEqual(self.parsed(*typed).settings.status_listen, typed[1::2])

    def test_where_the_log_goes(self) -> None:
        """Start-up knows whether its line in the terminal is in the log too."""
        foreground = {"nodaemon": True, "logfile": None, "syslog": False}
        for elsewhere, parent in (
            (False, foreground),
            (False, foreground | {"logfile": "-"}),
            (False, {}),
            (True, foreground | {"logfile": "twistd.log"}),
            (True, foreground | {"syslog": True}),
            (True, foreground | {"nodaemon": False}),
        ):
            startup = cast(Startup, self.parsed(parent=parent).startup)
            self.assertEqual(bool(startup.log_elsewhere), elsewhere, parent)


class RefusedTests(OptionsTestCase):
    """What cannot be used is refused while parsing, in one line."""

    def refusal(self, *arguments: str, parent: dict[str, Any] | None = None) -> str:
        """Parsing fails with status 2 and one line; what that says of the mistake."""
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            leaving = self.assertRaises(SystemExit, self.parsed, *arguments, parent=parent)
        self.assertEqual(leaving.code, 2)
        match = re.fullmatch("graceful-app: (.*); see graceful-app --help\n", stderr.getvalue())
        self.assertIsNotNone(match, stderr.getvalue())
        return str(match[1]) if match else ""

    def assert_refused(self, *arguments: str, words: tuple[str, ...], parent: dict[str, Any] | None = None) -> None:
        """Parsing fails with one line that holds these words."""
        text = self.refusal(*arguments, parent=parent)
        for word in words:
            self.assertIn(word, text)

    def test_a_bad_whole_number_is_refused_by_name_and_value(self) -> None:
        """What is no whole number, or too small a one, is refused by name, value and what is expected."""
        for name, least in {"--threads": "1", "--queue": "0", "--max-connections": "1"}.items():
            for value in ("", "x", "-1", "1.5", "1_0", " 1", "+1", "\u0663", "1e3", "9" * 5000):
                self.assert_refused(name, value, words=(f"{name} {value}:", f"whole number, {least} or more"))
        self.assert_refused("--threads", "0", words=("--threads 0:", "1 or more"))

    def test_bad_seconds_are_refused(self) -> None:
        """What is no number of seconds, negative, infinite or longer than a year is refused."""
        for name in ("--deadline", "--idle-grace", "--keep-alive", "--header-timeout", "--send-timeout"):
            for value in ("", "x", "-1", "nan", "inf", "1e400", "1_0", ".", "31536001"):
                self.assert_refused(name, value, words=(f"{name} {value}:", "expected seconds"))
        for name in ("--keep-alive", "--header-timeout", "--send-timeout"):
            self.assert_refused(name, "0", words=(f"{name} 0:", "more than 0"))

    def test_a_bad_size_is_refused(self) -> None:
        """A size with another suffix, a fraction, or of nothing is refused."""
        for value in ("", "x", "-1", "0", "0K", "1T", "1.5M", "1 M", "1KB"):
            self.assert_refused("--max-body", value, words=(f"--max-body {value}:", "number of bytes", "64M"))

    def test_the_bad_endpoint_among_good_ones_is_named_once(self) -> None:
        """A bad endpoint among good ones is the one that is named, once."""
        self.assert_refused("--listen", "tcp:80", "--listen", "tcp:http", words=("--listen tcp:http: ", "number"))
        self.assertEqual(self.refusal("--listen", "unix:").count("unix:"), 2, "once as typed, once as an example")

    def test_health_and_control(self) -> None:
        """Each bad value is named, with what is expected."""
        for name, value, word in (
            ("--health-path", "health", "a path"),
            ("--health-path", "/a b", "a path"),
            ("--health-path", "/a?b", "a path"),
            ("--going-down-status", "200", "400 to 599"),
            ("--going-down-status", "x", "400 to 599"),
            ("--control-mode", "66", "octal"),
            ("--control-mode", "7777", "octal"),
            ("--control-mode", "066", "octal"),
            ("--control-group", "no-such-group", "no such group"),
            ("--control", "x" * 200, "at most"),
            ("--status-listen", "ssl:443", "expected tcp:"),
            ("--status-listen", "tcp:http", "number"),
            ("--app-version", "é", "printable"),
            ("--app-version", "x" * 101, "printable"),
        ):
            self.assert_refused(name, value, words=(name, word))

    def test_a_bad_network_is_refused(self) -> None:
        """What is no network is refused, and so is one with bits behind its prefix: it trusts more than it says."""
        for value in ("", "x", "10.0.0.0/33", "10.1.2.3/8", "300.1.1.1", "UNIX", "fe80::1%eth0"):
            self.assert_refused("--trusted-proxy", value, words=(f"--trusted-proxy {value}:", "10.0.0.0/8", "unix"))

    def test_a_bad_request_timeout_is_refused_as_typed(self) -> None:
        """A limit that is none is refused, as it was typed."""
        for value in ("", "x", "/a", "/a=", "a=5", "5:reports", "/a=x:report", "-1", "/ä=5"):
            words = (f"--request-timeout {value}:", "/PREFIX=SECONDS")
            self.assert_refused("--request-timeout", "7", "--request-timeout", value, words=words)
        for value in ("0", "/a=0:report", "1000000000"):
            self.assert_refused("--request-timeout", value, words=("--request-timeout ", "more than 0"))

    def test_a_report_directory_that_is_not_writable_is_refused(self) -> None:
        """The directory must be there and writable; a time must be one."""
        path = self.inside("nothing/reports")
        self.assert_refused("--reports", path, words=("--reports ", path, "a directory, which this is not"))
        self.assert_refused("--report-slower-than", "0", words=("--report-slower-than 0:", "more than 0"))

    def test_a_spool_directory_that_is_not_writable_is_refused(self) -> None:
        """The spool directory must be there, be a directory, and be writable."""
        path = self.inside("nothing/spool")
        self.assert_refused("--spool", path, words=("--spool ", path, "a directory, which this is not"))
        path = self.inside("spool")
        with open(path, "w"):
            pass
        self.assert_refused("--spool", path, words=("--spool ", path, "a directory, which this is not"))
        os.remove(path)
        os.mkdir(path)
        self.patch(os, "access", lambda path, mode: False)
        self.assert_refused("--spool", path, words=("--spool ", path, "written to"))

    def test_directories_are_made_in_one_that_is_there(self) -> None:
        """The directories of reports and of bodies are made if their parent is there, for the user of the server."""
        given: list[tuple[Any, ...]] = []
        self.patch(os, "chown", lambda *arguments: given.append(arguments))
        for option in ("--spool", "--reports"):
            path = self.inside(option[2:])
            self.parsed(option, path, parent={"nodaemon": True, "uid": 1000, "gid": 100, "pidfile": ""})
            self.assertTrue(os.path.isdir(path))
            self.assertEqual(os.stat(path).st_mode & 0o027, 0)
            self.assertEqual(given.pop(), (path, 1000, 100))

    def test_no_temporary_directory(self) -> None:
        """A system without a temporary directory is told to give --spool, and can."""
        self.patch(tempfile, "tempdir", None)
        self.patch(tempfile, "_candidate_tempdir_list", lambda: [])
        self.assert_refused(words=("--spool", "No usable temporary directory", "name a directory"))
        self.parsed("--spool", os.curdir)

    def test_an_access_log_that_cannot_be_written_is_refused(self) -> None:
        """An access log that could not be written is refused."""
        for path in (self.directory, self.inside("none", "access.log"), ""):
            self.assert_refused("--access-log", path, words=("--access-log ", path, "a file that can be written"))
        access = os.access
        self.patch(os, "access", lambda path, mode: path != self.directory and access(path, mode))
        path = self.inside("access.log")
        self.assert_refused("--access-log", path, words=("--access-log ", path, "a file that can be written"))

    def test_access_log_of_a_daemon(self) -> None:
        """A daemon's standard output is /dev/null, so it cannot log there."""
        words = ("--access-log -:", "daemon", "twistd -n")
        self.assert_refused("--access-log", "-", parent={"nodaemon": 0, "debug": False}, words=words)

    def test_a_bad_application_name_is_refused(self) -> None:
        """What cannot be a module and a callable in it is refused, a file's path with a hint of its own."""
        for value in ("", "a:", ":a", "a:b:c", "a b", "a..b", "a:b(1)", "a:()", "a()", "a:b()()"):
            self.assert_refused(value, words=(f"{value}: ", "MODULE[:CALLABLE]", "mysite.wsgi:application"))
        for value in ("mysite.py", "mysite/wsgi", "./mysite.py:app"):
            self.assert_refused(value, words=(f"{value}: ", "not a file's path"))

    def test_a_factory_is_an_application_name(self) -> None:
        """A factory has parentheses."""
        self.assertEqual(self.parsed("a.b:c.d()").application, "a.b:c.d()")

    def test_pid_file_of_another(self) -> None:
        """The pid file of a process that runs is refused before anything happens."""
        with open(self.inside("twistd.pid"), "w") as file:
            file.write(f"{os.getppid()}\n")
        self.assert_refused(parent={"pidfile": self.inside("twistd.pid")}, words=(str(os.getppid()), "--pidfile"))

    def test_too_many_arguments(self) -> None:
        """Options behind the application are not silently taken for anything."""
        self.assert_refused("mysite", "--threads", "5", words=("--threads: ", "behind mysite"))

    def test_unknown_options_and_flags_with_values_are_refused(self) -> None:
        """An unknown option is refused, and so is a flag with a value."""
        self.assert_refused("--workres", "2", words=("--workres",))
        self.assert_refused("--check=1", words=("--check",))


class SettingsTests(SynchronousTestCase):
    """Settings as an embedding program makes them."""

    def test_settings_have_defaults_for_what_a_tac_leaves_out(self) -> None:
        """A .tac gives what it wants to differ, and gets the defaults for the rest."""
        settings = Settings(listen=("tcp:8080",), deadline=60)
        self.assertEqual((settings.listen, settings.deadline, settings.threads), (("tcp:8080",), 60, 20))

    def test_one_string_is_one_endpoint(self) -> None:
        """A single string where several are expected is not taken apart into characters."""
        settings = Settings(listen="tcp:8080", trusted_proxy="10.0.0.0/8")
        self.assertEqual((settings.listen, settings.trusted_proxy), (("tcp:8080",), ("10.0.0.0/8",)))

    def test_a_bad_setting_is_a_value_error_that_names_it(self) -> None:
        """A bad value is a ValueError that names the setting, the value and what is expected."""
        bad: list[dict[str, Any]] = [
            {"threads": 0},
            {"threads": "20"},
            {"deadline": float("inf")},
            {"threads": True},
        ]
        for arguments in bad:
            error = self.assertRaises(BadSetting, Settings, **arguments)
            ((name, value),) = arguments.items()
            self.assertIsInstance(error, ValueError)
            self.assertIn(f"{name}={value!r}: expected", str(error))
        self.assertRaises(BadSetting, Settings, listen=())

    def test_settings_cannot_be_changed(self) -> None:
        """Settings cannot change under a running server."""
        self.assertRaises(attrs.exceptions.FrozenInstanceError, setattr, Settings(), "threads", 1)

    def test_connections_by_open_files(self) -> None:
        """By default half of the open files are for connections, at least one and at most 10,000."""
        for soft, connections in {1024: 512, 1: 1, 1 << 20: 10_000, resource.RLIM_INFINITY: 10_000}.items():
            asked: list[int] = []

            def getrlimit(kind: int, soft: int = soft, asked: list[int] = asked) -> tuple[int, int]:
                asked.append(kind)
                return soft, 1 << 20

            self.assertEqual(half_of_open_files(getrlimit), connections)
            self.assertEqual(asked, [resource.RLIMIT_NOFILE])


class HelpTests(OptionsTestCase):
    """What --help shows."""

    def test_the_help_has_every_option_and_nothing_else(self) -> None:
        """Every option that can be given is in the help, and nothing else."""
        options = Options()
        shown = [option.name for group in GROUPS.values() for option in group]
        self.assertEqual(sorted(shown), sorted(name.rstrip("=") for name in options.longOpt))
        for name in shown:
            self.assertIn(f"  --{name}", options.getUsage(80))

    def test_the_defaults_in_the_help_change_nothing_when_typed(self) -> None:
        """The defaults in the help are those of the settings: typing them changes nothing."""
        rows = [option for group in GROUPS.values() for option in group]
        numeric = [option for option in rows if option.read is not None and option.default[:1] in "0123456789/"]
        self.assertEqual(len(numeric), 22)
        typed = [word for option in numeric for word in (f"--{option.name}", option.default)]
        self.assertEqual(self.parsed(*typed).settings, Settings())
        (listen,) = (option for option in rows if option.name == "listen")
        self.assertEqual((listen.default,), Settings().listen)

    def test_the_help_fits_the_terminal(self) -> None:
        """The help fits the terminal, and shows two whole command lines."""
        for width in (80, 120):
            text = Options().getUsage(width)
            head, examples = text.split("Examples:\n")
            self.assertTrue(all(len(line) <= width for line in head.splitlines()), text)
            self.assertEqual(examples.count("  twistd "), 2)

    def test_the_examples_in_the_help_can_be_typed(self) -> None:
        """What the examples show can be typed."""
        self.parsed("--listen", "tcp:8000:interface=127.0.0.1", "--trusted-proxy", "127.0.0.1", "mysite.wsgi")

    def test_the_help_is_printed_under_twistd(self) -> None:
        """The whole help, with twistd's own command in front, can be printed."""
        options = Options()
        options.parent = usage.Options()
        options.parent.subCommand = "graceful-app"
        self.assertIn("graceful-app [options] [MODULE[:CALLABLE]]", str(options))


class ImportTests(SynchronousTestCase):
    """What importing the options brings with it."""

    def test_parsing_options_does_not_install_the_reactor(self) -> None:
        """twistd can still choose a reactor, and fork, after the options are parsed."""
        program = (
            "import sys, graceful, graceful.options; graceful.options.Options().parseOptions([]); "
            "sys.exit('twisted.internet.reactor' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=_environment())

    def test_settings_without_twisted(self) -> None:
        """The settings can be read by a program that does not use Twisted."""
        program = "import sys, graceful.config.settings; sys.exit('twisted' in sys.modules)"
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=_environment())


def _environment() -> dict[str, str]:
    root = os.path.dirname(os.path.dirname(graceful.__file__))
    return {**os.environ, "PYTHONPATH": root}


class ProgramTests(OptionsTestCase):
    """Which program a refusal names."""

    def test_a_refusal_names_the_program_that_was_started(self) -> None:
        """A refusal leads to the help of `graceful-app`, or of the program around it that says its name."""
        for program in ("graceful-app", "graceful serve"):
            options, said = Options(), io.StringIO()
            options.parent = usage.Options()
            if program != "graceful-app":
                options.parent.program = program
            with contextlib.redirect_stderr(said), self.assertRaises(SystemExit):
                options.parseOptions(["--threads", "0"])
            self.assertTrue(said.getvalue().startswith(f"{program}: --threads 0: expected"))
            self.assertIn(f"see {program} --help", said.getvalue())


class ElsewhereTests(OptionsTestCase):
    """Options that the command line does not set."""

    def setUp(self) -> None:
        """Have an environment of our own."""
        super().setUp()
        self.environ = {
            "GRACEFUL_THREADS": "7",
            "GRACEFUL_REQUEST_TIMEOUT": "30 /api=2",
            "GRACEFUL_APPLICATION": "shop",
        }
        self.patch(os, "environ", self.environ)

    def test_the_command_line_goes_before_the_environment(self) -> None:
        """What is typed holds, for one value, for repeated ones, and for the application."""
        options = self.parsed()
        self.assertEqual(options.settings.threads, 7)
        self.assertEqual(options.settings.request_timeout, (Limit(30), Limit(2, "/api")))
        self.assertEqual(options.application, "shop")
        options = self.parsed("--threads", "3", "--request-timeout", "9", "mysite")
        self.assertEqual((options.settings.threads, options.settings.request_timeout), (3, (Limit(9),)))
        self.assertEqual(options.application, "mysite")

    def test_a_refusal_says_where_the_value_is_from(self) -> None:
        """A bad value of the environment or a misspelt name is refused with its source, or with the nearest name."""
        for typed, variable, why in (
            (
                [],
                {"GRACEFUL_THREADS": "x"},
                "--threads x: expected a whole number, 1 or more (from GRACEFUL_THREADS)",
            ),
            (["--workres", "2"], {}, "the nearest is --workers"),
            ([], {"GRACEFUL_TREADS": "1"}, "the nearest is GRACEFUL_THREADS"),
        ):
            self.patch(os, "environ", dict(variable))
            said = io.StringIO()
            with contextlib.redirect_stderr(said), self.assertRaises(SystemExit):
                self.parsed(*typed)
            self.assertIn(why, said.getvalue())

    def test_takeover_can_be_set_by_its_variable(self) -> None:
        """GRACEFUL_TAKEOVER=1 is the option; a path names the server that has started this one."""
        self.environ["GRACEFUL_TAKEOVER"] = "1"
        options = self.parsed()
        self.assertEqual((options.takeover, options.asked_at), (True, None))
        self.environ["GRACEFUL_TAKEOVER"] = "/run/x.sock"
        self.assertEqual(self.parsed().asked_at, "/run/x.sock")

    def test_a_file_is_the_last_source(self) -> None:
        """`--config` sets what neither the command line nor the environment sets."""
        with open(self.inside("site.toml"), "w") as file:
            file.write("threads = 2\nqueue = 5\n")
        settings = self.parsed("--config", self.inside("site.toml")).settings
        self.assertEqual((settings.threads, settings.queue), (7, 5))
