"""Settings as `django-admin startproject` leaves them, reduced to what the views use."""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(os.environ["DJANGO_SITE_DATA"])
SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["test.example"]
ROOT_URLCONF = "django_site.urls"
WSGI_APPLICATION = "django_site.wsgi.application"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"]
MIDDLEWARE = [
    "django.middleware.gzip.GZipMiddleware",
    "django.middleware.http.ConditionalGetMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA / "db.sqlite3"}}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
MEDIA_ROOT = DATA
STORE = os.environ.get("FILE_STORE", "")
SENDFILE_BACKEND = "django_sendfile.backends.nginx"
SENDFILE_ROOT = str(DATA)
SENDFILE_URL = "/protected"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
