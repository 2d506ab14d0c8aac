"""What twistd's own options say, and what of them this server changes before twistd reads them.

twistd parses the command line before it forks, sheds privileges and opens its log.  So until then its options can be
read, to know what it will do, and be changed: a pid file that twistd manages would refuse a successor, and a log file
that it opens could not be shared.

`twist` has few of these options, and a program that embeds the server has none.
"""

from __future__ import annotations

import os
from typing import Any, Final

from twisted.python import usage

from graceful.logs import twistd_log as logs
from graceful.logs.journal import is_journal
from graceful.process.pidfile import PidFile, PidFileBusy, PidFileError

#: twistd's own default; it says nothing about which server this is, so the control socket is not named after it.
DEFAULT_PID_FILE: Final = "twistd.pid"

#: The name of the control socket if neither it nor a pid file was named.
DEFAULT_CONTROL: Final = "graceful.sock"


class TwistdOptions:
    """The options beside which those of this server were given.

    :param options: of twistd or `twist`, which are changed; None if there are none.
    """

    def __init__(self, options: dict[str, Any] | None) -> None:
        self._there = options is not None
        self._options: dict[str, Any] = options if options is not None else {}

    @property
    def _is_twistd(self) -> bool:
        """Whether it is twistd: `twist` never forks, and has no such keys."""
        return "nodaemon" in self._options

    # -- what they say ------------------------------------------------------------------------------------

    @property
    def daemon(self) -> bool:
        """Whether the process goes into the background, where it has no standard output."""
        return not (self._options.get("nodaemon", True) or self._options.get("debug"))

    @property
    def logs_elsewhere(self) -> bool:
        """Whether the log goes anywhere but to the terminal."""
        options = self._options
        if not self._is_twistd:
            return False
        return bool(not options["nodaemon"] or options.get("syslog") or options.get("logfile") not in (None, "", "-"))

    @property
    def owner(self) -> tuple[int, int]:
        """The user and group that twistd will change to; -1 where it will not."""
        if not self._is_twistd:
            return -1, -1
        uid, gid = self._options.get("uid"), self._options.get("gid")
        return -1 if uid is None else uid, -1 if gid is None else gid

    def absolute(self, path: str) -> str:
        """Returns a path that was typed, as an absolute one."""
        # twistd changes to its --rundir only after parsing, and --logfile is taken from there too.
        return os.path.abspath(os.path.join(self._options.get("rundir", "."), path))

    def default_control(self) -> str:
        """Returns the default path of the control socket: beside the pid file, or else in the run directory."""
        pid_file = self._options.get("pidfile")
        if not pid_file:
            return self.absolute(DEFAULT_CONTROL)
        directory, name = os.path.split(os.path.abspath(pid_file))
        name = DEFAULT_CONTROL if name == DEFAULT_PID_FILE else name.removesuffix(".pid") + ".sock"
        return os.path.join(directory, name)

    # -- what of them is changed --------------------------------------------------------------------------

    def stay_with_supervisor(self) -> None:
        """A worker is its supervisor's child, logs where that does, and has no pid file."""
        options = self._options
        if not options.get("nodaemon", True):
            options["nodaemon"] = True
            options["logfile"] = options.get("logfile") or "twistd.log"
        if "pidfile" in options:
            options["pidfile"] = ""

    def keep_log_file(self) -> None:
        """Have the log where it was to be, although the directory is about to change."""
        options = self._options
        if self._is_twistd:
            log = options.get("logfile") or ("" if options["nodaemon"] else "twistd.log")
            if log not in ("", "-"):
                options["logfile"] = self.absolute(log)

    def choose_log_format(self, chosen: str | None) -> None:
        """Have twistd log in a format, append to a file that instances share, and rate for the journal.

        :param chosen: `text`, `json`, or None for the usual one.
        :raises usage.UsageError: that cannot be.
        """
        options = self._options
        if chosen not in (None, "text", "json"):
            raise usage.UsageError(f"--log-format {chosen}: expected text or json")
        as_json = chosen == "json"
        if as_json and not self._is_twistd:
            raise usage.UsageError("--log-format json: twist has this option itself, before graceful-app")
        if options.get("syslog") or options.get("logger"):
            if as_json:
                raise usage.UsageError("--log-format json: twistd's --syslog and --logger write in their own ways")
        elif self._there and (as_json or self.logs_elsewhere or is_journal(logs.STANDARD_OUTPUT)):
            logs.write(options, as_json)

    def take_pid_file(self, check_only: bool, takeover: bool) -> PidFile | None:
        """Manage the pid file instead of twistd, which would refuse to start a successor, and remove its file.

        :param check_only: no process is to be started, so there may be one.
        :param takeover: the process in the file is to be replaced.
        :raises usage.UsageError: another process has it.
        """
        path = self._options.get("pidfile")
        if not path:
            return None
        self._options["pidfile"] = ""
        if check_only:
            return None  # a check is made beside an instance that runs
        pid_file = PidFile(path)
        try:
            if not takeover:
                pid_file.check()
        except (PidFileBusy, PidFileError) as error:
            raise usage.UsageError(str(error)) from None
        return pid_file
