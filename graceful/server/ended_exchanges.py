"""The last exchanges that ended in a drain, as its status shows them.

Only a drain remembers them, so that they cost nothing before.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from graceful.control.status import KEPT, StatusExchange

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange

#: Bytes of a path that are shown, so that it fits in a line of a table.
LONGEST_PATH: Final = 200


class EndedExchanges:
    """Remembers the last exchanges that ended; a :class:`graceful.web.site.Recorder`.

    :ivar rows: what is shown of them, newest first.  Any thread adds to it.
    """

    def __init__(self) -> None:
        self.rows: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def before(self, record: Callable[[Exchange], object] | None) -> Callable[[Exchange], None]:
        """Returns a function that remembers an exchange, and then calls `record`.  Any thread calls it."""
        rows, clock = self.rows, time.monotonic

        def remember(exchange: Exchange) -> None:
            rows.appendleft(
                {
                    "id": exchange.id,
                    "method": exchange.method,
                    "path": path_of(exchange),
                    "status": exchange.status,
                    "seconds": round((exchange.ended or clock()) - exchange.started, 3),
                    "taken_down": exchange.taken_down,
                }
            )
            if record is not None:
                record(exchange)

        return remember


def path_of(exchange: StatusExchange) -> str:
    """Returns the path of an exchange for people: without the query, and cut to a readable length."""
    path = exchange.target.partition(b"?")[0]
    text = path[:LONGEST_PATH].decode("latin-1").encode("unicode_escape").decode("ascii")
    return text + "…" if len(path) > LONGEST_PATH else text or "-"
