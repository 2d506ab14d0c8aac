"""Downloads and parked requests in Django: what a view returns.

On graceful the event loop answers, and the thread is free at once; on any other server the thread does the work, with
the same bytes.
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
    """Send a file, or what an upstream server has at a URL.

    :param target: a path, which is opened now, or an `http://` or `https://` URL.
    :param content_type: None to have it guessed by the name; for a URL it is the upstream's own.
    :param filename: the name under which a browser saves it; None for the target's own name.
    :param as_attachment: have a browser save it rather than show it.
    :raises FileNotFoundError: there is no such file.
    """
    body = Download(target)
    response = _with(StreamingHttpResponse(body), fields_of(body, content_type, filename))
    if filename or as_attachment:
        response["Content-Disposition"] = content_disposition_header(as_attachment, filename or name_of(body))
    return response


def park(ticket: Parked) -> HttpResponseBase:
    """Have a request wait until the application calls :meth:`~graceful.Parked.answer`.

    What that says is the whole answer: fields that a middleware adds to this response are not sent.
    """
    if ticket.headers:
        return _with(StreamingHttpResponse(ticket), marks(ticket))
    answer = ticket.wait()
    status, _, reason = answer.status.partition(" ")
    return _with(HttpResponse(answer.body, status=int(status), reason=reason), answer.headers)


def event_stream(ticket: Parked) -> StreamingHttpResponse:
    """Begin a stream of server-sent events, which are sent by :meth:`~graceful.Parked.send`."""
    return _with(StreamingHttpResponse(ticket), of_events(ticket))


def _with(response: HttpResponseBase, fields: Fields) -> HttpResponseBase:
    """Give a response its fields, and none that Django thinks of."""
    del response["Content-Type"]
    for name, value in fields:
        response[name] = value
    return response
