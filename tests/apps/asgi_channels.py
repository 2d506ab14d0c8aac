"""A Django application with a WebSocket of Channels."""

from __future__ import annotations

from typing import Any

import django
from channels.generic.websocket import WebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils.safestring import mark_safe

settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="of a test")
django.setup()


def hello(request: HttpRequest) -> HttpResponse:
    """Answer in one piece."""
    return HttpResponse("Hello from Django")


class Echo(WebsocketConsumer):  # type: ignore[misc]
    """Send back what comes, in a thread of its own, as the safe string that a template gives."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """A message has come."""
        self.send(text_data=mark_safe(text_data))

    def disconnect(self, code: int) -> None:
        """It has ended."""
        print(f"channels ended: {code}", flush=True)


urlpatterns: list[Any] = [path("", hello)]
app = ProtocolTypeRouter(
    {"http": get_asgi_application(), "websocket": URLRouter([path("echo", Echo.as_asgi())])}  # type: ignore[arg-type]
)
