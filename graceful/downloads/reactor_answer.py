"""An answer that a thread prepares and the reactor thread gives.

Between the two the client may leave, or the deadline may come.  Then the answer is dropped instead of begun, so that
what was opened for it is given back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from graceful.web.exchange import DOWNLOADING

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange


class ReactorAnswer(Protocol):
    """An answer that is ready to begin.  It is made in any thread; then one of its methods is called.

    :ivar exchange: what it answers.
    """

    @property
    def exchange(self) -> Exchange: ...

    def begin(self) -> None:
        """Begin the answer.  Reactor thread."""

    def drop(self) -> None:
        """Give back all that the answer holds: its client has left, or was taken down, or it has failed.

        Reactor thread; also after `begin`, and more than once.
        """


def mark_download(exchange: Exchange) -> None:
    """Have an exchange counted as a download, which the first deadline of a drain spares."""
    exchange.download = True
    exchange.phase = DOWNLOADING


def start_soon(call: Callable[..., object], answer: ReactorAnswer) -> None:
    """Begin an answer in the reactor thread.  Any thread.

    :param call: calls a function in the reactor thread.
    """
    call(begin_or_drop, answer)


def begin_or_drop(answer: ReactorAnswer) -> None:
    """Begin an answer, or drop it if its client no longer waits for it.  Reactor thread."""
    exchange = answer.exchange
    connection = exchange.connection
    if connection.write_token.current is exchange and not connection.write_token.closed:
        run_or_fail(answer, answer.begin)
        return
    answer.drop()
    exchange.abandon()
    exchange.release()


def run_or_fail(answer: ReactorAnswer, function: Callable[..., object], *arguments: object) -> None:
    """Run a callback that works for an answer.  If it raises, end the exchange: 500, or visibly cut.  Reactor thread.

    Twisted would only log what a callback raises, and the client would wait for ever.
    """
    try:
        function(*arguments)
    except Exception:
        try:
            answer.drop()
        finally:
            answer.exchange.connection.site.fail(answer.exchange)
