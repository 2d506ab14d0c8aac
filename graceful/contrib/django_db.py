"""Django's database connections: no query runs longer than its request has time, and none after its takedown.

In the settings, before all other middlewares that use the database::

    MIDDLEWARE = ["graceful.contrib.django_db.Middleware", …]

With PostgreSQL and psycopg 3 the database itself ends a query when its time is over (see
:mod:`graceful.contrib.psycopg`); with others, none begins when there is no time left.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from django.db import OperationalError, connections  # type: ignore[import-untyped]
from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]

from graceful.application.current import current_exchange
from graceful.application.deadlines import DeadlineExceeded, check, remaining


def obey(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
    """Execute a query within the time that is left; for :meth:`connection.execute_wrapper`.

    :raises DeadlineExceeded: nothing is left, or not enough.
    """
    connection = context["connection"]
    raw = connection.connection
    if type(raw).__module__.partition(".")[0] == "psycopg":
        from graceful.contrib.psycopg import limit

        limit(raw)
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
            if getattr(error.__cause__, "sqlstate", None) == "57014" and remaining() == 0:
                raise DeadlineExceeded(str(error)) from error
            raise


class Middleware:
    """Has all queries of a request obey, and answers 503 when its time is over."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""
        with ExitStack() as stack:
            for connection in connections.all():
                stack.enter_context(connection.execute_wrapper(obey))
            return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer 503 when a view has run out of time."""
        if not isinstance(exception, DeadlineExceeded):
            return None
        return HttpResponse("503 Service Unavailable\n", "text/plain", 503, headers={"Retry-After": "5"})
