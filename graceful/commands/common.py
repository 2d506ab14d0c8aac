"""What the commands share: finding the control socket, exit statuses, messages, types of arguments."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from typing import Final

from graceful.control.client import ControlClient, NobodyThere, connect_to
from graceful.control.discovery import connect_beside

#: Exit statuses: done; refused or failed; the server cannot be asked; it has ended without a last word.
DONE: Final = 0
FAILED: Final = 1
UNREACHABLE: Final = 2
VANISHED: Final = 72
#: As a shell shows an end by SIGPIPE: the reader of the output has gone.
BROKEN_PIPE: Final = 141

#: Where the control socket is if no option says: the environment variable, then the file in this directory.
VARIABLE: Final = "GRACEFUL_CONTROL"
USUAL: Final = "graceful.sock"


def control_path(arguments: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> str:
    """Returns the path of the control socket: from the command line, the environment, or this directory.

    :raises NobodyThere: the command line names a process that does not answer there.
    """
    path = os.path.abspath(arguments.control or environ.get(VARIABLE) or USUAL)
    pid = getattr(arguments, "pid", None)
    if pid is None:
        return path
    with connect_to(path, pid) as client:
        return client.path


def say(text: str) -> None:
    """Tell the operator that something is wrong, in one line."""
    print(f"graceful: {text}", file=sys.stderr)


def connect(path: str) -> ControlClient:
    """Connect to the server at a path; without one, to the only server beside it, such as one on its way out.

    :raises ClientError: there is none.
    """
    try:
        return ControlClient(path)
    except NobodyThere:
        others = connect_beside(path)
        if len(others) == 1:
            return others[0]
        for other in others:
            other.close()
        raise


def exchange_id(text: str) -> str:
    """Checks the id of an exchange: a number, after its worker's pid and a dash if there are workers.

    :raises argparse.ArgumentTypeError: it is no id.
    """
    if re.fullmatch("[0-9]+(-[0-9]+)?", text) is None:
        raise argparse.ArgumentTypeError(f"expected a number, or PID-NUMBER for a worker's, not {text!r}")
    return text


def count(text: str) -> int:
    """Returns the number of workers that a text says.

    :raises argparse.ArgumentTypeError: it is no number, or 0.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text)):
        raise argparse.ArgumentTypeError(f"expected a number of workers, at least 1, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """Returns the seconds that a text says.

    :raises argparse.ArgumentTypeError: it is no number, or more than a year.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) <= 365 * 86_400:
        raise argparse.ArgumentTypeError(f"expected seconds, not {text!r}")
    return value
