"""How much time an exchange has left: for the application to ask while it works.

A request that exceeds its limit is best ended by the application's own code, in order, at a place of its choice.  For
that the code must know how much time it has: each exchange has its own limit, and when the server stops, all limits
become shorter.  An exchange that goes on is taken down: :class:`Takedown` is raised in its thread.
"""

from __future__ import annotations

from graceful.application import hooks
from graceful.application.current import current_exchange
from graceful.application.hooks import on_drain, on_exit

__all__ = ["DeadlineExceeded", "Takedown", "check", "draining", "on_drain", "on_exit", "remaining"]


class DeadlineExceeded(TimeoutError):
    """The exchange has no time left.  If it is not caught, the answer is 503 with `Retry-After`."""


class Takedown(BaseException):
    """Raised by the server in the thread of an exchange whose time is over.

    The client has got 503 already, or has seen its answer cut: it does not wait for this thread.  Clean up, and let
    the exception pass; a thread that goes on gets it again.  It is no `Exception`, so that `except Exception` does
    not stop it.
    """


def remaining() -> float | None:
    """Return how many seconds are left for the exchange that this code runs for, at least 0.

    None if it has no limit, and outside of an exchange.  When the server begins to stop, the limit becomes shorter:
    so ask again before each call that waits, and wait no longer than this.
    """
    exchange = current_exchange()
    return None if exchange is None else exchange.remaining()


def check() -> None:
    """Raise an exception if no time is left.

    :raises DeadlineExceeded: no time is left.
    """
    exchange = current_exchange()
    if exchange is not None:
        left = exchange.remaining()
        if left is not None and left <= 0:
            raise DeadlineExceeded(f"{exchange.method} {exchange.shown_target} has no time left")


def at_most(seconds: float | None) -> float | None:
    """Return a time-out that is no longer than the time left.

    :param seconds: the time-out wanted; None for none.
    :raises DeadlineExceeded: no time is left.
    """
    check()
    left = remaining()
    return left if seconds is None or (left is not None and left < seconds) else seconds


def draining() -> bool:
    """Whether the server is about to stop: leave to the next instance what can be left to it.

    Inside an exchange it is the server that serves it, else any server in this process.
    """
    exchange = current_exchange()
    return hooks.draining() if exchange is None else exchange.connection.site.going_down
