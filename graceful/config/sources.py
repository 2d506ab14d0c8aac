"""Options from the environment and from a TOML file, by the names that the table of options has.

The command line goes before the environment, and the environment before the file.  Everything that is found is kept
as it would be typed, so that it is read and refused in one way.  A name that no option has is an error: what is
misspelt would otherwise have no effect, and not be missed before it is needed.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from graceful.config.option_table import CONFIG, FLAGS, GROUPS, REPEATED, TAKEOVER

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX: Final = "GRACEFUL_"
APPLICATION: Final = "application"
"""The name by which the application is set, which the command line has without a name."""

PROJECT: Final = "pyproject.toml"

#: They are orders for one start, and no settings.
_TYPED_ONLY: Final = ("check", "help", "version")
NAMES: Final = [
    APPLICATION,
    *(option.name for group in GROUPS.values() for option in group if option.name not in _TYPED_ONLY),
]
"""What the environment can set; a file can set all of it but `config`."""

#: Those that can be given several times.
REPEATED_NAMES: Final = [option.name for option in REPEATED]
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")

#: A supervisor sets it for its worker, and a test run sets those that begin with TEST_.
_NOT_OPTIONS: Final = re.compile("WORKER|TEST_.*")
#: Kubernetes and Docker set these in each container, for a service that is called `graceful-…`.
_SERVICE_LINK: Final = re.compile(r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?)")


class BadSource(ValueError):
    """The environment or a file sets what cannot be set.  The text is one line for the operator."""


class Given(NamedTuple):
    """An option that is set.

    :ivar texts: its values, as they would be typed; several only if it can be repeated.
    :ivar where: what sets it.
    """

    texts: tuple[str, ...]
    where: str


def gather(environ: Mapping[str, str], config: str | None, project: str) -> dict[str, Given]:
    """Returns what the environment sets, and what a file sets besides.

    :param environ: without the variables by which a server starts its successor.
    :param config: the file that the command line names; None if it names none.
    :param project: the directory whose `pyproject.toml` is read if no file is named.
    :raises BadSource: a name or a value is wrong, or the file cannot be read.
    """
    given = from_environment(environ)
    named = given.pop(CONFIG.name, Given(("",), "")).texts[0]
    path = config or named
    found = from_file(path) if path else _from_project(os.path.join(project, PROJECT))
    return {**found, **given}


def from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    """Returns what the environment sets.  A variable that is empty sets nothing.

    :raises BadSource: a variable beginning with `GRACEFUL_` names no option.
    """
    given = {}
    for variable, text in sorted(environ.items()):
        rest = variable.removeprefix(PREFIX)
        if rest == variable or _NOT_OPTIONS.fullmatch(rest):
            continue
        name = rest.lower().replace("_", "-")
        if name not in NAMES:
            if _SERVICE_LINK.fullmatch(rest):
                continue
            known = [PREFIX + one.upper().replace("-", "_") for one in NAMES]
            raise BadSource(f"{variable}: there is no such option{nearest(variable, known)}")
        if name == TAKEOVER.name and text.lower() not in _TRUE + _FALSE:
            continue  # the control socket of a server whose successor this is
        if name in FLAGS and text and text.lower() not in _TRUE + _FALSE:
            raise BadSource(f"{variable}: expected true or false")
        if text:
            given[name] = Given(tuple(text.split()) if name in REPEATED_NAMES else (text,), variable)
    return given


def from_file(path: str) -> dict[str, Given]:
    """Returns what a file sets: `[tool.graceful]` in a `pyproject.toml`, the whole of any other.

    :raises BadSource: it cannot be read, or sets what cannot be set.
    """
    try:
        with open(path, "rb") as file:
            table: Any = tomllib.load(file)
    except OSError as error:
        raise BadSource(f"--config {path}: {error.strerror}; name a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSource(f"{path} is no TOML: {' '.join(str(error).split())}") from None
    if os.path.basename(path) == PROJECT:
        tools = table.get("tool", {})
        table = tools.get("graceful", {}) if isinstance(tools, dict) else {}
        if not isinstance(table, dict):
            raise BadSource(f"{path}: tool.graceful: expected a table")
    return _of_table(table, path)


def _from_project(path: str) -> dict[str, Given]:
    """Returns what a project's file sets, if it is there; what does not mention this server is not even parsed."""
    try:
        with open(path, "rb") as file:
            mentioned = b"graceful" in file.read()
    except OSError:
        return {}
    return from_file(path) if mentioned else {}


def _of_table(table: Mapping[str, Any], path: str) -> dict[str, Given]:
    given: dict[str, Given] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in NAMES or name == CONFIG.name:
            raise BadSource(f"{path}: {key}: there is no such option{nearest(name, NAMES)}")
        if name in given:
            raise BadSource(f"{path}: {key} is there twice, with - and with _")
        given[name] = Given(_texts(name, value, f"{path}: {key}"), path)
    return given


def _texts(name: str, value: Any, where: str) -> tuple[str, ...]:
    """Returns a value of TOML as it would be typed."""
    if name in FLAGS:
        if not isinstance(value, bool):
            raise BadSource(f"{where}: expected true or false")
        return (str(value).lower(),)
    values = value if isinstance(value, list) and name in REPEATED_NAMES else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            many = ", or a list of them" if name in REPEATED_NAMES else ""
            raise BadSource(f"{where}: expected a string or a number{many}")
    return tuple(map(str, values))


def is_true(given: Given) -> bool:
    """Returns whether a flag is set."""
    return given.texts[0].lower() in _TRUE


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the known name that a wrong one is nearest to, as the end of a message; empty if none is near."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f"; the nearest is {found[0]}" if found else ""
