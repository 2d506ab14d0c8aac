"""`graceful convert`: the configuration of gunicorn or uWSGI, as a TOML file."""

from __future__ import annotations

import argparse

from graceful.commands.common import DONE, UNREACHABLE, say
from graceful.config import from_gunicorn, from_uwsgi
from graceful.config.conversion import CannotConvert


def convert(arguments: argparse.Namespace) -> int:
    """Print what a file becomes."""
    path: str = arguments.path
    reads = from_gunicorn.convert if path.endswith(".py") else from_uwsgi.convert if path.endswith(".ini") else None
    if reads is None:
        say(f"convert: {path}: expected a .py of gunicorn or a .ini of uWSGI")
        return UNREACHABLE
    try:
        print(reads(path).text(), end="")
    except CannotConvert as error:
        say(f"convert: {error}")
        return UNREACHABLE
    return DONE
