"""The project's addresses."""

from __future__ import annotations

from django.urls import path

from django_site import views

urlpatterns = [
    path("visits/", views.visits),
    path("upload/", views.upload),
    path("stream/", views.stream),
    path("file/", views.file),
    path("old/", views.old),
]
