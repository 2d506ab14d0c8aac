"""The `graceful` command.

An instance is started by `twistd graceful-app`.  This command is for what is done to running ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

_WHAT_EXISTS = "there are graceful --version, graceful --help, and twistd graceful-app, which is the server"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: what stands behind the command's name; by default the process's own.
    :return: the exit status: 0, or 2 if the command line was not understood.
    """
    parser = argparse.ArgumentParser(
        prog="graceful",
        description="graceful serves WSGI applications and stops without interrupting anybody. "
        "An instance is started by: twistd -n graceful-app MODULE:CALLABLE",
        epilog="More: twistd graceful-app --help",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"graceful {version('graceful')}")
    _, others = parser.parse_known_args(arguments)
    what = f"no such command: {' '.join(others)}" if others else "no command given"
    print(f"graceful: {what}; {_WHAT_EXISTS}", file=sys.stderr)
    return 2
