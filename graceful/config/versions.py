"""What `--version` says: this release, and what it runs on, as a report of a fault should have it."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Final

from graceful._version import __version__
from graceful.process.interpreter import is_compiled

#: What has a version of its own: how it is called, and its distribution.
_PARTS: Final = {"Twisted": "Twisted", "httptools": "httptools"}


def versions() -> str:
    """Returns the versions of this release, of the interpreter, of Twisted and of the parser, in one line.

    The last word is `compiled` if what every request goes through is.
    """
    parts = [f"graceful {__version__}", f"{platform.python_implementation()} {platform.python_version()}"]
    parts += [f"{name} {version(distribution)}" for name, distribution in _PARTS.items()]
    return ", ".join([*parts, "compiled"] if is_compiled() else parts)
