"""Importing the application that the command line names.

It is imported in the process that will run it: after daemonizing (threads do not survive a fork) and after
privileges are dropped, but before success is reported, so that the operator sees at once that it is broken.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import traceback
from contextlib import suppress
from typing import Any, Final

from twisted.web.resource import IResource

#: The interfaces that an application may have; `auto` is decided by a look at it.
INTERFACES: Final = ("auto", "wsgi", "asgi")
AUTO, WSGI, ASGI = INTERFACES

#: The names that are tried in a module if none is given.
DEFAULT_NAMES: Final = ("application", "app")


class CannotLoad(Exception):
    """The application does not exist, or its import fails.  The text is one line for the operator."""


def load(name: str | None, interface: str = AUTO) -> Any:
    """Import an application: a WSGI or ASGI callable, or the root of a tree of Twisted's resources.

    :param interface: which of them it is; `auto` looks at it.
    :param name: `MODULE:CALLABLE`, `MODULE` (then its `application` or `app`), or None for the built-in demo.
        `MODULE:FACTORY()` is what the factory returns.  Modules are also found in the current directory.
    :raises CannotLoad: with one line that says why; its cause is the exception of the import.
    """
    if name is None:
        name = "graceful.demo:application"
    module_name, _, path = name.partition(":")
    path, calls, _ = path.partition("()")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        where = _where(error)
        why = " ".join(f"{type(error).__name__}: {error}".split())
        if isinstance(error, ModuleNotFoundError) and _is_or_holds(error.name, module_name):
            where = f"; looked in {here}, then in {', '.join(place for place in sys.path if place not in ('', here))}"
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
    if calls:
        found = _made(found, f"{module_name}:{candidate}()")
    _check(found, f"{module_name}:{candidate}{calls}", interface)
    return found


def _is_or_holds(missing: str | None, module: str) -> bool:
    """Whether a missing module is the application's own, or a package around it, and not one that it imports."""
    return missing is not None and f"{module}.".startswith(f"{missing}.")


def _made(factory: Any, name: str) -> Any:
    """Returns what an application's factory makes."""
    try:
        return factory()
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise CannotLoad(f"{name} cannot be made: {why}{_where(error)}") from error


def is_asgi(found: Any, interface: str = AUTO) -> bool:
    """Whether an application is to be called as ASGI 3 has it, and not as WSGI has it.

    :param found: what :func:`load` has returned; no resource.
    :param interface: `wsgi` and `asgi` decide it; with `auto`, a coroutine function is ASGI, and what can be called
        with three arguments and not with two.
    """
    if interface != AUTO:
        return interface == ASGI
    function = found
    while isinstance(function, functools.partial):
        function = function.func
    call = getattr(type(function), "__call__", None)  # noqa: B004 - whether it is a coroutine function
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        return True
    return _takes(found, 3) and not _takes(found, 2)


def _takes(found: Any, arguments: int) -> bool:
    """Whether a callable takes that many arguments; True if it does not tell."""
    try:
        inspect.signature(found).bind(*[None] * arguments)
    except ValueError:
        return True  # some callables of extensions have no signature to look at
    except TypeError:
        return False
    return True


def _check(found: Any, name: str, interface: str) -> None:
    """Refuse what could not answer any request.

    :param name: as the operator would write it.
    """
    if IResource.providedBy(found):
        return
    if not callable(found):
        raise CannotLoad(
            f"{name} is a {type(found).__name__}, neither a WSGI or ASGI callable nor a Twisted resource"
        )
    try:
        parameters = inspect.signature(found)
    except (TypeError, ValueError):
        return  # some callables of extensions have none to look at
    if is_asgi(found, interface):
        _check_asgi(found, name, parameters)
        return
    try:
        parameters.bind({}, None)
    except TypeError:
        hint = ""
        with suppress(TypeError):
            parameters.bind()
            hint = f"; if it makes the application, write {name}()"
        raise CannotLoad(f"{name} does not take the two arguments of a WSGI callable{hint}") from None


def _check_asgi(found: Any, name: str, parameters: inspect.Signature) -> None:
    try:
        parameters.bind({}, None, None)
    except TypeError:
        hint = ""
        with suppress(TypeError):
            parameters.bind()
            hint = f"; if it makes the application, write {name}()"
        with suppress(TypeError):
            parameters.bind({})
            hint = "; ASGI 2 is not served: asgiref.compatibility.guarantee_single_callable makes it ASGI 3"
        raise CannotLoad(f"{name} does not take the three arguments of an ASGI 3 callable{hint}") from None


def _where(error: BaseException) -> str:
    """Return the innermost place in the application's code that an import has reached, in parentheses."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if not filename.startswith("<") and filename != __file__ and "importlib" not in filename:
            place = f" ({filename}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place


def stack_of_import(error: CannotLoad) -> str:
    """Returns the error of an import as Python prints it, without the frames of the import itself."""
    if error.__cause__ is None:
        return str(error)
    told = traceback.TracebackException.from_exception(error.__cause__)
    kept = [frame for frame in told.stack if "importlib" not in frame.filename and frame.filename != __file__]
    told.stack[:] = kept
    return "".join(told.format(chain=False)).rstrip()
