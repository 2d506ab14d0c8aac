"""How to start this program again, from another release.

A deploy often moves a symbolic link to the new release.  A process that knows only what its paths led to would start
the old release again, so the paths are kept as they were given.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from attrs import field, frozen

#: The environment variable that names the control socket to take over from.  Removed as soon as it is read, so that
#: the application and its children do not see it.
VARIABLE: Final = "GRACEFUL_TAKEOVER"

#: Variables that systemd addressed to this process by its pid, and that a successor must not inherit.
_NOT_ITS_OWN: Final = ("WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@frozen
class Origin:
    """How this process was started, by the paths as they were given.

    :ivar command: the command line, beginning with the interpreter or the script.
    :ivar directory: the working directory at the start.
    :ivar environment: the environment at the start.
    :ivar application: the directory of the application.
    :ivar led_to: that directory with its symbolic links resolved at the start.
    """

    command: tuple[str, ...]
    directory: str
    environment: Mapping[str, str]
    application: str
    led_to: str = field()

    @led_to.default
    def _where(self) -> str:
        return os.path.realpath(self.application)

    def program(self) -> list[str]:
        """Return the command line; a program without a directory is looked up in PATH."""
        program, *arguments = self.command
        if "/" not in program:
            program = shutil.which(program, path=self.environment.get("PATH")) or program
        return [program, *arguments]

    def fixed(self) -> Origin:
        """Return this origin with its symbolic links resolved, to start this very release again later."""
        program, *arguments = self.program()
        where, name = os.path.split(os.path.join(self.directory, program))
        directory, application = os.path.realpath(self.directory), os.path.realpath(self.application)
        # Not the program itself: the interpreter of a virtual environment is a link, and finds it by that path.
        command = (os.path.join(os.path.realpath(where), name), *arguments)
        return Origin(command, directory, {**self.environment, "PWD": directory}, application)

    @classmethod
    def of_this_process(
        cls,
        changes_to: str | None = None,
        environ: Mapping[str, str] = os.environ,
        argv: Sequence[str] = sys.orig_argv,
        here: str | None = None,
    ) -> Origin:
        """Return the origin of this process.  Call it while options are parsed, before anything changes.

        :param changes_to: the directory that the process will change to.
        :param here: the working directory.
        """
        here = here if here is not None else os.getcwd()
        written = environ.get("PWD", "")
        with suppress(OSError):
            if os.path.isabs(written) and os.path.samefile(written, here):
                here = written
        environment = {name: value for name, value in environ.items() if name not in (*_NOT_ITS_OWN, VARIABLE)}
        command = tuple(_without_interpreter(argv, here))
        return cls(command, here, {**environment, "PWD": here}, os.path.join(here, changes_to or here))


def _without_interpreter(argv: Sequence[str], here: str) -> Sequence[str]:
    """Drop the interpreter if the script's `#!` line names one: another release's script may name another."""
    if len(argv) > 1 and not argv[1].startswith("-"):
        script = os.path.join(here, argv[1])
        with suppress(OSError), open(script, "rb") as file:
            if file.read(2) == b"#!" and os.access(script, os.X_OK):
                return argv[1:]
    return argv
