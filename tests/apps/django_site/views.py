"""The project's views, written with no thought of any server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from django.conf import settings
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import redirect
from django.template import engines


def visits(request: HttpRequest) -> HttpResponse:
    """Count the visits of a browser in its session."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(f"visit {request.session['visits']}", content_type="text/plain")


def upload(request: HttpRequest) -> HttpResponse:
    """Show an upload form, and take what it sends."""
    if request.method != "POST":
        form = engines["django"].from_string("<form>{% csrf_token %}<input type=file name=file></form>")
        return HttpResponse(form.render({}, request))
    sent = request.FILES["file"]
    digest = hashlib.sha256()
    for chunk in sent.chunks():
        digest.update(chunk)
    return HttpResponse(
        f"{sent.name} {sent.size} {digest.hexdigest()} {request.POST['note']}", content_type="text/plain"
    )


def stream(request: HttpRequest) -> HttpResponseBase:
    """Stream lines from a generator."""

    def lines() -> Iterator[str]:
        for number in range(1000):
            yield f"line {number}\n"

    return StreamingHttpResponse(lines(), content_type="text/plain")


def file(request: HttpRequest) -> HttpResponseBase:
    """Send a file."""
    return FileResponse((settings.DATA / "file.bin").open("rb"))


def old(request: HttpRequest) -> HttpResponse:
    """Redirect to the new address."""
    return redirect("/visits/")
