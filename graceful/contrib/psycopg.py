"""psycopg 3: no statement runs longer than its request has time.

The limit is the database's own, `statement_timeout`, so that nothing goes on there when no client waits any more; and
at the takedown of a request its running query is cancelled.  Use :class:`Connection` instead of psycopg's::

    pool = ConnectionPool(dsn, connection_class=graceful.contrib.psycopg.Connection)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import psycopg
from psycopg.errors import QueryCanceled
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus

from graceful.application.current import current_exchange
from graceful.application.deadlines import DeadlineExceeded, check, remaining

#: How far the database's limit may be from what is left: a tenth, but no less than this, seconds.
CLOSE: Final = 0.25
CANCELLED: Final = "57014"


class _Known:
    """What `statement_timeout` is on a connection, milliseconds; 0 is none, None is not known.

    :ivar session: outside of transactions.
    :ivar local: in the transaction that is open; None if it is the session's.
    """

    def __init__(self) -> None:
        self.session: int | None = None
        self.local: int | None = None


_known: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()


def limit(connection: psycopg.Connection[Any]) -> None:
    """Set `statement_timeout` to what is left for the current exchange, if it is not about that already.

    Outside of an exchange it is set back, once, to what the connection began with.

    :raises DeadlineExceeded: nothing is left.
    """
    check()
    left = remaining()
    known = _known.get(connection)
    if known is None:
        if left is None:
            return
        known = _known[connection] = _Known()
    pgconn = connection.pgconn
    status = pgconn.transaction_status
    if pgconn.pipeline_status != PipelineStatus.OFF:
        return
    if status == TransactionStatus.IDLE:
        known.local = None
    elif status != TransactionStatus.INTRANS:
        return
    inside = status == TransactionStatus.INTRANS
    now = known.local if inside and known.local is not None else known.session
    wanted = 0 if left is None else max(1, round(left * 1000))
    if now is not None and abs(now - wanted) <= (max(CLOSE * 1000, wanted / 10) if wanted and now else 0):
        return
    value = "DEFAULT" if left is None else str(wanted)
    # Not by execute(): that would open a transaction.  What is set in one is set back when it ends, however it ends.
    with connection.lock:
        result = pgconn.exec_(f"SET {'LOCAL' if inside else 'SESSION'} statement_timeout = {value}".encode())
    if result.status != ExecStatus.COMMAND_OK:
        return  # the statement itself will tell what is wrong with the connection
    if inside:
        known.local = wanted
    else:
        known.session = wanted


@contextmanager
def obey(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Run a statement within the time that is left, and have it cancelled at the takedown.

    :raises DeadlineExceeded: nothing is left, or not enough.
    """
    exchange = current_exchange()
    limit(connection)
    try:
        if exchange is None:
            yield
        else:
            with exchange.on_takedown(connection.cancel):
                yield
    except QueryCanceled as error:
        if remaining() == 0:
            raise DeadlineExceeded(f"{error}") from error
        raise


class Cursor(psycopg.Cursor[Any]):
    """A cursor whose statements obey."""

    def execute(self, *args: Any, **kwargs: Any) -> Cursor:
        """Execute a statement (see :meth:`psycopg.Cursor.execute`).

        :raises DeadlineExceeded: nothing is left, or not enough.
        """
        with obey(self.connection):
            super().execute(*args, **kwargs)
        return self

    def executemany(self, *args: Any, **kwargs: Any) -> None:
        """Execute a statement many times (see :meth:`psycopg.Cursor.executemany`).

        :raises DeadlineExceeded: nothing is left, or not enough.
        """
        with obey(self.connection):
            super().executemany(*args, **kwargs)


class Connection(psycopg.Connection[Any]):
    """A connection whose cursors obey."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = Cursor


connect = Connection.connect
