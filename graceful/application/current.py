"""The exchange that the current code runs for, in a context variable.

An application's code, ten calls below its view, asks how much time it has, or hands its answer over to the event
loop; PEP 3333 has no way to pass the exchange down to it.  So the thread that calls the application sets a context
variable, which code that copies its context (`contextvars.copy_context`) has too.

Setting it is the most expensive step for each request in a thread, so it is set once and not reset: the exchange may
have ended, and each reader checks that.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange

#: The exchange that the application was last called for in this context.
current: Final[ContextVar[Exchange | None]] = ContextVar("graceful.exchange", default=None)

set_current: Final = current.set


def current_exchange() -> Exchange | None:
    """Return the exchange that this code runs for; None outside of one, or when it is over."""
    exchange = current.get()
    return None if exchange is None or exchange.released else exchange
