"""twistd with a register that lists no exchange, to show what the register costs.

Takes twistd's arguments.  Such a server is for measuring only: its drain does not know what to wait for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.scripts.twistd import run

import graceful.register

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange


class NoRegister(graceful.register.Register):
    """Takes everything, keeps nothing."""

    __slots__ = ()

    def add(self, exchange: Exchange) -> None:
        """Give every exchange the same number."""
        exchange.id = 1

    def remove(self, exchange: Exchange) -> bool:
        """Strike the exchange itself out.  True for the first caller, as with a real register."""
        first = exchange.id != 0
        exchange.id = 0
        return first


if __name__ == "__main__":
    # The service looks the class up when it is loaded, which twistd does after this.
    graceful.register.Register = NoRegister  # type: ignore[misc]
    run()
