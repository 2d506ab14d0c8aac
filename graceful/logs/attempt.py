"""Steps of a stop or a takeover that may fail, and must not keep the rest from being done.

A stop tells many parties: the balancer, the service manager, the application, a pid file, the clients of control.
Each of them is told by a system call or by other people's code, and may fail.  If such a failure ended the stop in
the middle, the server would neither serve nor end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

log = Logger(namespace="graceful")


def attempt(function: Callable[..., object], *arguments: object) -> None:
    """Call a function; an exception that it raises is logged, and the caller goes on."""
    try:
        function(*arguments)
    except Exception:
        log.failure("{step} failed, and what follows is done all the same", step=_name(function))


def attempt_deferred(function: Callable[..., Any], *arguments: object) -> Deferred[None]:
    """Call a function that may return a Deferred.

    :returns: fires with None when the function is done, and never with a failure: that is logged.
    """

    def note(failure: Failure) -> None:
        log.failure("{step} failed, and what follows is done all the same", failure, step=_name(function))

    done: Deferred[Any] = maybeDeferred(function, *arguments)
    return done.addCallback(lambda ignored: None).addErrback(note)


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", repr(function))
