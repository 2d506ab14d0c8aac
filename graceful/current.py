"""Which exchange this code runs for.

An application's code, ten calls below its view, wants to know how much time it has, or hands its answer over to the
event loop; passing the exchange down to it is not in PEP 3333's power.  A context variable is: it is set by the
thread that calls the application, and follows into code that copies its context (`contextvars.copy_context`).
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange

#: The exchange that the application is called for; None outside of one.
current: Final[ContextVar[Exchange | None]] = ContextVar("graceful.exchange", default=None)
