"""The command line of `graceful serve`: options of twistd and of `graceful-app` in any order, and the application.

twistd wants its own options before the name `graceful-app`, and the others behind it.  An operator who has never
heard of twistd cannot know which is which, so they are sorted here, by their names alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from graceful.config.option_table import GROUPS, option_lines

_LETTERS: Final = {
    "n": "nodaemon",
    "l": "logfile",
    "d": "rundir",
    "r": "reactor",
    "u": "uid",
    "g": "gid",
    "p": "profile",
    "b": "debug",
}

TWISTD_VALUES: Final = {
    "logfile": ("PATH", "Write the log there, in the foreground by default to standard output."),
    "pidfile": ("PATH", "Keep the process's number there [twistd.pid]."),
    "uid": ("USER", "Become that user once the sockets are bound."),
    "gid": ("GROUP", "Become that group."),
    "umask": ("MODE", "Permissions that new files do not get, octal."),
    "rundir": ("DIR", "Change to that directory before anything else."),
    "chroot": ("DIR", "Make that directory the root of the file system."),
    "reactor": ("NAME", "Twisted's reactor."),
    "logger": ("NAME", "A factory of log observers, by its name in Python."),
    "prefix": ("TEXT", "What each line in the syslog begins with."),
    "profile": ("PATH", "Run under the profiler, and write its result there."),
    "profiler": ("NAME", "The profiler."),
}
"""The options of twistd that take a value: what the value is called, and what the option does."""

TWISTD_FLAGS: Final = {
    "daemon": "Go to the background; return once the server accepts.",
    "nodaemon": "Stay in the foreground; this is the default.",
    "syslog": "Write the log to the syslog.",
    "euid": "Become --uid in effect only, so that the process can change back.",
    "debug": "Run in Python's debugger.",
    "savestats": "Write the profiler's figures instead of its text.",
}
"""The options of twistd without a value, and `--daemon`, which twistd has as the lack of `--nodaemon`."""


NAMES: Final = [*(option.name for group in GROUPS.values() for option in group), *TWISTD_VALUES, *TWISTD_FLAGS]
"""Every long option of `graceful serve`."""


class CommandLine(NamedTuple):
    """What was typed, sorted.

    :ivar twistd: for twistd, without `-n`.
    :ivar server: for `graceful-app`, with the application at the end.
    :ivar daemon: whether the server goes to the background.
    :ivar help: the help is asked for.
    """

    twistd: list[str]
    server: list[str]
    daemon: bool
    help: bool


def sort(arguments: Sequence[str]) -> CommandLine:
    """Returns the arguments, sorted.  What no table has goes to `graceful-app`, which refuses it.

    :param arguments: what stands behind `graceful serve`.
    """
    twistd: list[str] = []
    server: list[str] = []
    names: list[str] = []
    daemon = helps = False
    with_value = {option.name for group in GROUPS.values() for option in group if option.value} | TWISTD_VALUES.keys()
    left = list(arguments)
    while left:
        one = left.pop(0)
        if one == "--":
            names += left
            break
        if not one.startswith("-") or one == "-":
            names.append(one)
            continue
        name, joined = _name(one)
        to = twistd if name in TWISTD_VALUES or name in TWISTD_FLAGS else server
        if name == "help":
            helps = True
        elif name in ("daemon", "nodaemon") and not joined:
            daemon = name == "daemon"
        else:
            to.append(one)
            if name in with_value and not joined and left:
                to.append(left.pop(0))
    return CommandLine(twistd, [*server, *names], daemon, helps)


def _name(typed: str) -> tuple[str, bool]:
    """Returns the whole name of an option, and whether its value is joined to it."""
    if not typed.startswith("--"):
        return _LETTERS.get(typed[1], typed[1:]), len(typed) > 2
    name, equals, _ = typed[2:].partition("=")
    longer = [known for known in NAMES if known.startswith(name)]
    return longer[0] if len(longer) == 1 and name not in NAMES else name, bool(equals)


def parsed(server: Sequence[str], names: Sequence[str]) -> tuple[dict[str, list[str]], str | None]:
    """Returns the values of the server's options, and the application; a flag has the value `true`.

    :param server: as :func:`sort` returns it.
    :param names: the options that are wanted; others are left out.
    :raises ValueError: an option does not exist or has no value, or there are two applications.
    """
    values: dict[str, list[str]] = {}
    application = None
    takes = {option.name: bool(option.value) for group in GROUPS.values() for option in group}
    left = list(server)
    while left:
        one = left.pop(0)
        if not one.startswith("-"):
            if application is not None:
                raise ValueError(f"{one}: expected one application, and {application} is one")
            application = one
            continue
        name, joined = _name(one)
        if name not in takes:
            raise ValueError(f"{one}: there is no such option")
        if takes[name] and not joined and not left:
            raise ValueError(f"{one}: expected a value")
        value = one.partition("=")[2] if joined else left.pop(0) if takes[name] else "true"
        if name in names:
            values.setdefault(name, []).append(value)
    return values, application


def twistd_help(width: int) -> str:
    """Returns the help on the options that are twistd's.

    :param width: columns.
    """
    lines = ["The process:"]
    for name, (value, text) in TWISTD_VALUES.items():
        lines += option_lines(f"--{name} {value}", text, width)
    for name, text in TWISTD_FLAGS.items():
        lines += option_lines(f"--{name}", text, width)
    return "\n".join(lines) + "\n"
