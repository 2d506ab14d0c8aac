"""Responses for Django's views: downloads, parked requests and event streams.

On graceful the event loop sends the answer, and the view's thread is free at once.  On any other server the thread
sends the same bytes.
"""

from __future__ import annotations

import os

from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse  # type: ignore[import-untyped]
from django.utils.http import content_disposition_header  # type: ignore[import-untyped]

from graceful.contrib import Fields, fields_of, marks, name_of, of_events
from graceful.downloads.parked import Parked
from graceful.downloads.token import Download


def download(
    target: str | os.PathLike[str],
    *,
    content_type: str | None = None,
    filename: str | None = None,
    as_attachment: bool = False,
) -> StreamingHttpResponse:
    """Send a file, or the resource at a URL of an upstream server.

    :param target: a path, which is opened now, or an `http://` or `https://` URL.
    :param content_type: None to guess it by the name; for a URL, None takes the upstream's own.
    :param filename: the name under which a browser saves the file; None for the target's own name.
    :param as_attachment: have a browser save the file instead of showing it.
    :raises FileNotFoundError: there is no such file.
    """
    body = Download(target)
    response = _with(StreamingHttpResponse(body), fields_of(body, content_type, filename))
    if filename or as_attachment:
        response["Content-Disposition"] = content_disposition_header(as_attachment, filename or name_of(body))
    return response


def park(ticket: Parked) -> HttpResponseBase:
    """Have a request wait until the application calls :meth:`~graceful.Parked.answer`.

    Fields that middlewares add to this response are kept, unless that call sets them, too.
    """
    if ticket.headers:
        return _with(StreamingHttpResponse(ticket), marks(ticket))
    answer = ticket.wait()
    status, _, reason = answer.status.partition(" ")
    return _with(HttpResponse(answer.body, status=int(status), reason=reason), answer.headers)


def event_stream(ticket: Parked) -> StreamingHttpResponse:
    """Begin a stream of server-sent events; :meth:`~graceful.Parked.send` sends each event."""
    return _with(StreamingHttpResponse(ticket), of_events(ticket))


def _with(response: HttpResponseBase, fields: Fields) -> HttpResponseBase:
    """Set the response's fields, and remove the default one of Django's."""
    del response["Content-Type"]
    for name, value in fields:
        response[name] = value
    return response
