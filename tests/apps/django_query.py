"""A Django site with one view: a query that takes too long."""

from __future__ import annotations

import os

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

words = dict(word.split("=") for word in os.environ["POSTGRES"].split())
settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["graceful.contrib.django_db.Middleware"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": words["host"],
            "USER": words["user"],
            "NAME": words["dbname"],
        }
    },
)
django.setup()


def query(request: HttpRequest) -> HttpResponse:
    """Run it."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("select pg_sleep(1000)")
    return HttpResponse("slept")


urlpatterns = [path("query", query)]
application = get_wsgi_application()
