"""The `graceful` command.

`graceful serve` starts an instance, as `twistd graceful-app` does.  The other commands are for running ones: they
find their control socket, and tell what they answer, in words and by their exit status.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from graceful.commands.common import (
    BROKEN_PIPE,
    FAILED,
    UNREACHABLE,
    USUAL,
    VARIABLE,
    count,
    exchange_id,
    say,
    seconds,
)
from graceful.control.client import ClientError, ControlRefused, NobodyThere

_DESCRIPTION = (
    "graceful serves WSGI applications and stops without interrupting anybody. "
    "An instance is started by: twistd -n graceful-app MODULE:CALLABLE, or graceful serve MODULE:CALLABLE. "
    "The other commands are for running ones."
)
_EPILOG = (
    "Exit status: 0 done; 1 the server will not; 2 it cannot be asked, or the command line is wrong. "
    "`stop --wait gone` and `wait gone` end with the server's own: 0 everything was finished, 70 something was taken "
    "down, 71 threads were abandoned; 72 if it has vanished without a last word. More: twistd graceful-app --help"
)
_DEPLOY = "Replace the instances of a site by their next version, one after the other."
_DEPLOY_EPILOG = (
    "Exit status: 0 deployed; 1 failed, refused or interrupted; 2 the file is wrong; 3, with --strict, deployed, but "
    "requests were interrupted."
)
_STARTING: Final = {
    "serve": "Serve an application, with the options of twistd graceful-app and of twistd.",
    "config": "Show which options hold for it, and where each comes from.",
}
Run = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        say(f"{message}; see {self.prog} --help")
        sys.exit(UNREACHABLE)


class _Versions(argparse.Action):
    """Shows the versions, which are looked for only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *ignored: object) -> NoReturn:
        from graceful.config.versions import versions

        print(versions())
        parser.exit()


def _lazily(module: str, name: str) -> Run:
    """Returns a command whose module is imported when it is used: most commands need few of the imports."""

    def run(arguments: argparse.Namespace) -> int:
        from importlib import import_module

        try:
            command: Run = getattr(import_module(f"graceful.commands.{module}"), name)
        except ModuleNotFoundError as missing:
            if (missing.name or "").partition(".")[0] != "rich":
                raise
            say(f"{name} needs the package rich: pip install 'graceful-app[cli]'")
            return UNREACHABLE
        return command(arguments)

    return run


def _misplaced(given: argparse.Namespace) -> int:
    say("--control stands behind the command that starts a server; see graceful serve --help")
    return UNREACHABLE


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    main = _Parser(prog="graceful", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False)
    main.add_argument("--version", action=_Versions, help="show the versions")
    control = f"the server's control socket [${VARIABLE}, else ./{USUAL}]"
    main.add_argument("--control", metavar="PATH", help=f"{control}; also behind the command")
    commands = main.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        # Without a default, which would replace what stands before the command.
        one.add_argument("--control", metavar="PATH", help=control, default=argparse.SUPPRESS)
        one.set_defaults(run=run)
        return one

    def of_process(one: argparse.ArgumentParser) -> None:
        one.add_argument("--pid", type=int, metavar="PID", help="the process that is meant, if there are several")

    # Their arguments never come here: `_run` hands them over as they were typed.
    for name, text in _STARTING.items():
        commands.add_parser(name, help=text, add_help=False, allow_abbrev=False).set_defaults(run=_misplaced)
    one = command("status", _lazily("status", "status"), "Show the state of a server, and what is in flight.")
    one.add_argument("--json", action="store_true", help="one JSON object, for programs")
    one = command("top", _lazily("top", "top"), "Show it live, in a terminal.")
    one.add_argument("--interval", type=seconds, default=1.0, metavar="SECONDS", help="between two looks [1]")
    one = command("stop", _lazily("stop", "stop"), "Finish everything in flight, and leave.")
    of_process(one)
    one.add_argument("--wait", choices=("closed", "gone"), help="return when its sockets are closed, or it is gone")
    one.add_argument("--deadline", type=seconds, metavar="SECONDS", help="how long requests may run")
    one.add_argument(
        "--quiet", action="store_true", help="the balancer sends nothing any more: close idle connections now"
    )
    one = command("wait", _lazily("stop", "wait"), "Wait until a server that stops has come so far.")
    of_process(one)
    one.add_argument("what", choices=("closed", "gone"), help="its sockets are closed, or its process is gone")
    command("leave", _lazily("orders", "leave"), "Leave the rotation of a balancer, by health alone.")
    command("enter", _lazily("orders", "enter"), "Enter it again.")
    text = "Load certificates again: new connections get the renewed ones."
    command("reload-certificates", _lazily("certificates", "reload_certificates"), text)
    one = command("workers", _lazily("orders", "workers"), "Have more workers or fewer, while they serve.")
    one.add_argument("count", type=count, metavar="N", help="how many; a server without --workers has none")
    one = command("takedown", _lazily("orders", "takedown"), "Interrupt one exchange.")
    of_process(one)
    one.add_argument("id", type=exchange_id, metavar="ID", help="its id, as `graceful status` shows it")
    one = command("extend", _lazily("orders", "extend"), "Move the deadline of a stop.")
    of_process(one)
    one.add_argument("seconds", type=seconds, metavar="SECONDS", help="so much later; earlier if it is negative")
    # Not of one server: these have no --control.
    text = "Print the configuration of gunicorn or uWSGI as a TOML file for --config."
    one = commands.add_parser("convert", help=text, description=text, allow_abbrev=False)
    one.add_argument("path", metavar="FILE", help="gunicorn.conf.py, which is run, or uwsgi.ini")
    one.set_defaults(run=_lazily("convert", "convert"))
    one = commands.add_parser("deploy", help=_DEPLOY, description=_DEPLOY, epilog=_DEPLOY_EPILOG, allow_abbrev=False)
    one.add_argument("file", metavar="FILE", help="what to deploy, and how carefully: deploy.toml")
    one.add_argument("--dry-run", action="store_true", help="say what would be done, and what stands in its way")
    one.add_argument("--json", action="store_true", help="one JSON object a line for each thing that happens")
    one.add_argument("--strict", action="store_true", help="end with 3 if any request was interrupted")
    one.set_defaults(run=_lazily("deploy", "deploy"))
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: the arguments without the command's name; None for those of the process.
    :returns: the exit status.
    """
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # here, where a failure can be caught
    except BrokenPipeError:
        # The reader has had enough, as `head` has.  At its end the interpreter would flush again, and fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _run(arguments: Sequence[str] | None) -> int:
    typed = sys.argv[1:] if arguments is None else arguments
    if typed and typed[0] in _STARTING:
        from importlib import import_module

        start: Callable[[Sequence[str]], int] = getattr(import_module(f"graceful.commands.{typed[0]}"), typed[0])
        return start(typed[1:])
    reads = parser()
    given = reads.parse_args(arguments)
    run: Run = given.run
    if "file" in given and given.control is not None:
        reads.error("deploy has no --control: its file names the control socket of each instance")
    try:
        return run(given)
    except ControlRefused as refused:
        say(str(refused))
        return FAILED
    except NobodyThere as error:
        where = given.control or os.environ.get(VARIABLE)
        say(str(error) if where else f"{error}; name another control socket by --control PATH or ${VARIABLE}")
        return UNREACHABLE
    except ClientError as error:
        say(str(error))
        return UNREACHABLE
    except KeyboardInterrupt:
        return 130
