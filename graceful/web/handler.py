"""What can answer exchanges by itself, without a `twisted.web` request in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import Interface

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange


class IHandler(Interface):
    """Answers exchanges."""

    def handle(exchange: Exchange) -> None:
        """Answer an exchange at the root, now or later.  Called in any thread; must not wait."""

    def take(exchange: Exchange, prefix: list[bytes]) -> None:
        """Answer an exchange that was found below a prefix of a tree.

        :param prefix: the path's segments up to the handler, decoded.
        """

    def disconnected(exchange: Exchange) -> None:
        """Nobody will read the answer any more.  Reactor thread."""
