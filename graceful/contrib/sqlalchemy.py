"""SQLAlchemy: no statement begins when its request has no time left, and none goes on after its takedown.

With psycopg 3 the database itself also ends a statement when its time is over (see :mod:`graceful.contrib.psycopg`).
Once for each engine::

    engine = create_engine("postgresql+psycopg://…")
    graceful.contrib.sqlalchemy.obey(engine)
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Engine, event

from graceful.application.current import current_exchange
from graceful.application.deadlines import DeadlineExceeded, check, remaining

CANCELLED: Final = "57014"
_HOOK: Final = "graceful.hook"


def obey(engine: Engine) -> None:
    """Have all statements of an engine obey the limits of the exchange that they are executed for."""
    event.listen(engine, "before_cursor_execute", _before)
    event.listen(engine, "after_cursor_execute", _after)
    event.listen(engine, "handle_error", _failed, retval=True)


def _before(connection: Any, *ignored: Any) -> None:
    raw = connection.connection.dbapi_connection
    if connection.dialect.driver == "psycopg":
        from graceful.contrib.psycopg import limit

        limit(raw)
    else:
        check()
    exchange = current_exchange()
    cancel = getattr(raw, "cancel", None)
    if exchange is not None and cancel is not None:
        connection.info[_HOOK] = exchange.on_takedown(cancel)


def _after(connection: Any, *ignored: Any) -> None:
    hook = connection.info.pop(_HOOK, None)
    if hook is not None:
        hook.cancel()


def _failed(context: Any) -> Exception | None:
    """What to raise instead; None for what SQLAlchemy would."""
    if context.connection is not None:
        _after(context.connection)
    if getattr(context.original_exception, "sqlstate", None) == CANCELLED and remaining() == 0:
        return DeadlineExceeded(str(context.original_exception))
    return None
