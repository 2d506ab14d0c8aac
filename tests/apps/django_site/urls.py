"""The project's addresses."""

from __future__ import annotations

from django.urls import path

from django_site import slow, views

urlpatterns = [
    path("visits/", views.visits),
    path("upload/", views.upload),
    path("stream/", views.stream),
    path("file/", views.file),
    path("old/", views.old),
    path("download/<str:name>", slow.download),
    path("store/<str:name>", slow.store),
    path("wrapped/<str:name>", slow.wrapped),
    path("sent/<str:name>", slow.sent),
    path("wait/<str:name>", slow.wait),
    path("events/<str:name>", slow.events),
    path("tell/<str:name>", slow.tell),
]
