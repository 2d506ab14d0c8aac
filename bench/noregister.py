"""twistd with a register that lists no exchange, to show what the register costs.

Takes twistd's arguments.  Such a server is for measuring only: its drain does not know what to wait for.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from twisted.scripts.twistd import run

import graceful.web.register

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange


class Nothing(dict[int, "Exchange"]):
    """Holds nothing, and says of everything that it was there until now."""

    # Called as `pop(number, None)`: a function as quick as they come, that is not None.
    pop = operator.is_not  # type: ignore[assignment]


class NoRegister(graceful.web.register.Register):
    """Takes everything, keeps nothing."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.exchanges = Nothing()

    def add(self, exchange: Exchange) -> None:
        """Give every exchange the same number."""
        exchange.id = 1


if __name__ == "__main__":
    # The service looks the class up when it is loaded, which twistd does after this.
    graceful.web.register.Register = NoRegister  # type: ignore[misc]
    run()
