"""The command line of `twistd graceful-app`.

A value that is only found bad when it is first used stops a server in the middle of a night, or never stops
it and does something else.  So everything that can be checked is checked while the command line is parsed, in
the terminal of whoever typed it, and each refusal is one line that names the option, the value and what is
expected.

twistd parses before it forks and before it has chosen a reactor: nothing here may import the reactor.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from twisted import __version__ as twisted_version
from twisted.python import usage

from graceful import __version__
from graceful.limits import Limit
from graceful.logs import write_json
from graceful.pidfile import PidFile, PidFileBusy, PidFileError
from graceful.reload import VARIABLE, Origin
from graceful.settings import STANDARD_OUTPUT, BadSetting, Settings
from graceful.sockets.binding import activation
from graceful.startup import Startup
from graceful.workers.post import VARIABLE as WORKER
from graceful.workers.post import Post, PostError

DEFAULT_PID_FILE: Final = "twistd.pid"
DEFAULT_CONTROL: Final = "graceful.sock"

_WHOLE: Final = re.compile(r"[0-9]{1,18}")
_SECONDS: Final = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?")
_SIZE: Final = re.compile(r"([0-9]{1,18})([KMGkmg]?)")
_OCTAL: Final = re.compile(r"[0-7]{3,4}")
_INDENT: Final = 28
_SHIFTS: Final = {"": 0, "K": 10, "M": 20, "G": 30}


def _whole(text: str) -> int | str:
    return int(text) if _WHOLE.fullmatch(text) else text


def _seconds(text: str) -> float | str:
    return float(text) if _SECONDS.fullmatch(text) else text


def _octal(text: str) -> int | str:
    return int(text, 8) if _OCTAL.fullmatch(text) else text


def _size(text: str) -> int | str:
    match = _SIZE.fullmatch(text)
    return int(match[1]) << _SHIFTS[match[2].upper()] if match else text


def _limit(text: str) -> Limit | str:
    """A limit as it is typed: `SECONDS`, `/PREFIX=SECONDS`, each with `:report` behind it or without."""
    rest = text.removesuffix(":report")
    prefix, _, seconds = rest.rpartition("=")
    if (prefix and not prefix.startswith("/")) or not prefix.isascii() or not _SECONDS.fullmatch(seconds):
        return text
    return Limit(float(seconds), prefix, rest != text)


def _requests(text: str) -> tuple[int, int] | str:
    """So many, give or take so many: `10000`, `10000±500`, or for keyboards without that sign, `10000+-500`."""
    most, _, jitter = text.replace("+-", "±").partition("±")
    if not (_WHOLE.fullmatch(most) and _WHOLE.fullmatch(jitter or "0")) or text.endswith(("±", "-")):
        return text
    return int(most), int(jitter or "0")


class _Option(NamedTuple):
    """One row of the help, and for an option that takes one value also its parsing.

    :ivar value: what its value is called; empty for a flag.
    :ivar default: as it would be typed, or in words.
    :ivar read: makes the setting of what was typed.  What it does not understand it hands on as it is: the
        settings refuse it, and say what they expect.
    """

    name: str
    value: str
    default: str
    help: str
    read: Callable[[str], int | float | str | tuple[int, int]] | None = None


_LISTEN: Final = _Option(
    "listen",
    "ENDPOINT",
    "tcp:8080",
    "Listen there: tcp:8080, tcp:8080:interface=127.0.0.1, tcp6:8080, unix:/run/site.socket, fd:3, "
    "systemd:..., or any other Twisted endpoint. Can be repeated.",
)
_TRUSTED_PROXY: Final = _Option(
    "trusted-proxy",
    "CIDR",
    "nobody",
    "Believe what this network, address, or unix (every peer on a Unix socket) says in X-Forwarded-For and "
    "-Proto, Forwarded and X-Request-Id. Can be repeated.",
)
_REQUEST_TIMEOUT: Final = _Option(
    "request-timeout",
    "SECONDS",
    "none",
    "How long a request may run; the application is told, and a quarter of it (at most 5 s) later it is taken down. "
    "/PREFIX=SECONDS for some requests; with :report behind it, it is only reported. Can be repeated.",
)
_REPORT_HIDE: Final = _Option(
    "report-hide",
    "NAME",
    "",
    "A query value or header that no report may show, as cookies and credentials are not. Can be repeated.",
)
_DOWNLOAD: Final = _Option(
    "download",
    "/PREFIX=TARGET",
    "none",
    "Serve paths without the application: TARGET is the URL of a file store, or a directory. Can be repeated.",
)
_INTERNAL_DOWNLOAD: Final = _Option(
    "internal-download",
    "/PREFIX=TARGET",
    "none",
    "Likewise, what the application's X-Accel-Redirect may name. Can be repeated.",
)
_STATUS_LISTEN: Final = _Option(
    "status-listen",
    "ENDPOINT",
    "nowhere",
    "Show health, metrics and the status page there, read-only; for loopback or a private address, such as "
    "tcp:9090:interface=127.0.0.1. Can be repeated.",
)
_LOG_FORMAT: Final = _Option(
    "log-format",
    "FORMAT",
    "text",
    "How twistd's log is written: text, or json for one JSON object a line.",
)
_TAKEOVER: Final = _Option(
    "takeover",
    "",
    "",
    "Take the sockets of the server that answers at --control, which then finishes what it has; if none does, bind.",
)
_CHDIR: Final = _Option(
    "chdir",
    "DIR",
    "none",
    "Run the application there. A successor looks it up anew: a symbolic link may lead to another release by then.",
)
_CHECK: Final = _Option(
    "check",
    "",
    "",
    "Import the application, check the options and that the sockets can be bound; serve nothing.",
)

_GROUPS: Final = {
    "Sockets and clients": (
        _LISTEN,
        _Option(
            "max-connections",
            "N",
            "half of ulimit -n, at most 10000",
            "Client connections open at a time; more wait in the kernel's queue.",
            _whole,
        ),
        _Option(
            "keep-alive",
            "SECONDS",
            "75",
            "How long clients may reuse an idle connection; it is kept a second longer than they are told.",
            _seconds,
        ),
        _Option(
            "header-timeout",
            "SECONDS",
            "20",
            "Within this time the head of a request must be complete.",
            _seconds,
        ),
        _Option(
            "send-timeout",
            "SECONDS",
            "60",
            "How long a client may neither take nor send anything in the middle of a body.",
            _seconds,
        ),
        _TRUSTED_PROXY,
    ),
    "Application": (
        _Option("threads", "N", "20", "Threads that run the application.", _whole),
        _Option(
            "queue",
            "N",
            "1000",
            "Requests that may wait for a thread; one more is answered with 503.",
            _whole,
        ),
        _REQUEST_TIMEOUT,
        _Option(
            "max-body",
            "BYTES",
            "1G",
            "The largest request body, in bytes, or with K, M or G; a larger one is answered with 413.",
            _size,
        ),
        _Option(
            "spool",
            "DIR",
            "the system's temporary one",
            "Directory for request bodies that are too large for memory.",
            str,
        ),
    ),
    "Workers": (
        _Option(
            "workers",
            "N",
            "1",
            "Processes that serve. With more than 1, this one only starts them, watches them and holds the sockets.",
            _whole,
        ),
        _Option(
            "max-requests",
            "N[±JITTER]",
            "never",
            "Replace a worker after about so many requests; with a jitter, also written +-, not all at once.",
            _requests,
        ),
        _Option(
            "max-rss",
            "BYTES",
            "never",
            "Replace a worker that holds more memory than this, in bytes, or with K, M or G.",
            _size,
        ),
    ),
    "Downloads": (
        _DOWNLOAD,
        _INTERNAL_DOWNLOAD,
        _Option(
            "upstream-connect-timeout",
            "SECONDS",
            "5",
            "Within this time a file store must take a connection.",
            _seconds,
        ),
        _Option(
            "upstream-timeout",
            "SECONDS",
            "60",
            "How long a file store may say nothing.",
            _seconds,
        ),
    ),
    "Stopping": (
        _Option(
            "deadline",
            "SECONDS",
            "200",
            "How long requests may run once the sockets are closed; then they are taken down.",
            _seconds,
        ),
        _Option(
            "download-deadline",
            "SECONDS",
            "3600",
            "Likewise for downloads, which hold no thread.",
            _seconds,
        ),
        _Option(
            "lame-duck",
            "SECONDS",
            "0",
            "How long a stopping server still accepts while its health says that it is going down.",
            _seconds,
        ),
        _Option(
            "idle-grace",
            "SECONDS",
            "5",
            "How long an idle connection stays open while stopping, for one last request.",
            _seconds,
        ),
    ),
    "Reports": (
        _Option(
            "reports",
            "DIR",
            "none",
            "Where to write a report of every request that was taken down, failed or was slow.",
            str,
        ),
        _Option(
            "report-slower-than",
            "SECONDS",
            "never",
            "Report requests that run longer than this.",
            _seconds,
        ),
        _REPORT_HIDE,
    ),
    "Health and control": (
        _Option(
            "health-path",
            "PATH",
            "/+haproxy",
            "Where a balancer asks whether to send requests; '' for nowhere.",
            str,
        ),
        _Option(
            "going-down-status",
            "STATUS",
            "503",
            "What it is answered once it should not; 404 for HAProxy's disable-on-404.",
            _whole,
        ),
        _Option(
            "control",
            "PATH",
            "graceful.sock beside the pid file",
            "Unix socket for the graceful command; '' for none. NAME.sock beside a NAME.pid that is not twistd.pid.",
            str,
        ),
        _Option("control-mode", "MODE", "600", "Permissions of that socket, octal.", _octal),
        _Option("control-group", "GROUP", "the server's", "Group of that socket.", str),
        _STATUS_LISTEN,
        _Option("app-version", "TEXT", "none", "The application's version, shown in status and health.", str),
    ),
    "Deploying": (
        _TAKEOVER,
        _CHDIR,
        _Option(
            "takeover-timeout",
            "SECONDS",
            "60",
            "How long a successor may take from getting this server's sockets until it accepts.",
            _seconds,
        ),
        _Option(
            "max-draining",
            "N",
            "5",
            "How many predecessors may still finish what they have; with one more, the oldest takes down its rest.",
            _whole,
        ),
    ),
    "Other": (
        _Option(
            "access-log",
            "PATH",
            "none",
            "Where to log requests, in combined format with duration and request id; - is standard output.",
            str,
        ),
        _LOG_FORMAT,
        _CHECK,
        _Option("version", "", "", "Show the versions and exit."),
        _Option("help", "", "", "Show this help and exit."),
    ),
}

# Those that take one value.
_PARAMETERS: Final = [option for group in _GROUPS.values() for option in group if option.read]

_DESCRIPTION: Final = (
    "Serves a WSGI application. On SIGTERM it closes its sockets, finishes every live request, and exits. "
    "MODULE is imported as Python imports it, also from the current directory; CALLABLE is by default "
    "application, or else app. Without a MODULE a built-in demo is served. Defaults stand in brackets."
)

_EXAMPLES: Final = """\
Examples:
  twistd -n graceful-app mysite.wsgi:application
  twistd --pidfile /run/site.pid graceful-app --listen tcp:8000:interface=127.0.0.1 \\
      --trusted-proxy 127.0.0.1 --access-log /var/log/site/access.log mysite.wsgi
"""


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
    :ivar post: where this worker works; None if it is none.
    :ivar sockets: what systemd has said of the sockets it hands over, to the process `pid`.
    """

    synopsis = "[options] [MODULE[:CALLABLE]]"
    longdesc = _DESCRIPTION

    optFlags = [[option.name, None, option.help] for option in (_CHECK, _TAKEOVER)]
    optParameters = [[option.name, None, None, option.help] for option in (*_PARAMETERS, _LOG_FORMAT, _CHDIR)]

    def __init__(self) -> None:
        usage.Options.__init__(self)
        self.settings: Settings
        self.startup: Startup
        self.pid_file: PidFile | None = None
        self.post: Post | None = None
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

    opt_listen.__doc__ = _LISTEN.help

    def opt_trusted_proxy(self, network: str) -> None:
        self._repeated.setdefault("trusted_proxy", []).append(network)

    opt_trusted_proxy.__doc__ = _TRUSTED_PROXY.help

    def opt_request_timeout(self, limit: str) -> None:
        self._repeated.setdefault("request_timeout", []).append(_limit(limit))

    opt_request_timeout.__doc__ = _REQUEST_TIMEOUT.help

    def opt_report_hide(self, name: str) -> None:
        self._repeated.setdefault("report_hide", []).append(name)

    opt_report_hide.__doc__ = _REPORT_HIDE.help

    def opt_download(self, mapping: str) -> None:
        self._repeated.setdefault("download", []).append(self._mapping(mapping))

    opt_download.__doc__ = _DOWNLOAD.help

    def opt_internal_download(self, mapping: str) -> None:
        self._repeated.setdefault("internal_download", []).append(self._mapping(mapping))

    opt_internal_download.__doc__ = _INTERNAL_DOWNLOAD.help

    def opt_status_listen(self, endpoint: str) -> None:
        self._repeated.setdefault("status_listen", []).append(endpoint)

    opt_status_listen.__doc__ = _STATUS_LISTEN.help

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
                self.post = Post(said)
            except PostError as error:
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
        self.startup = Startup(self._logs_elsewhere(), self.post.failed if self.post is not None else None)
        self._stay_with_supervisor()
        self._choose_log_format()
        self.control = self._usual_control()
        self.owner = self._new_owner()
        self.pid_file = self._take_pid_file()
        self._change_directory()
        self.startup.begin()

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse; what is wrong is told in one line, which twistd would bury under its whole help."""
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            if self.post is not None:
                self.post.failed(str(error))
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
        if self.post is None or parent is None:
            return
        if not parent.get("nodaemon", True):
            parent["nodaemon"] = True
            parent["logfile"] = parent.get("logfile") or "twistd.log"
        if "pidfile" in parent:
            parent["pidfile"] = ""

    def _change_directory(self) -> None:
        """Be where the application is; what was typed is relative to where it was typed."""
        directory, parent = self["chdir"], self.parent
        if directory is None:
            return
        if self.post is not None:
            directory = self.post.directory  # what it has led to when this release was deployed
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
        """Have twistd write its log as JSON, if that is wanted."""
        chosen, parent = self["log-format"], self.parent
        if chosen not in (None, "text", "json"):
            raise usage.UsageError(f"--log-format {chosen}: expected text or json")
        if chosen != "json":
            return
        if parent is None or "nodaemon" not in parent:
            raise usage.UsageError("--log-format json: twist has this option itself, before graceful-app")
        if parent.get("syslog") or parent.get("logger"):
            raise usage.UsageError("--log-format json: twistd's --syslog and --logger write in their own ways")
        write_json(parent)

    def _usual_control(self) -> str:
        """Where the control socket is if nobody says: beside the pid file, or else in the directory."""
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
        """Take the pid file out of twistd's hands: it would not let a successor start, and remove its file."""
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
        """Whether to take over from whoever answers at the control socket."""
        return self.post is None and (bool(self["takeover"]) or self.asked_at is not None)

    def _read_settings(self) -> Settings:
        typed: dict[str, str] = {}
        given: dict[str, Any] = {}
        for option in _PARAMETERS:
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
        width = width or int(os.environ.get("COLUMNS", "80"))
        lines = [*textwrap.wrap(_DESCRIPTION, width), ""]
        for title, group in _GROUPS.items():
            lines.append(f"{title}:")
            for option in group:
                head = f"  --{option.name} {option.value}".rstrip()
                text = f"{option.help} [{option.default}]" if option.default else option.help
                body = textwrap.wrap(text, max(width - _INDENT, 20))
                if len(head) > _INDENT - 2:
                    lines.append(head)
                    head = ""
                lines.append(f"{head:<{_INDENT}}{body[0]}")
                lines.extend(" " * _INDENT + line for line in body[1:])
            lines.append("")
        return "\n".join(lines) + "\n" + _EXAMPLES


def _application(text: str) -> str:
    module, colon, name = text.partition(":")
    if "/" in text or module.endswith(".py"):
        raise usage.UsageError(f"{text}: expected MODULE[:CALLABLE] as Python imports it, not a file's path")
    parts = module.split(".") + (name.split(".") if colon else [])
    if not all(part.isidentifier() for part in parts):
        raise usage.UsageError(f"{text}: expected MODULE[:CALLABLE], such as mysite.wsgi:application")
    return text
