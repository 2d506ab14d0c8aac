"""The command line of `twistd graceful-app`.

A bad value that is found only when it is first used stops a server in the middle of a night, or makes it do
something else than was meant.  So everything that can be checked is checked while the command line is parsed, in
the operator's terminal, and each refusal is one line that names the option, the value and what is expected.

twistd parses before it forks and before it has chosen a reactor: nothing here may import the reactor.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Final, NoReturn

from twisted.python import usage

from graceful.application.loading import AUTO, INTERFACES, CannotLoad, load, stack_of_import
from graceful.config.option_table import (
    CHDIR,
    CHECK,
    CONFIG,
    DESCRIPTION,
    DOWNLOAD,
    FLAGS,
    INTERFACE,
    INTERNAL_DOWNLOAD,
    LISTEN,
    LOG_FORMAT,
    PARAMETERS,
    PRELOAD,
    RELOAD,
    REPORT_HIDE,
    REQUEST_TIMEOUT,
    STATUS_LISTEN,
    TAKEOVER,
    TRUSTED_PROXY,
    help_text,
    limit_of,
)
from graceful.config.settings import STANDARD_OUTPUT, BadSetting, Settings
from graceful.config.sources import (
    APPLICATION,
    NAMES,
    REPEATED_NAMES,
    BadSource,
    from_environment,
    gather,
    is_true,
    nearest,
)
from graceful.process import systemd
from graceful.process.exit import LastLimit
from graceful.process.origin import VARIABLE, Origin
from graceful.process.pidfile import PidFile
from graceful.process.startup import Startup
from graceful.process.twistd_options import TwistdOptions
from graceful.sockets.binding import activation
from graceful.workers.parent import VARIABLE as WORKER
from graceful.workers.parent import Parent, ParentError
from graceful.workers.preload import VARIABLE as FORK_SERVER
from graceful.workers.preload import Preload, PreloadError

#: Those that take one value, which is no setting.
_OTHERS: Final = (LOG_FORMAT, CHDIR, INTERFACE, CONFIG)


class Options(usage.Options):
    """The options of `twistd graceful-app` and `twist graceful-app`.

    :ivar settings: what was asked for, checked; there after parsing.
    :ivar application: `MODULE[:CALLABLE]`, or None for the built-in demo.
    :ivar interface: which interface the application has: `auto`, `wsgi` or `asgi`.
    :ivar check: only check that it would start.
    :ivar control: where the control socket is unless the settings say; None for nowhere.
    :ivar owner: the user and group that twistd will change to; -1 where it will not.
    :ivar asked_at: the control socket of the server that has started this one to take over; None if it was not.
    :ivar origin: how this process was started.
    :ivar startup: what surrounds everything that may fail until the reactor runs.
    :ivar pid_file: taken over from twistd; None under `twist`, and for a mere check.
    :ivar supervisor: the supervisor of this worker; None if it is none.
    :ivar limit: ends the process at a certain time in any case.
    :ivar preloaded: the application, if this worker was forked from a process that has imported it.
    :ivar sockets: what systemd has said of the sockets it hands over, to the process `pid`.
    """

    synopsis = "[options] [MODULE[:CALLABLE]]"
    longdesc = DESCRIPTION

    optFlags = [[option.name, None, option.help] for option in (CHECK, PRELOAD, RELOAD, TAKEOVER)]
    optParameters = [[option.name, None, None, option.help] for option in (*PARAMETERS, *_OTHERS)]

    def __init__(self) -> None:
        usage.Options.__init__(self)
        self.settings: Settings
        self.startup: Startup
        self.pid_file: PidFile | None = None
        self.supervisor: Parent | Preload | None = None
        self._import_error = ""  # why the application cannot be imported, with the stack, for the supervisor
        self.limit = LastLimit()
        self.preloaded: Any = None
        self.control: str | None = None
        self.owner = -1, -1
        self.asked_at: str | None = None
        self.origin: Origin
        self.sockets: dict[str, str] = {}
        self.notify: dict[str, str] = {}
        self.pid = 0
        self.application: str | None = None
        self.interface = AUTO
        self._repeated: dict[str, list[Any]] = {}
        self._where: dict[str, str] = {}

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
        from graceful.config.versions import versions  # a start need not wait for what finds them

        print(versions())
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
        if (flag := from_environment({VARIABLE: self.asked_at or ""}).get(TAKEOVER.name)) is not None:
            self.asked_at, self["takeover"] = None, self["takeover"] or is_true(flag)
        said = os.environ.pop(WORKER, None)
        preload = os.environ.pop(FORK_SERVER, None)
        try:
            if said is not None:
                self.supervisor = Parent(said)
            elif preload is not None:
                self.supervisor = Preload(preload)
        except (ParentError, PreloadError) as error:
            raise usage.UsageError(str(error)) from None
        self._take_from_elsewhere()
        self.origin = Origin.of_this_process(self["chdir"])
        self.interface = self._interface()
        self.settings = self._read_settings()
        if self.takeover and self.settings.control == "":
            raise usage.UsageError("--takeover: there is no taking over with --control '': give the control socket")
        if self.settings.workers == 1 and (self.settings.max_requests or self.settings.max_rss):
            raise usage.UsageError("--max-requests and --max-rss are for workers: give --workers 2, or more")
        if self.preload and self.settings.workers == 1 and not self.reload:
            raise usage.UsageError("--preload is for workers: give --workers 2, or more")
        if self.reload and find_spec("watchfiles") is None:
            raise usage.UsageError("--reload needs the package watchfiles: pip install 'graceful-app[reload]'")
        self._check_standard_output()
        self.pid = os.getpid()
        self.sockets = activation(os.environ, self.pid)
        self.notify = systemd.take()
        self.startup = Startup(
            self._twistd.logs_elsewhere and not self.check,
            self._tell_supervisor if self.supervisor is not None else None,
        )
        if self.supervisor is not None:
            self._twistd.stay_with_supervisor()
        self._twistd.choose_log_format(self["log-format"])
        self.control = self._twistd.default_control()
        self.owner = self._twistd.owner
        self.pid_file = self._twistd.take_pid_file(self.check, self.takeover)
        self._change_directory()
        self.startup.begin()
        if isinstance(self.supervisor, Preload):
            self._fork_workers(self.supervisor)

    def _fork_workers(self, preload: Preload) -> None:
        """Import the application and fork workers; only in a worker this returns, and its start goes on."""
        # Functions that the application registers with atexit run before this one only if it comes first.
        self.limit.install()

        def load_there() -> Any:
            here = os.getcwd()
            with self.startup.step():
                if self.parent is not None:
                    os.chdir(self.parent.get("rundir", "."))  # as twistd will, later
                found = self.load()
                os.chdir(here)
            return found

        self.supervisor, self.preloaded = preload.serve(load_there)
        self.pid = os.getpid()

    def load(self) -> Any:
        """Import the application, unless that was done before.

        :raises CannotLoad: with one line that says why.
        """
        if self.preloaded is not None:
            return self.preloaded
        if self.reload:
            # A .pyc of a file that was edited again within a second, and has the same size, would be taken for it.
            sys.dont_write_bytecode = True
        try:
            return load(self.application, self.interface)
        except CannotLoad as error:
            if self.reload and self.supervisor is not None:
                self._import_error = stack_of_import(error)
                print(self._import_error, file=sys.stderr)
            raise

    def _tell_supervisor(self, why: str) -> None:
        assert self.supervisor is not None
        self.supervisor.failed(why, self._import_error)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse, and refuse in one line, which twistd would bury under its whole help."""
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            if self.supervisor is not None:
                self.supervisor.failed(str(error))
            else:
                unknown = re.fullmatch(r"option --(\S+) not recognized", str(error))
                if unknown is not None:
                    error = usage.UsageError(f"{error}{nearest(f'--{unknown[1]}', [f'--{name}' for name in NAMES])}")
                program = getattr(self.parent, "program", "graceful-app")
                print(f"{program}: {error}; see {program} --help", file=sys.stderr)
            sys.exit(2)

    def _take_from_elsewhere(self) -> None:
        """Take what the command line does not set from the environment, and then from a file."""
        directory = self._twistd.absolute(self["chdir"] or os.environ.get("GRACEFUL_CHDIR") or ".")
        config = self["config"]
        try:
            found = gather(os.environ, self._twistd.absolute(config) if config else None, directory)
        except BadSource as error:
            raise usage.UsageError(str(error)) from None
        for name, given in found.items():
            key = name.replace("-", "_")
            if name == APPLICATION:
                self.application = self.application or _application(given.texts[0])
            elif name in FLAGS:
                self[name] = self[name] or is_true(given)
            elif name in REPEATED_NAMES:
                if key not in self._repeated:
                    for text in given.texts:
                        getattr(self, f"opt_{key}")(text)
                    self._where[name] = given.where
            elif self[name] is None:
                self[name] = given.texts[0]
                self._where[name] = given.where

    def _interface(self) -> str:
        chosen: str = self["interface"] or AUTO
        if chosen not in INTERFACES:
            raise usage.UsageError(f"--interface {chosen}: expected {', '.join(INTERFACES[:-1])} or {INTERFACES[-1]}")
        return chosen

    def _change_directory(self) -> None:
        """Change to `--chdir`; typed paths stay relative to the directory before."""
        directory = self["chdir"]
        if directory is None:
            return
        if self.supervisor is not None:
            directory = self.supervisor.directory  # what it has led to when this release was deployed
        self._twistd.keep_log_file()
        try:
            os.chdir(directory)
        except OSError as error:
            raise usage.UsageError(
                f"--chdir {directory}: {error.strerror}; name the application's directory"
            ) from None

    @property
    def _twistd(self) -> TwistdOptions:
        """The options before ours on the command line."""
        return TwistdOptions(self.parent)

    @property
    def check(self) -> bool:
        return bool(self["check"])

    @property
    def preload(self) -> bool:
        """Whether workers are forked from a process that has imported the application."""
        return bool(self["preload"])

    @property
    def reload(self) -> bool:
        """Whether a change of the application's files is a deploy."""
        return bool(self["reload"])

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
                given[name] = self._twistd.absolute(given[name])
        for name in ("spool", "reports"):
            if given.get(name):
                self._make_directory(given[name])
        given.update(self._repeated)
        try:
            return Settings(**given)
        except BadSetting as bad:
            name = bad.name.replace("_", "-")
            where = f" (from {self._where[name]})" if name in self._where else ""
            raise usage.UsageError(f"--{name} {typed.get(name, bad.value)}: {bad.problem}{where}") from None
        except FileNotFoundError as error:
            raise usage.UsageError(f"--spool: {error.strerror}; name a directory that can be written to") from None

    def _make_directory(self, path: str) -> None:
        """Make a directory, if its parent is there, for the user that the server will be; a failure is told later."""
        with suppress(OSError):
            os.mkdir(path, 0o750)
            os.chown(path, *self._twistd.owner)

    def _mapping(self, text: str) -> str:
        prefix, equals, target = text.partition("=")
        return f"{prefix}={self._twistd.absolute(target)}" if equals and target and "://" not in target else text

    def _check_standard_output(self) -> None:
        if self._twistd.daemon and self.settings.access_log == STANDARD_OUTPUT:
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
    parts = module.split(".") + (name.removesuffix("()").split(".") if colon else [])
    if not all(part.isidentifier() for part in parts):
        raise usage.UsageError(f"{text}: expected MODULE[:CALLABLE], such as mysite.wsgi:application")
    return text
