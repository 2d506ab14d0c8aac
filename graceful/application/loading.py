"""Importing the application that the command line names.

It is imported in the process that will run it: after daemonizing (threads do not survive a fork) and after
privileges are dropped, but before success is reported, so that the operator sees at once that it is broken.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Final

from twisted.web.resource import IResource

#: The names that are tried in a module if none is given.
DEFAULT_NAMES: Final = ("application", "app")


class CannotLoad(Exception):
    """The application does not exist, or its import fails.  The text is one line for the operator."""


def load(name: str | None) -> Any:
    """Import an application: a WSGI callable, or the root of a tree of Twisted's resources.

    :param name: `MODULE:CALLABLE`, `MODULE` (then its `application` or `app`), or None for the built-in demo.
        Modules are also found in the current directory.
    :raises CannotLoad: with one line that says why; its cause is the exception of the import.
    """
    if name is None:
        name = "graceful.demo:application"
    module_name, _, path = name.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        where = _where(error)
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise CannotLoad(f"{module_name} cannot be imported: {why}{where}") from error
    except SystemExit as error:
        raise CannotLoad(f"{module_name} cannot be imported: it called sys.exit({error.code!r})") from error
    for candidate in (path,) if path else DEFAULT_NAMES:
        found: Any = module
        for part in candidate.split("."):
            found = getattr(found, part, None)
        if found is not None:
            break
    else:
        wanted = path or " or ".join(DEFAULT_NAMES)
        raise CannotLoad(f"{module_name} has no {wanted}: name the application as {module_name}:CALLABLE")
    if not callable(found) and not IResource.providedBy(found):
        kind = type(found).__name__
        raise CannotLoad(f"{module_name}:{candidate} is a {kind}, neither a WSGI callable nor a Twisted resource")
    return found


def _where(error: BaseException) -> str:
    """Return the innermost place in the application's code that an import has reached, in parentheses."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if not filename.startswith("<") and filename != __file__ and "importlib" not in filename:
            place = f" ({filename}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place
