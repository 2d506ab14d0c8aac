"""Responses for Flask's views: downloads, parked requests and event streams.

On graceful the event loop sends the answer, and the view's thread is free at once.  On any other server the thread
sends the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from flask import Response

from graceful.contrib import Fields, fields_of, marks, name_of, of_events
from graceful.downloads.parked import Parked
from graceful.downloads.token import Download


def download(
    target: str | os.PathLike[str],
    *,
    content_type: str | None = None,
    filename: str | None = None,
    as_attachment: bool = False,
) -> Response:
    """Send a file, or the resource at a URL of an upstream server.

    :param target: a path, which is opened now, or an `http://` or `https://` URL.
    :param content_type: None to guess it by the name; for a URL, None takes the upstream's own.
    :param filename: the name under which a browser saves the file; None for the target's own name.
    :param as_attachment: have a browser save the file instead of showing it.
    :raises FileNotFoundError: there is no such file.
    """
    body = Download(target)
    response = _response(body, fields_of(body, content_type, filename))
    if filename or as_attachment:
        disposition = "attachment" if as_attachment else "inline"
        response.headers.set("Content-Disposition", disposition, filename=filename or name_of(body))
    return response


def park(ticket: Parked) -> Response:
    """Have a request wait until the application calls :meth:`~graceful.Parked.answer`.

    Fields that middlewares add to this response are kept, unless that call sets them, too.
    """
    if ticket.headers:
        return _response(ticket, marks(ticket))
    answer = ticket.wait()
    return _response([answer.body], answer.headers, answer.status)


def event_stream(ticket: Parked) -> Response:
    """Begin a stream of server-sent events; :meth:`~graceful.Parked.send` sends each event."""
    return _response(ticket, of_events(ticket))


def _response(body: Iterable[bytes], fields: Fields, status: str = "200 OK") -> Response:
    """Returns a response with these fields and none of Flask's defaults, whose body is passed on unchanged."""
    response = Response(body, status=status, direct_passthrough=not isinstance(body, list))
    response.headers.clear()
    response.headers.extend(fields)
    return response
