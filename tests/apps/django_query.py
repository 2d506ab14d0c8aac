"""A Django site whose queries take too long, or are made where a request's are not: behind it, and beside it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

words = dict(word.split("=") for word in os.environ["POSTGRES"].split())
settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["graceful.contrib.django_db.Middleware", f"{__name__}.inner"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": words["host"],
            "USER": words["user"],
            "NAME": words["dbname"],
            # With one connection, whatever asks next gets the one that the request has given back.
            "OPTIONS": {"pool": {"min_size": 1, "max_size": 1}},
        }
    },
)
django.setup()


def ask(sql: str) -> str:
    """What the database says."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(sql)
        return str(cursor.fetchone()[0])


def query(request: HttpRequest) -> HttpResponse:
    """Run it."""
    return HttpResponse(ask("select pg_sleep(1000)"))


def copy(request: HttpRequest) -> HttpResponse:
    """What Django leaves to psycopg, without any query before it."""
    from django.db import connection

    with connection.cursor() as cursor, cursor.copy("copy (select pg_sleep(1000)) to stdout") as rows:
        return HttpResponse(b"".join(rows))


def rows(request: HttpRequest) -> HttpResponse:
    """The same, row by row."""
    from django.db import connection

    with connection.cursor() as cursor:
        return HttpResponse(str(list(cursor.stream("select pg_sleep(1000)"))))


def inner(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """A middleware that asks the database."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path == "/inner":
            ask("select pg_sleep(1000)")
        return get_response(request)

    return middleware


def quick(request: HttpRequest) -> HttpResponse:
    """One that is within its limit, which the database says."""
    return HttpResponse(ask("show statement_timeout"))


def beside(request: HttpRequest) -> HttpResponse:
    """Ask in a thread of the site, in which there is no request, by a connection from the pool as it is there."""
    from django.db import connection, connections

    said: list[str] = []

    def nightly() -> None:
        try:
            connection.ensure_connection()
            said.append(str(connection.connection.execute("show statement_timeout").fetchone()[0]))
        finally:
            connections.close_all()

    connections.close_all()
    thread = threading.Thread(target=nightly)
    thread.start()
    thread.join()
    return HttpResponse(said[0])


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Queries of a body that is made when the view has returned: the limit, and one that is too long."""

    def lines() -> Iterator[str]:
        yield ask("show statement_timeout") + "\n"
        try:
            ask("select pg_sleep(1000)")
        except Exception as error:
            yield type(error).__name__ + "\n"

    return StreamingHttpResponse(lines())


views = (query, copy, rows, quick, beside, stream)
urlpatterns = [path(view.__name__, view) for view in views]
application = get_wsgi_application()
