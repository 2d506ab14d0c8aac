"""What can answer exchanges by itself, without a `twisted.web` request in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import Interface

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange


class IAnswerer(Interface):
    """Works for exchanges, one or many, and is told what becomes of their clients."""

    def disconnected(exchange: Exchange) -> None:
        """The client will not read the answer any more.  Reactor thread; only asked of the exchange's `handler`."""

    def parked(exchange: Exchange) -> bool:
        """Whether the exchange waits with no thread and nothing to send.  Reactor thread; as above.

        Its client, if it says that it will send nothing more, is taken to be gone: a closed browser tab says just
        that, and nothing is on its way that would find out.
        """

    def works_for(exchange: Exchange) -> bool:
        """Whether it still works for the exchange, or waits for something that will make it go on.  Reactor thread.

        False also for what a thread does, or what waits for a thread: threads and their queues are asked themselves.
        """


class IHandler(IAnswerer):
    """Answers exchanges."""

    def handle(exchange: Exchange) -> None:
        """Answer an exchange, now or later.  Called in any thread; must not wait."""

    def take(exchange: Exchange, prefix: list[bytes], rest: list[bytes]) -> None:
        """Answer an exchange that was found below a prefix of a tree.  Reactor thread.

        :param prefix: the path's segments that led to the handler, decoded.
        :param rest: the segments behind them, decoded.
        """
