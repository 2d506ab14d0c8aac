"""Django's administration, with a pool of connections to PostgreSQL that requests bound by their time.

As a program it makes the tables, and the user `admin` with the password `secret`.
"""

from __future__ import annotations

import os
from pathlib import Path

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path

words = dict(word.split("=") for word in os.environ["POSTGRES"].split())
settings.configure(
    SECRET_KEY="the same in all processes",
    ROOT_URLCONF=Path(__file__).stem,
    ALLOWED_HOSTS=["*"],
    USE_TZ=True,
    STATIC_URL="static/",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages")],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    MIDDLEWARE=[
        "graceful.contrib.django_db.Middleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": words["host"],
            "USER": words["user"],
            "NAME": words["dbname"],
            "OPTIONS": {"pool": {"min_size": 1, "max_size": 4}},
        }
    },
)
application = get_wsgi_application()

from django.contrib import admin  # noqa: E402  (it needs the settings)

urlpatterns = [path("admin/", admin.site.urls)]


def prepare() -> None:
    """Make the tables and the user."""
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import connections

    call_command("migrate", verbosity=0)
    User.objects.create_superuser("admin", password="secret")
    connections["default"].close_pool()


if __name__ == "__main__":
    django.setup()
    prepare()
