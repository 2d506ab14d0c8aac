"""Functions of the application that are called when the server begins to stop, and before the process ends.

A scheduler has to stop before it starts the next job; a queue has to be flushed.  The functions belong to the
process, since an application registers them when it is imported, before there is a server; each server that stops
calls them, in threads of their own, and waits for them for a limited time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

Function = TypeVar("Function", bound=Callable[[], Any])

#: The functions in the order of their registration; any thread.
at_drain: Final[list[Callable[[], Any]]] = []
at_exit: Final[list[Callable[[], Any]]] = []

_going_down: Final[set[object]] = set()


def on_drain(function: Function) -> Function:
    """Have a function called when the server begins to stop, in a thread of its own; can be used as a decorator.

    Requests are still served then, and the server does not wait for it.  Exceptions are logged.  A coroutine function
    runs in the loop of the ASGI applications.

    :param function: takes no arguments.
    :return: the function.
    """
    at_drain.append(function)
    return function


def on_exit(function: Function) -> Function:
    """Have a function called when nothing is in flight any more, before the process ends; also as a decorator.

    All such functions run side by side, and have 5 seconds together.  Exceptions are logged.

    :param function: takes no arguments.
    :return: the function.
    """
    at_exit.append(function)
    return function


def draining() -> bool:
    """Whether any server in this process is about to stop."""
    return bool(_going_down)


def going_down(server: object) -> None:
    """Note that a server begins to stop."""
    _going_down.add(server)


def gone(server: object) -> None:
    """Note that a server has stopped."""
    _going_down.discard(server)
