"""The reader of a connection that has left HTTP for another protocol.

A connection gives what comes to its parser, and the time-outs look at the same.  So what takes the parser's place
after an upgrade looks like one that is between two requests.
"""

from __future__ import annotations

from graceful.web.exchange import Exchange


class AfterUpgrade:
    """Gets what a client sends after an upgrade.  Reactor thread.

    :ivar ignoring: what still comes is thrown away.
    """

    __slots__ = ("ignoring",)

    exchange: Exchange | None = None
    head_done = False
    unparsed = b""

    def __init__(self) -> None:
        self.ignoring = False

    def feed(self, data: bytes) -> None:
        """Bytes have come."""
        raise NotImplementedError

    def refuse(self, status: int) -> None:
        """Do nothing: no request is under way."""
