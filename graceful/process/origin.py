"""How this process was started, by the paths as they were given, so that it can be started again."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from attrs import field, frozen

#: Tells a successor at which control socket to ask; nobody else's business, so it is taken out of the environment.
VARIABLE: Final = "GRACEFUL_TAKEOVER"


# What systemd has said to a process of another number.
_NOT_ITS_OWN: Final = ("WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@frozen
class Origin:
    """How this process was started, by the paths as they were given.

    :ivar command: the command line, beginning with the interpreter or the script.
    :ivar directory: where it was started.
    :ivar environment: as it was.
    :ivar application: where the application is.
    :ivar led_to: where that led then.
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
        """The command line; a program without a directory is looked up as the shell does."""
        program, *arguments = self.command
        if "/" not in program:
            program = shutil.which(program, path=self.environment.get("PATH")) or program
        return [program, *arguments]

    def fixed(self) -> Origin:
        """What the paths lead to now, so that it can be started again when a symbolic link leads elsewhere."""
        program, *arguments = self.program()
        where, name = os.path.split(os.path.join(self.directory, program))
        directory, application = os.path.realpath(self.directory), os.path.realpath(self.application)
        # Not the program itself: an interpreter of a virtual environment is a link, and knows that by its name.
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
        """Find it out, while options are parsed.

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
    """Leave the interpreter out if the script names it: another release's script names another one."""
    if len(argv) > 1 and not argv[1].startswith("-"):
        script = os.path.join(here, argv[1])
        with suppress(OSError), open(script, "rb") as file:
            if file.read(2) == b"#!" and os.access(script, os.X_OK):
                return argv[1:]
    return argv
