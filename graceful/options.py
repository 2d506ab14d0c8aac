"""The command line of `twistd graceful-app`.

A bad value that is found only when it is first used stops a server in the middle of a night, or makes it do
something else than was meant.  So everything that can be checked is checked while the command line is parsed, in
the operator's terminal, and each refusal is one line that names the option, the value and what is expected.

twistd parses before it forks and before it has chosen a reactor: nothing here may import the reactor.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from twisted import __version__ as twisted_version
from twisted.python import usage

from graceful._version import __version__
from graceful.config.option_table import (
    CHDIR,
    CHECK,
    DESCRIPTION,
    DOWNLOAD,
    INTERNAL_DOWNLOAD,
    LISTEN,
    LOG_FORMAT,
    PARAMETERS,
    REPORT_HIDE,
    REQUEST_TIMEOUT,
    STATUS_LISTEN,
    TAKEOVER,
    TRUSTED_PROXY,
    help_text,
    limit_of,
)
from graceful.config.settings import STANDARD_OUTPUT, BadSetting, Settings
from graceful.logs import twistd_log as logs
from graceful.process.origin import VARIABLE, Origin
from graceful.process.pidfile import PidFile, PidFileBusy, PidFileError
from graceful.process.startup import Startup
from graceful.sockets.binding import activation
from graceful.workers.parent import VARIABLE as WORKER
from graceful.workers.parent import Parent, ParentError

#: twistd's own default; it says nothing about which server this is, so the control socket is not named after it.
DEFAULT_PID_FILE: Final = "twistd.pid"

#: The name of the control socket if neither it nor a pid file was named.
DEFAULT_CONTROL: Final = "graceful.sock"


class Options(usage.Options):
    """The options of `twistd graceful-app` and `twist graceful-app`.

    :ivar settings: what was asked for, checked; there after parsing.
    :ivar application: `MODULE[:CALLABLE]`, or None for the built-in demo.
    :ivar check: only check that it would start.
    :ivar control: where the control socket is unless the settings say; None for nowhere.
    :ivar owner: the user and group that twistd will change to; -1 where it will not.
    :ivar asked_at: the control socket of the server that has started this one to take over; None if it was not.
    :ivar origin: how this process was started.
    :ivar startup: what surrounds everything that may fail until the reactor runs.
    :ivar pid_file: taken over from twistd; None under `twist`, and for a mere check.
    :ivar supervisor: the supervisor of this worker; None if it is none.
    :ivar sockets: what systemd has said of the sockets it hands over, to the process `pid`.
    """

    synopsis = "[options] [MODULE[:CALLABLE]]"
    longdesc = DESCRIPTION

    optFlags = [[option.name, None, option.help] for option in (CHECK, TAKEOVER)]
    optParameters = [[option.name, None, None, option.help] for option in (*PARAMETERS, LOG_FORMAT, CHDIR)]

    def __init__(self) -> None:
        usage.Options.__init__(self)
        self.settings: Settings
        self.startup: Startup
        self.pid_file: PidFile | None = None
        self.supervisor: Parent | None = None
        self.control: str | None = None
        self.owner = -1, -1
        self.asked_at: str | None = None
        self.origin: Origin
        self.sockets: dict[str, str] = {}
        self.pid = 0
        self.application: str | None = None
        self._repeated: dict[str, list[Any]] = {}

    def opt_listen(self, endpoint: str) -> None:
        self._repeated.setdefault("listen", []).append(endpoint)

    opt_listen.__doc__ = LISTEN.help

    def opt_trusted_proxy(self, network: str) -> None:
        self._repeated.setdefault("trusted_proxy", []).append(network)

    opt_trusted_proxy.__doc__ = TRUSTED_PROXY.help

    def opt_request_timeout(self, limit: str) -> None:
        self._repeated.setdefault("request_timeout", []).append(limit_of(limit))

    opt_request_timeout.__doc__ = REQUEST_TIMEOUT.help

    def opt_report_hide(self, name: str) -> None:
        self._repeated.setdefault("report_hide", []).append(name)

    opt_report_hide.__doc__ = REPORT_HIDE.help

    def opt_download(self, mapping: str) -> None:
        self._repeated.setdefault("download", []).append(self._mapping(mapping))

    opt_download.__doc__ = DOWNLOAD.help

    def opt_internal_download(self, mapping: str) -> None:
        self._repeated.setdefault("internal_download", []).append(self._mapping(mapping))

    opt_internal_download.__doc__ = INTERNAL_DOWNLOAD.help

    def opt_status_listen(self, endpoint: str) -> None:
        self._repeated.setdefault("status_listen", []).append(endpoint)

    opt_status_listen.__doc__ = STATUS_LISTEN.help

    def opt_version(self) -> NoReturn:
        """Show the versions and exit."""
        print(f"graceful {__version__}, Twisted {twisted_version}")
        sys.exit(0)

    def parseArgs(self, *arguments: str) -> None:
        """Take the one positional argument.

        :raises usage.UsageError: there are more, or it cannot name a callable.
        """
        if len(arguments) > 1:
            raise usage.UsageError(f"{arguments[1]}: expected nothing behind {arguments[0]}, options come before it")
        if arguments:
            self.application = _application(arguments[0])

    def postOptions(self) -> None:
        """Check everything that was typed, as a whole.

        :raises usage.UsageError: something cannot be used.
        """
        self.asked_at = os.environ.pop(VARIABLE, None)
        said = os.environ.pop(WORKER, None)
        if said is not None:
            try:
                self.supervisor = Parent(said)
            except ParentError as error:
                raise usage.UsageError(str(error)) from None
        self.origin = Origin.of_this_process(self["chdir"])
        self.settings = self._read_settings()
        if self.takeover and self.settings.control == "":
            raise usage.UsageError("--takeover: there is no taking over with --control '': give the control socket")
        if self.settings.workers == 1 and (self.settings.max_requests or self.settings.max_rss):
            raise usage.UsageError("--max-requests and --max-rss are for workers: give --workers 2, or more")
        self._check_standard_output()
        self.pid = os.getpid()
        self.sockets = activation(os.environ, self.pid)
        self.startup = Startup(
            self._logs_elsewhere(), self.supervisor.failed if self.supervisor is not None else None
        )
        self._stay_with_supervisor()
        self._choose_log_format()
        self.control = self._usual_control()
        self.owner = self._new_owner()
        self.pid_file = self._take_pid_file()
        self._change_directory()
        self.startup.begin()

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse, and refuse in one line, which twistd would bury under its whole help."""
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            if self.supervisor is not None:
                self.supervisor.failed(str(error))
            else:
                print(f"graceful-app: {error}; see graceful-app --help", file=sys.stderr)
            sys.exit(2)

    def _logs_elsewhere(self) -> bool:
        """Whether the log goes anywhere but to the terminal."""
        parent = self.parent
        if parent is None or "nodaemon" not in parent:
            return False
        return not parent["nodaemon"] or parent.get("syslog") or parent.get("logfile") not in (None, "", "-")

    def _stay_with_supervisor(self) -> None:
        """A worker is its supervisor's child, logs where that does, and has no pid file."""
        parent = self.parent
        if self.supervisor is None or parent is None:
            return
        if not parent.get("nodaemon", True):
            parent["nodaemon"] = True
            parent["logfile"] = parent.get("logfile") or "twistd.log"
        if "pidfile" in parent:
            parent["pidfile"] = ""

    def _change_directory(self) -> None:
        """Change to `--chdir`; typed paths stay relative to the directory before."""
        directory, parent = self["chdir"], self.parent
        if directory is None:
            return
        if self.supervisor is not None:
            directory = self.supervisor.directory  # what it has led to when this release was deployed
        if parent is not None and "nodaemon" in parent:
            log = parent.get("logfile") or ("" if parent["nodaemon"] else "twistd.log")
            if log not in ("", "-"):
                parent["logfile"] = self._absolute(log)
        try:
            os.chdir(directory)
        except OSError as error:
            raise usage.UsageError(
                f"--chdir {directory}: {error.strerror}; name the application's directory"
            ) from None

    def _choose_log_format(self) -> None:
        """Have twistd log as `--log-format` says, and append to a file that instances share."""
        chosen, parent = self["log-format"], self.parent
        if chosen not in (None, "text", "json"):
            raise usage.UsageError(f"--log-format {chosen}: expected text or json")
        as_json = chosen == "json"
        if as_json and (parent is None or "nodaemon" not in parent):
            raise usage.UsageError("--log-format json: twist has this option itself, before graceful-app")
        if parent is not None and (parent.get("syslog") or parent.get("logger")):
            if as_json:
                raise usage.UsageError("--log-format json: twistd's --syslog and --logger write in their own ways")
        elif parent is not None and (as_json or self._logs_elsewhere()):
            logs.write(parent, as_json)

    def _usual_control(self) -> str:
        """Return the default path of the control socket: beside the pid file, or else in the run directory."""
        parent = self.parent
        pid_file = parent.get("pidfile") if parent is not None else None
        if not pid_file:
            return self._absolute(DEFAULT_CONTROL)
        directory, name = os.path.split(os.path.abspath(pid_file))
        name = DEFAULT_CONTROL if name == DEFAULT_PID_FILE else name.removesuffix(".pid") + ".sock"
        return os.path.join(directory, name)

    def _new_owner(self) -> tuple[int, int]:
        parent = self.parent
        if parent is None or "nodaemon" not in parent:
            return -1, -1
        uid, gid = parent.get("uid"), parent.get("gid")
        return -1 if uid is None else uid, -1 if gid is None else gid

    def _take_pid_file(self) -> PidFile | None:
        """Manage the pid file instead of twistd, which would refuse to start a successor, and remove its file."""
        parent = self.parent
        if parent is None or not parent.get("pidfile"):
            return None
        path = parent["pidfile"]
        parent["pidfile"] = ""
        if self.check:
            return None  # a check is made beside an instance that runs
        pid_file = PidFile(path)
        try:
            if not self.takeover:
                pid_file.check()
        except (PidFileBusy, PidFileError) as error:
            raise usage.UsageError(str(error)) from None
        return pid_file

    @property
    def check(self) -> bool:
        return bool(self["check"])

    @property
    def takeover(self) -> bool:
        """Whether to take over from the server that answers at the control socket."""
        return self.supervisor is None and (bool(self["takeover"]) or self.asked_at is not None)

    def _read_settings(self) -> Settings:
        typed: dict[str, str] = {}
        given: dict[str, Any] = {}
        for option in PARAMETERS:
            text = self[option.name]
            if text is not None and option.read is not None:
                typed[option.name] = text
                given[option.name.replace("-", "_")] = option.read(text)
        for name in ("spool", "access_log", "control", "reports"):
            if given.get(name) and given[name] != STANDARD_OUTPUT:
                given[name] = self._absolute(given[name])
        given.update(self._repeated)
        try:
            return Settings(**given)
        except BadSetting as bad:
            name = bad.name.replace("_", "-")
            raise usage.UsageError(f"--{name} {typed.get(name, bad.value)}: {bad.problem}") from None
        except FileNotFoundError as error:
            raise usage.UsageError(f"--spool: {error.strerror}; name a directory that can be written to") from None

    def _mapping(self, text: str) -> str:
        prefix, equals, target = text.partition("=")
        return f"{prefix}={self._absolute(target)}" if equals and target and "://" not in target else text

    def _absolute(self, path: str) -> str:
        # twistd changes to its --rundir only after parsing, and --logfile is taken from there too.
        rundir = self.parent.get("rundir", ".") if self.parent is not None else "."
        return os.path.abspath(os.path.join(rundir, path))

    def _check_standard_output(self) -> None:
        # `twist` never forks, and has no such keys.
        parent = self.parent
        daemon = parent is not None and not (parent.get("nodaemon", True) or parent.get("debug"))
        if daemon and self.settings.access_log == STANDARD_OUTPUT:
            raise usage.UsageError("--access-log -: a daemon has no standard output; name a file, or use twistd -n")

    def getUsage(self, width: int | None = None) -> str:
        """The help: the options in groups, and examples.

        :param width: columns; by default what COLUMNS says, or 80.
        """
        return help_text(width or int(os.environ.get("COLUMNS", "80")))


def _application(text: str) -> str:
    module, colon, name = text.partition(":")
    if "/" in text or module.endswith(".py"):
        raise usage.UsageError(f"{text}: expected MODULE[:CALLABLE] as Python imports it, not a file's path")
    parts = module.split(".") + (name.split(".") if colon else [])
    if not all(part.isidentifier() for part in parts):
        raise usage.UsageError(f"{text}: expected MODULE[:CALLABLE], such as mysite.wsgi:application")
    return text
