"""The trace that a request belongs to: the W3C's `traceparent`, kept as it came, or made.

OpenTelemetry and others follow a request through several services by the id in this field.  With it in the access log
and in reports, a line leads to the trace, and a trace to the line.  A request that comes without one begins a trace
here: the application gets the field as if it had come, so that both have the same id.

Nothing here is called unless the access log shows the ids.  https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from graceful.config.settings import Settings

FIELD: Final = b"traceparent"
#: A version, the id of the trace, that of the caller's part, and flags; later versions may say more behind that.
_VALID: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[ -~]*)?\Z"
)
_VENDORS: Final = b"tracestate"


class Traced(Protocol):
    """An exchange, as far as its trace is concerned."""

    headers: Sequence[tuple[bytes, bytes]]


_Traced = TypeVar("_Traced", bound=Traced)


def trace_id(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Returns the id of the trace that a request belongs to; None if its fields name none, or several."""
    found = [value for name, value in headers if len(name) == len(FIELD) and name.lower() == FIELD]
    match = _VALID.match(found[0]) if len(found) == 1 else None
    if match is None or (match[1] == b"00" and match[3] is not None):
        return None
    return match[2].decode("ascii")


class TraceContext:
    """Gives each request a trace.

    :param random: as :func:`os.urandom`.
    """

    def __init__(self, random: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random

    @classmethod
    def needed(cls, settings: Settings) -> TraceContext | None:
        """Returns what gives requests a trace, if the access log shows it; else None."""
        return cls() if settings.access_log is not None and settings.logs_traces else None

    def before(self, handle: Callable[[_Traced], object]) -> Callable[[_Traced], None]:
        """Returns a handler that gives an exchange a trace if it has none, and then calls `handle`."""

        def traced(exchange: _Traced) -> None:
            if trace_id(exchange.headers) is None:
                kept = [field for field in exchange.headers if field[0].lower() not in (FIELD, _VENDORS)]
                exchange.headers = [*kept, (FIELD, self._made())]
            handle(exchange)

        return traced

    def _made(self) -> bytes:
        """Returns a field that begins a trace; its last flag says that the trace is recorded."""
        ids = self._random(24).hex()
        return f"00-{ids[:32]}-{ids[32:]}-01".encode("ascii")
