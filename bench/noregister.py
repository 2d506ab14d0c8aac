"""Runs twistd with a register that lists no exchange, to show what the register costs.

It takes twistd's arguments.  Such a server is only for measuring: its drain does not know what to wait for.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from twisted.scripts.twistd import run

import graceful.web.register

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange


class Nothing(dict[int, "Exchange"]):
    """Holds nothing, and pretends in each `pop` that it held the item."""

    # Called as `pop(number, None)`, this must be quick and must not return None.
    pop = operator.is_not  # type: ignore[assignment]


class NoRegister(graceful.web.register.Register):
    """A register that keeps no exchange."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.exchanges = Nothing()

    def add(self, exchange: Exchange) -> None:
        """Give every exchange the same number."""
        exchange.id = 1


if __name__ == "__main__":
    # twistd loads the service after this line, and only then the service looks up the class.
    graceful.web.register.Register = NoRegister  # type: ignore[misc]
    run()
