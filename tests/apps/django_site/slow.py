"""The project's slow views: downloads and parked requests, on any server."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django_sendfile import sendfile

from graceful import Download, Parked
from graceful.contrib import django as graceful

tickets: dict[str, Parked] = {}


def download(request: HttpRequest, name: str) -> HttpResponseBase:
    """Send a file from the disk."""
    return graceful.download(settings.DATA / name, as_attachment="save" in request.GET)


def store(request: HttpRequest, name: str) -> HttpResponseBase:
    """Send a file from the file store."""
    return graceful.download(f"{settings.STORE}/{name}", filename=request.GET.get("as"), as_attachment=True)


def wrapped(request: HttpRequest, name: str) -> HttpResponseBase:
    """Send a file from the disk, and let middlewares do with it what they want."""
    body = Download(settings.DATA / name)
    return StreamingHttpResponse(body, content_type="text/plain", headers=dict(body.headers))


def sent(request: HttpRequest, name: str) -> HttpResponseBase:
    """Have a proxy send a file, by `X-Accel-Redirect`."""
    return sendfile(request, str(settings.DATA / name))


def wait(request: HttpRequest, name: str) -> HttpResponseBase:
    """Wait for news."""
    ticket = tickets[name] = Parked(float(request.GET.get("timeout", "60")))
    return graceful.park(ticket)


def events(request: HttpRequest, name: str) -> HttpResponseBase:
    """Wait for events."""
    ticket = tickets[name] = Parked(60)
    return graceful.event_stream(ticket)


def tell(request: HttpRequest, name: str) -> HttpResponse:
    """Have news, or an event that is the last."""
    ticket = tickets.pop(name, None)
    if ticket is None:
        return HttpResponse("nobody")
    if "news" in request.GET:
        return HttpResponse(ticket.answer(200, [("Content-Type", "text/x-news")], request.GET["news"].encode()))
    ticket.send(f"data: {request.GET['event']}\n\n".encode())
    return HttpResponse(ticket.finish())
