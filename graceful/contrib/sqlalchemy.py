"""SQLAlchemy: no statement begins when its request has no time left, or runs on after the request's takedown.

With psycopg 3 the database itself also ends a statement when the request's time is over (see
:mod:`graceful.contrib.psycopg`).  A connection returns to the pool without a limit.  Call :func:`obey` once for each
engine::

    engine = create_engine("postgresql+psycopg://…")
    graceful.contrib.sqlalchemy.obey(engine)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, event

from graceful.application.current import current_exchange
from graceful.application.deadlines import DeadlineExceeded, check, remaining

if TYPE_CHECKING:
    from graceful.contrib.psycopg import Limit

#: SQLSTATE of a statement that was cancelled: query_canceled.
CANCELLED: Final = "57014"
_HOOK: Final = "graceful.hook"
_LIMIT: Final = "graceful.limit"


def obey(engine: Engine) -> None:
    """Bound all statements of an engine by the remaining time of the exchange that executes them."""
    event.listen(engine, "before_cursor_execute", _before)
    event.listen(engine, "after_cursor_execute", _after)
    event.listen(engine, "handle_error", _failed, retval=True)
    event.listen(engine, "checkin", _given_back)


def _before(connection: Any, *ignored: Any) -> None:
    raw = connection.connection.dbapi_connection
    if connection.dialect.driver == "psycopg":
        from graceful.contrib.psycopg import limit

        connection.info[_LIMIT] = limit(raw)
    else:
        check()
    exchange = current_exchange()
    cancel = getattr(raw, "cancel", None)
    if exchange is not None and cancel is not None:
        connection.info[_HOOK] = exchange.on_takedown(cancel)


def _after(connection: Any, *ignored: Any) -> None:
    """Forget a statement that has ended; an argument of SQLAlchemy's events."""
    connection.info.pop(_LIMIT, None)
    hook = connection.info.pop(_HOOK, None)
    if hook is not None:
        hook.cancel()


def _failed(context: Any) -> Exception | None:
    """Returns the exception to raise instead of SQLAlchemy's; None to leave it."""
    limit: Limit | None = None
    if context.connection is not None:
        limit = context.connection.info.get(_LIMIT)
        _after(context.connection)
    if getattr(context.original_exception, "sqlstate", None) == CANCELLED and (
        remaining() == 0 if limit is None else limit.exceeded()
    ):
        return DeadlineExceeded(str(context.original_exception))
    return None


def _given_back(raw: Any, record: Any) -> None:
    """Take a request's limit and its hook off a connection that returns to the pool, where others will get it."""
    _after(record)  # a takedown of this request must not cancel the statement of another one
    if raw is not None and type(raw).__module__.partition(".")[0] == "psycopg":
        from graceful.contrib.psycopg import unlimit

        if not unlimit(raw):
            record.invalidate()  # the pool replaces it
