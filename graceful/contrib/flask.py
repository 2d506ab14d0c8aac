"""Downloads and parked requests in Flask: what a view returns.

On graceful the event loop answers, and the thread is free at once; on any other server the thread does the work, with
the same bytes.
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
    """Send a file, or what an upstream server has at a URL.

    :param target: a path, which is opened now, or an `http://` or `https://` URL.
    :param content_type: None to have it guessed by the name; for a URL it is the upstream's own.
    :param filename: the name under which a browser saves it; None for the target's own name.
    :param as_attachment: have a browser save it rather than show it.
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

    What that says is the whole answer: fields that a middleware adds to this response are not sent.
    """
    if ticket.headers:
        return _response(ticket, marks(ticket))
    answer = ticket.wait()
    return _response([answer.body], answer.headers, answer.status)


def event_stream(ticket: Parked) -> Response:
    """Begin a stream of server-sent events, which are sent by :meth:`~graceful.Parked.send`."""
    return _response(ticket, of_events(ticket))


def _response(body: Iterable[bytes], fields: Fields, status: str = "200 OK") -> Response:
    """A response with these fields, and none that Flask thinks of; its body is passed on as it is."""
    response = Response(body, status=status, direct_passthrough=not isinstance(body, list))
    response.headers.clear()
    response.headers.extend(fields)
    return response
