"""psycopg 3: no statement runs longer than the remaining time of its request.

The database itself ends a statement, by its `statement_timeout`, so that nothing runs there when no client waits any
more.  The takedown of a request cancels its running query.  Use :class:`Connection` instead of psycopg's::

    pool = ConnectionPool(dsn, connection_class=graceful.contrib.psycopg.Connection)

In a transaction the limit is the transaction's, and ends with it.  On an autocommit connection it is the session's:
it is set back at the end of a `with` block of the connection or of its pool.  For connections that you get by
`getconn()`, have the pool set it back, with `reset=graceful.contrib.psycopg.unlimit`.

A `statement_timeout` that the connection has of its own, and that is shorter, stays in force.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Final
from weakref import WeakKeyDictionary

import psycopg
from psycopg import IsolationLevel
from psycopg.errors import QueryCanceled
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus

from graceful.application.current import current_exchange
from graceful.application.deadlines import DeadlineExceeded, check, remaining

#: Milliseconds by which `statement_timeout` may exceed the remaining time before it is set again; a tenth if longer.
CLOSE: Final = 250
#: Seconds by which the clocks of client and database may differ over one statement.
CLOCKS: Final = 0.05
#: SQLSTATE of a statement that was cancelled: query_canceled.
CANCELLED: Final = "57014"

_TIME: Final = re.compile(rb"([0-9]+)(ms|s|min|h|d|)\Z")
_MILLISECONDS: Final = {b"": 1, b"ms": 1, b"s": 1000, b"min": 60_000, b"h": 3_600_000, b"d": 86_400_000}


class _Known:
    """The `statement_timeout` of a connection, in milliseconds; 0 means none.

    :ivar own: what the connection had before this module set anything.
    :ivar session: what this module has set outside of transactions; None if nothing.
    :ivar local: what it has set in the open transaction; None if nothing.
    """

    def __init__(self, own: int) -> None:
        self.own = own
        self.session: int | None = None
        self.local: int | None = None


class Limit:
    """The time that the database gives a statement which begins now.

    :param milliseconds: the `statement_timeout` that this module has set; 0 if it has set none.
    """

    def __init__(self, milliseconds: int) -> None:
        self._over = monotonic() + milliseconds / 1000 - CLOCKS if milliseconds else math.inf

    def exceeded(self) -> bool:
        """Whether a statement that was cancelled just now was cancelled since its request's time was over."""
        return remaining() == 0 or monotonic() >= self._over


_known: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()


def limit(connection: psycopg.Connection[Any]) -> Limit:
    """Have the database end the next statement when the current exchange has no time left.

    `statement_timeout` is set to the remaining time, unless it is that already or a little longer.  Outside of an
    exchange it is set back to what the connection had of its own.

    :raises DeadlineExceeded: no time remains.
    """
    check()
    left = remaining()
    known = _known.get(connection)
    pgconn = connection.pgconn
    status = pgconn.transaction_status
    inside = status == TransactionStatus.INTRANS
    if (left is None and known is None) or pgconn.pipeline_status != PipelineStatus.OFF:
        return Limit(0)
    if status == TransactionStatus.IDLE:
        if known is not None:
            known.local = None
    elif not inside:
        return Limit(0)
    if known is None:
        own = _own(connection)
        if own is None:
            return Limit(0)  # the statement that follows fails as well, and its error tells why
        known = _known[connection] = _Known(own)
    wanted = known.own
    if left is not None and not 0 < wanted <= left * 1000:
        # Never too short: the database would cancel the statement while there is still time.
        wanted = max(1, math.ceil(left * 1000))
    now = known.session if known.local is None else known.local
    if now is None:
        now = known.own
    if now != wanted and not (wanted and wanted <= now <= wanted + max(CLOSE, wanted / 10)):
        if inside or not connection.autocommit:
            _set_local(connection, known, wanted, inside)
        else:
            _set_session(connection, known, wanted)
        now = wanted
    return Limit(now if left is not None and now != known.own else 0)


def unlimit(connection: psycopg.Connection[Any]) -> bool:
    """Set `statement_timeout` back to what the connection had before :func:`limit`, as it is given back to others.

    :returns: False if it cannot be set back now, because a transaction is open or the connection is broken.
    """
    known = _known.get(connection)
    if known is None or known.session is None or connection.closed:
        return True
    pgconn = connection.pgconn
    if pgconn.transaction_status != TransactionStatus.IDLE or pgconn.pipeline_status != PipelineStatus.OFF:
        return False
    known.local = None
    return _set_session(connection, known, known.own)


def _own(connection: psycopg.Connection[Any]) -> int | None:
    """Returns the `statement_timeout` of a connection, in milliseconds; None if it does not say."""
    with connection.lock:
        result = connection.pgconn.exec_(b"SHOW statement_timeout")
    found = _TIME.match(result.get_value(0, 0) or b"") if result.status == ExecStatus.TUPLES_OK else None
    return int(found[1]) * _MILLISECONDS[found[2]] if found else None


def _set_session(connection: psycopg.Connection[Any], known: _Known, milliseconds: int) -> bool:
    """Set the `statement_timeout` of a session; returns whether the database has done it."""
    done = _command(connection, f"SET SESSION statement_timeout = {milliseconds}")
    if done:
        known.session = None if milliseconds == known.own else milliseconds
    return done


def _set_local(connection: psycopg.Connection[Any], known: _Known, milliseconds: int, inside: bool) -> None:
    """Set the `statement_timeout` of a transaction, which is undone when the transaction ends, in either way.

    :param inside: the transaction is open; otherwise it is begun, as psycopg would begin it now for the statement.
    """
    command = f"SET LOCAL statement_timeout = {milliseconds}"
    if _command(connection, command if inside else f"{_begin(connection)}; {command}"):
        known.local = milliseconds


def _command(connection: psycopg.Connection[Any], command: str) -> bool:
    """Run a command; returns whether it has succeeded.  If not, the statement that follows fails, and tells why."""
    with connection.lock:  # not by execute(), which would be bounded itself
        result = connection.pgconn.exec_(command.encode())
    return result.status == ExecStatus.COMMAND_OK


def _begin(connection: psycopg.Connection[Any]) -> str:
    """Returns the statement by which psycopg begins a transaction of this connection."""
    begin = "BEGIN"
    if connection.isolation_level is not None:
        begin += f" ISOLATION LEVEL {IsolationLevel(connection.isolation_level).name.replace('_', ' ')}"
    if connection.read_only is not None:
        begin += " READ ONLY" if connection.read_only else " READ WRITE"
    if connection.deferrable is not None:
        begin += " DEFERRABLE" if connection.deferrable else " NOT DEFERRABLE"
    return begin


@contextmanager
def obey(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Run a statement within the remaining time of the current exchange, and have its takedown cancel it.

    :raises DeadlineExceeded: no time remains, or less than the statement needs.
    """
    exchange = current_exchange()
    allowed = limit(connection)
    try:
        if exchange is None:
            yield
        else:
            with exchange.on_takedown(connection.cancel):
                yield
    except QueryCanceled as error:
        if allowed.exceeded():
            raise DeadlineExceeded(f"{error}") from error
        raise


class Cursor(psycopg.Cursor[Any]):
    """A cursor whose statements are bounded by the remaining time of the current exchange."""

    def execute(self, *args: Any, **kwargs: Any) -> Cursor:
        """Execute a statement (see :meth:`psycopg.Cursor.execute`).

        :raises DeadlineExceeded: no time remains, or less than the statement needs.
        """
        with obey(self.connection):
            super().execute(*args, **kwargs)
        return self

    def executemany(self, *args: Any, **kwargs: Any) -> None:
        """Execute a statement many times (see :meth:`psycopg.Cursor.executemany`).

        :raises DeadlineExceeded: no time remains, or less than the statement needs.
        """
        with obey(self.connection):
            super().executemany(*args, **kwargs)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Execute a statement and yield its rows as they come (see :meth:`psycopg.Cursor.stream`).

        :raises DeadlineExceeded: no time remains, or less than the statement needs.
        """
        with obey(self.connection):
            yield from super().stream(*args, **kwargs)

    @contextmanager
    def copy(self, *args: Any, **kwargs: Any) -> Iterator[psycopg.Copy]:
        """Copy rows from or to the database (see :meth:`psycopg.Cursor.copy`).

        :raises DeadlineExceeded: no time remains, or less than the copying needs.
        """
        with obey(self.connection), super().copy(*args, **kwargs) as copy:
            yield copy


class ServerCursor(psycopg.ServerCursor[Any]):
    """A server-side cursor whose statements are bounded by the remaining time of the current exchange."""

    def execute(self, *args: Any, **kwargs: Any) -> ServerCursor:
        """Declare the cursor (see :meth:`psycopg.ServerCursor.execute`).

        :raises DeadlineExceeded: no time remains, or less than the statement needs.
        """
        with obey(self.connection):
            super().execute(*args, **kwargs)
        return self

    def fetchone(self) -> Any:
        """Fetch a row (see :meth:`psycopg.ServerCursor.fetchone`).

        :raises DeadlineExceeded: no time remains, or less than the fetching needs.
        """
        with obey(self.connection):
            return super().fetchone()

    def fetchmany(self, size: int = 0) -> list[Any]:
        """Fetch some rows (see :meth:`psycopg.ServerCursor.fetchmany`).

        :raises DeadlineExceeded: no time remains, or less than the fetching needs.
        """
        with obey(self.connection):
            return super().fetchmany(size)

    def fetchall(self) -> list[Any]:
        """Fetch all rows (see :meth:`psycopg.ServerCursor.fetchall`).

        :raises DeadlineExceeded: no time remains, or less than the fetching needs.
        """
        with obey(self.connection):
            return super().fetchall()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield all rows, fetched page by page (see :class:`psycopg.ServerCursor`).

        :raises DeadlineExceeded: no time remains, or less than the fetching needs.
        """
        rows = super().__iter__()
        while True:
            with obey(self.connection):
                try:
                    row = next(rows)
                except StopIteration:
                    return
            yield row


class Connection(psycopg.Connection[Any]):
    """A connection whose cursors bound their statements by the remaining time of the current exchange."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = Cursor
        self.server_cursor_factory = ServerCursor

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the transaction, and give the connection back without a limit (see :class:`psycopg.Connection`)."""
        try:
            super().__exit__(kind, error, traceback)
        finally:
            if not unlimit(self):
                self.close()  # a pool replaces it

    @contextmanager
    def transaction(self, *args: Any, **kwargs: Any) -> Iterator[psycopg.Transaction]:
        """Run a transaction, or a part of one with a savepoint (see :meth:`psycopg.Connection.transaction`)."""
        with super().transaction(*args, **kwargs) as transaction:
            _forget_local(self)  # it may be another transaction than that in which it was set
            try:
                yield transaction
            finally:
                _forget_local(self)  # a rollback to a savepoint undoes it


def _forget_local(connection: psycopg.Connection[Any]) -> None:
    known = _known.get(connection)
    if known is not None:
        known.local = None


connect = Connection.connect
