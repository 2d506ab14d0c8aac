"""How much time is left: what an application asks of the server while it works.

A request that runs longer than it may is best ended by the code that runs it, in order, at a place that it has
chosen.  For that it must know how much time it has: each exchange has a limit of its own, and when the server is to
stop, all of them become shorter.  What does not obey is taken down: :class:`Takedown` is raised in its thread.
"""

from __future__ import annotations

from graceful.application import hooks
from graceful.application.current import current_exchange
from graceful.application.hooks import on_drain, on_exit

__all__ = ["DeadlineExceeded", "Takedown", "check", "draining", "on_drain", "on_exit", "remaining"]


class DeadlineExceeded(TimeoutError):
    """The exchange has no time left.  One that nobody catches is answered with 503 and `Retry-After`."""


class Takedown(BaseException):
    """Raised by the server in the thread of an exchange that has had its time.

    Its client has got 503 already, or has seen its answer cut: nobody waits for what this thread does.  Clean up, and
    let it pass; a thread that goes on gets it again.  It is no `Exception`, so that `except Exception` does not stop
    it.
    """


def remaining() -> float | None:
    """Return how many seconds are left for the exchange that this code runs for, at least 0.

    None if it has no limit, and outside of an exchange.  When the server begins to stop, the limit becomes shorter:
    so ask again before each thing that waits, and wait no longer than this.
    """
    exchange = current_exchange()
    return None if exchange is None else exchange.remaining()


def check() -> None:
    """Go on only if there is time left.

    :raises DeadlineExceeded: there is none.
    """
    exchange = current_exchange()
    if exchange is not None:
        left = exchange.remaining()
        if left is not None and left <= 0:
            raise DeadlineExceeded(f"{exchange.method} {exchange.shown_target} has no time left")


def at_most(seconds: float | None) -> float | None:
    """Return a time-out, but never a longer one than what is left.

    :param seconds: how long one would wait otherwise; None for ever.
    :raises DeadlineExceeded: nothing is left.
    """
    check()
    left = remaining()
    return left if seconds is None or (left is not None and left < seconds) else seconds


def draining() -> bool:
    """Whether the server is about to stop: what can be left for the next instance should be.

    Inside of an exchange it is the server that serves it, else any in this process.
    """
    exchange = current_exchange()
    return hooks.draining() if exchange is None else exchange.connection.site.going_down
