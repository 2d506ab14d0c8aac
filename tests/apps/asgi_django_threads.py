"""A Django project with ASGI, whose views and middleware are synchronous: it runs them in threads of asgiref's."""

from __future__ import annotations

from collections.abc import Callable

import django
from asgi_threads import WORK
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.unchanged"], LOGGING_CONFIG=None
)
django.setup()


def unchanged(inner: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """A synchronous middleware."""
    return lambda request: inner(request)


def view(request: HttpRequest, work: str) -> HttpResponse:
    """A synchronous view."""
    WORK[work]("view")
    return HttpResponse()


urlpatterns = [path("<work>", view)]
app = get_asgi_application()
