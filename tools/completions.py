"""Make the completions of bash, zsh and fish from the tables of commands and options.

    python tools/completions.py

writes them below `share/`, from where they go into the wheel.  A test says when they have to be made again.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from graceful.cli import parser  # noqa: E402
from graceful.config.command_line import TWISTD_FLAGS, TWISTD_VALUES  # noqa: E402
from graceful.config.option_table import GROUPS, REPEATED  # noqa: E402

#: Of the options with few values, those values.
CHOICES: Final = {
    "interface": ("auto", "wsgi", "asgi"),
    "log-format": ("text", "json"),
    "access-log-format": ("combined", "json"),
    "websocket-compression": ("off", "deflate"),
}
STARTING: Final = ("serve", "config")
NOTE: Final = "Made by tools/completions.py."


class Flag(NamedTuple):
    """An option, or an argument without a name.

    :ivar name: without dashes.
    :ivar value: what its value is called; empty if it has none.
    :ivar help: for people.
    :ivar choices: its possible values, if there are few.
    :ivar repeated: it can be given several times.
    """

    name: str
    value: str
    help: str
    choices: tuple[str, ...] = ()
    repeated: bool = False

    @property
    def short(self) -> str:
        """The first sentence of the help, without its full stop."""
        return re.split(r"[.:;] |\.$", self.help)[0]


class Command(NamedTuple):
    """A command, its options, and its arguments without a name."""

    name: str
    help: str
    flags: list[Flag]
    arguments: list[Flag]


def server_flags() -> list[tuple[str, list[Flag]]]:
    """Returns the options of the server, in groups with a title each."""
    groups = [
        (title, [Flag(one.name, one.value, one.help, CHOICES.get(one.name, ()), one in REPEATED) for one in group])
        for title, group in GROUPS.items()
    ]
    process = [Flag(name, value, text) for name, (value, text) in TWISTD_VALUES.items()]
    process += [Flag(name, "", text) for name, text in TWISTD_FLAGS.items()]
    return [*groups, ("The process", process)]


def commands() -> list[Command]:
    """Returns all commands, in the order of the help."""
    (of_commands,) = (one for one in parser()._actions if isinstance(one, argparse._SubParsersAction))
    found = []
    for shown in of_commands._choices_actions:
        name, text = shown.dest, shown.help or ""
        if name in STARTING:
            application = [Flag("application", "MODULE:CALLABLE", "The application.")]
            found.append(Command(name, text, [flag for _, group in server_flags() for flag in group], application))
            continue
        actions = of_commands.choices[name]._actions
        flags = [_flag(one) for one in actions if one.option_strings]
        found.append(Command(name, text, flags, [_flag(one) for one in actions if not one.option_strings]))
    return found


def _flag(action: argparse.Action) -> Flag:
    choices = tuple(str(choice) for choice in action.choices or ())
    takes = action.nargs != 0
    name = action.option_strings[-1].lstrip("-") if action.option_strings else action.dest
    value = str(action.metavar or "|".join(choices) or name.upper()) if takes else ""
    return Flag(name, value, (action.help or "").replace("%%", "%"), choices)


# -- bash -------------------------------------------------------------------------------------------------------


def bash() -> str:
    """Returns the completion for bash."""
    everything = commands()
    by_name = {flag.name: flag for command in everything for flag in command.flags}
    lines = [
        f"# bash completion for graceful.  {NOTE}",
        "_graceful() {",
        "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command= words= index",
        "    COMPREPLY=()",
        "    case $before in",
    ]
    for test, reply in (
        (_is_file, _reply("-f")),
        (_is_directory, _reply("-d")),
        (_is_other, "return"),
    ):
        names = "|".join(f"--{flag.name}" for flag in by_name.values() if test(flag))
        lines.append(f"        {names}) {reply} ;;")
    for flag in by_name.values():
        if flag.choices:
            reply = f"""COMPREPLY=($(compgen -W "{" ".join(flag.choices)}" -- "$word")); return"""
            lines.append(f"        --{flag.name}) {reply} ;;")
    lines += [
        "    esac",
        "    for ((index = 1; index < COMP_CWORD; index++)); do",
        "        case ${COMP_WORDS[index]} in",
        "            --control) ((index++)) ;;",
        "            -*) ;;",
        "            *) command=${COMP_WORDS[index]}; break ;;",
        "        esac",
        "    done",
        "    case $command in",
        f"        '') words='{' '.join([command.name for command in everything])} --control --help --version' ;;",
    ]
    for command in everything:
        words = [f"--{flag.name}" for flag in command.flags]
        words += [choice for argument in command.arguments for choice in argument.choices]
        lines.append(f"        {command.name}) words='{' '.join(words)}' ;;")
        if any(_is_file(argument) for argument in command.arguments):
            lines[-1] = lines[-1].replace(" ;;", "; [[ $word == -* ]] || compopt -o default ;;")
    lines += ["    esac", '    COMPREPLY=($(compgen -W "$words" -- "$word"))', "}", "complete -F _graceful graceful"]
    return "\n".join(lines) + "\n"


def _reply(of: str) -> str:
    return f'compopt -o filenames; COMPREPLY=($(compgen {of} -- "$word")); return'


def _is_other(flag: Flag) -> bool:
    return bool(flag.value) and not flag.choices and not _is_file(flag) and not _is_directory(flag)


def _is_file(flag: Flag) -> bool:
    return flag.value in ("PATH", "FILE")


def _is_directory(flag: Flag) -> bool:
    return flag.value == "DIR"


# -- zsh --------------------------------------------------------------------------------------------------------


def zsh() -> str:
    """Returns the completion for zsh."""
    everything = commands()
    described = [f"        {_quoted(f'{command.name}:{command.help}')}" for command in everything]
    lines = [
        "#compdef graceful",
        f"# {NOTE}",
        "local context state state_descr line",
        "typeset -A opt_args",
        "_arguments -C \\",
        "    '--control[the control socket of the server]:path:_files' \\",
        "    '--help[show the help]' \\",
        "    '--version[show the versions]' \\",
        "    '1:command:->command' \\",
        "    '*::argument:->argument'",
        "case $state in",
        "command)",
        "    local -a commands",
        "    commands=(",
        *described,
        "    )",
        "    _describe command commands",
        "    ;;",
        "argument)",
        "    case $words[1] in",
    ]
    for command in everything:
        specs = [_zsh_spec(flag) for flag in command.flags]
        specs += [
            _quoted(f"{number}:{argument.name}:{_zsh_values(argument)}")
            for number, argument in enumerate(command.arguments, 1)
        ]
        lines.append(f"    {command.name})")
        lines.append(" \\\n".join(["        _arguments", *(f"            {spec}" for spec in specs)]))
        lines.append("        ;;")
    return "\n".join([*lines, "    esac", "    ;;", "esac"]) + "\n"


def _zsh_spec(flag: Flag) -> str:
    described = re.sub(r"([\[\]\\:])", r"\\\1", flag.short)
    value = f":{flag.value.lower().replace(':', ' ')}:{_zsh_values(flag)}" if flag.value else ""
    return _quoted(f"{'*' if flag.repeated else ''}--{flag.name}[{described}]{value}")


def _zsh_values(flag: Flag) -> str:
    if flag.choices:
        return f"({' '.join(flag.choices)})"
    return "_files" if _is_file(flag) else "_files -/" if _is_directory(flag) else ""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# -- fish -------------------------------------------------------------------------------------------------------


def fish() -> str:
    """Returns the completion for fish."""
    everything = commands()
    names = " ".join(command.name for command in everything)
    start = f"not __fish_seen_subcommand_from {names}"
    lines = [
        f"# {NOTE}",
        "complete -c graceful -f",
        f"complete -c graceful -n '{start}' -l control -r -F -d 'the control socket of the server'",
        f"complete -c graceful -n '{start}' -l help -d 'show the help'",
        f"complete -c graceful -n '{start}' -l version -d 'show the versions'",
    ]
    for command in everything:
        lines.append(f"complete -c graceful -n '{start}' -a {command.name} -d {_fish_quoted(command.help)}")
    for command in everything:
        within = f"complete -c graceful -n '__fish_seen_subcommand_from {command.name}'"
        for flag in command.flags:
            lines.append(f"{within} -l {flag.name}{_fish_values(flag)} -d {_fish_quoted(flag.short)}")
        for argument in command.arguments:
            if argument.choices:
                lines.append(f"{within} -a '{' '.join(argument.choices)}'")
            elif _is_file(argument):
                lines.append(f"{within} -F")
    return "\n".join(lines) + "\n"


def _fish_values(flag: Flag) -> str:
    if not flag.value:
        return ""
    if flag.choices:
        return f" -x -a '{' '.join(flag.choices)}'"
    if _is_directory(flag):
        return " -x -a '(__fish_complete_directories)'"
    return " -r -F" if _is_file(flag) else " -x"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


FILES: Final[dict[str, Callable[[], str]]] = {
    "share/bash-completion/completions/graceful": bash,
    "share/zsh/site-functions/_graceful": zsh,
    "share/fish/vendor_completions.d/graceful.fish": fish,
}


def made() -> Iterator[tuple[Path, str]]:
    """Yields each file, and what has to be in it."""
    for name, make in FILES.items():
        yield ROOT / name, make()


if __name__ == "__main__":
    for path, text in made():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
