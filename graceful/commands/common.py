"""What the commands share: where the control socket is, and how things are said."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Final

from graceful.control.client import Client, NobodyThere
from graceful.control.socket import leaving

#: Exit statuses: it is done; it cannot be done; the server cannot be asked; it has ended without a last word.
DONE: Final = 0
FAILED: Final = 1
UNREACHABLE: Final = 2
VANISHED: Final = 72

VARIABLE: Final = "GRACEFUL_CONTROL"
USUAL: Final = "graceful.sock"


def control_path(arguments: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> str:
    """Where the control socket is: as the command line says, or the environment, or in this directory."""
    return os.path.abspath(arguments.control or environ.get(VARIABLE) or USUAL)


def say(text: str) -> None:
    """Tell the operator that something is wrong, in one line."""
    print(f"graceful: {text}", file=sys.stderr)


def connect(path: str) -> Client:
    """Connect to the server at a path; or else to the only one that lives beside it, such as one on its way out.

    :raises ClientError: there is none.
    """
    try:
        return Client(path)
    except NobodyThere:
        others = connect_leaving(path)
        for other in others[1:]:
            other.close()
        if len(others) == 1:
            return others[0]
        raise


def connect_leaving(path: str) -> list[Client]:
    """Connect to the servers that have given a path up and still live."""
    found = []
    for other in leaving(path):
        try:
            found.append(Client(other))
        except NobodyThere:
            pass  # it was killed, and its file is left
    return found


def seconds(text: str) -> float:
    """What was typed as seconds.

    :raises argparse.ArgumentTypeError: it is no number.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) <= 365 * 86_400:
        raise argparse.ArgumentTypeError(f"expected seconds, not {text!r}")
    return value
