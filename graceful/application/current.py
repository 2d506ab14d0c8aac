"""Which exchange this code runs for.

An application's code, ten calls below its view, wants to know how much time it has, or hands its answer over to the
event loop; passing the exchange down to it is not in PEP 3333's power.  A context variable is: it is set by the
thread that calls the application, and follows into code that copies its context (`contextvars.copy_context`).

Setting it is the dearest thing that is done for each request in a thread, so it is set once and not reset: what it
names may have ended, and that is looked at by who asks.
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
    """The exchange that this code runs for; None outside of one, or when it is over."""
    exchange = current.get()
    return None if exchange is None or exchange.released else exchange
