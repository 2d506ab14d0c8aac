"""`graceful config`: which options hold, and where each comes from, as a file that `--config` can read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Final

from graceful.commands.common import DONE, UNREACHABLE, say
from graceful.config.command_line import parsed, sort
from graceful.config.option_table import CHDIR, CONFIG, FLAGS, GROUPS
from graceful.config.sources import APPLICATION, NAMES, REPEATED_NAMES, Given, gather, is_true

_NUMBER: Final = re.compile(r"(0|[1-9][0-9]{0,17})(\.[0-9]+)?")


def config(arguments: Sequence[str]) -> int:
    """Print what would hold for `graceful serve` with the same arguments.

    :param arguments: what stands behind `graceful config`.
    :returns: the exit status; 2 if the command line, the environment or the file is wrong.
    """
    try:
        typed, application = parsed(sort(arguments).server, NAMES)
        directory = typed.get(CHDIR.name, [os.environ.get("GRACEFUL_CHDIR") or "."])[-1]
        given = gather(os.environ, typed.get(CONFIG.name, [None])[-1], directory)
    except ValueError as error:
        say(f"config: {error}")
        return UNREACHABLE
    if application:
        given[APPLICATION] = Given((application,), "the command line")
    for name, texts in typed.items():
        repeated = name in REPEATED_NAMES
        given[name] = Given(tuple(texts) if repeated else (texts[-1],), "the command line")
    given.pop(CONFIG.name, None)
    print(as_toml(given), end="")
    return DONE


def as_toml(given: dict[str, Given]) -> str:
    """Returns a TOML file: what is given, with its source, and the defaults of the rest as comments."""
    lines = []
    if APPLICATION in given:
        lines.append(_line(APPLICATION, given[APPLICATION]))
    for title, group in GROUPS.items():
        lines += ["", f"# {title}"] if lines else [f"# {title}"]
        for option in group:
            if option.name in given:
                lines.append(_line(option.name, given[option.name]))
            elif option.name in NAMES and option.name != CONFIG.name:
                lines.append(f"# {option.name}: {option.default or 'no'} (default)")
    return "\n".join(lines) + "\n"


def _line(name: str, given: Given) -> str:
    if name in FLAGS:
        value = str(is_true(given)).lower()
    elif name in REPEATED_NAMES:
        value = f"[{', '.join(map(_value, given.texts))}]"
    else:
        value = _value(given.texts[0])
    return f"{name} = {value}  # {given.where}"


def _value(text: str) -> str:
    return text if _NUMBER.fullmatch(text) else json.dumps(text, ensure_ascii=False)
