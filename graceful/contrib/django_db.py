"""Database queries in Django: none runs longer than its request has time, or after the request's takedown.

Add the middleware to the settings, before all other middlewares that use the database::

    MIDDLEWARE = ["graceful.contrib.django_db.Middleware", …]

With PostgreSQL and psycopg 3 the database itself ends a query when the request's time is over (see
:mod:`graceful.contrib.psycopg`).  With other databases, no query begins once the time is over.  That is so until the
response is closed, also for the queries of a `StreamingHttpResponse`.  Then the connection is without a limit, as are
the queries of other threads.

`cursor.copy()` and `cursor.stream()`, which Django leaves to psycopg, have the time that the request has left when
their cursor is made.  Whatever raises the exception, a view or another middleware, the answer is 503.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from django.core.signals import got_request_exception  # type: ignore[import-untyped]
from django.db import OperationalError, connections  # type: ignore[import-untyped]
from django.db.backends.signals import connection_created  # type: ignore[import-untyped]
from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]

from graceful.application.current import current_exchange
from graceful.application.deadlines import DeadlineExceeded, check, remaining


def obey(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
    """Execute a query within the request's remaining time; an argument of :meth:`connection.execute_wrapper`.

    :raises DeadlineExceeded: no time remains, or less than the query needs.
    """
    raw = context["connection"].connection
    allowed = None
    if _by_psycopg(raw):
        from graceful.contrib.psycopg import limit

        allowed = limit(raw)
    else:
        check()
    exchange = current_exchange()
    cancel = getattr(raw, "cancel", None)
    with ExitStack() as stack:
        if exchange is not None and cancel is not None:
            stack.enter_context(exchange.on_takedown(cancel))
        try:
            return execute(sql, params, many, context)
        except OperationalError as error:
            if _cancelled(error) and (remaining() == 0 if allowed is None else allowed.exceeded()):
                raise DeadlineExceeded(str(error)) from error
            raise


class Middleware:
    """Bounds all queries of a request by its remaining time, and answers 503 when the time is over."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        connection_created.connect(_connected, dispatch_uid=_connected)
        got_request_exception.connect(_failed, dispatch_uid=_failed)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a request, with all its queries bounded."""
        for connection in connections.all():
            _bound(connection)
        streaming = False
        try:
            response = self._get_response(request)
            if getattr(request, _EXCEEDED, False):
                response = _unavailable()  # Django has answered 500 to what an inner middleware has raised
            # The last that runs of a response is its close(), behind which Django gives the connections to others.
            response._resource_closers.append(_give_back)
            streaming = response.streaming
        finally:
            if not streaming:
                _give_back()
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer 503 if a view has raised :class:`DeadlineExceeded`, or what stands for it."""
        return _unavailable() if _exceeded(exception) else None


#: The attribute of a request that says that its time was over.
_EXCEEDED: Final = "_graceful_deadline_exceeded"


def _unavailable() -> HttpResponse:
    return HttpResponse("503 Service Unavailable\n", "text/plain", 503, headers={"Retry-After": "5"})


def _failed(request: HttpRequest, **ignored: Any) -> None:
    """Receive a request to which Django is about to answer 500, while it handles the exception."""
    error = sys.exc_info()[1]
    if request is not None and error is not None and _exceeded(error):
        setattr(request, _EXCEEDED, True)


def _exceeded(error: BaseException) -> bool:
    """Whether an exception says that the time of the request is over."""
    return isinstance(error, DeadlineExceeded) or (_cancelled(error) and remaining() == 0)


def _cancelled(error: BaseException) -> bool:
    """Whether the database has cancelled a statement: an error of psycopg, or Django's for one."""
    return "57014" in (getattr(error, "sqlstate", None), getattr(error.__cause__, "sqlstate", None))


def _by_psycopg(raw: Any) -> bool:
    """Whether a connection of Django's is one of psycopg 3."""
    return type(raw).__module__.partition(".")[0] == "psycopg"


def _bound(connection: Any) -> None:
    """Have all queries of a connection obey, for good: a stream's are made when the middleware has returned."""
    if obey not in connection.execute_wrappers:
        # In front, since `execute_wrapper` of others ends with the last one.
        connection.execute_wrappers.insert(0, obey)
    if "create_cursor" not in vars(connection):
        connection.create_cursor = partial(_create_cursor, connection, connection.create_cursor)


def _create_cursor(connection: Any, create: Callable[[str | None], Any], name: str | None = None) -> Any:
    """Make a cursor whose methods that are no queries to Django are bounded, too: `copy` and `stream`."""
    if _by_psycopg(connection.connection):
        from graceful.contrib.psycopg import limit

        limit(connection.connection)
    return create(name)


def _connected(connection: Any, **ignored: Any) -> None:
    """Receive a new connection, or one from Django's pool; of any thread."""
    _bound(connection)
    _unlimited(connection)


def _give_back() -> None:
    """Take the request's limit off the connections of this thread, before others get them."""
    for connection in connections.all(initialized_only=True):
        if not _unlimited(connection) and not connection.in_atomic_block:
            connection.close()


def _unlimited(connection: Any) -> bool:
    """Take the request's limit off a connection; returns False if that cannot be done now."""
    if not _by_psycopg(connection.connection):
        return True
    from graceful.contrib.psycopg import unlimit

    return unlimit(connection.connection)
