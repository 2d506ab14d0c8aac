"""Responses for Starlette and FastAPI: downloads, parked requests and event streams.

On graceful the event loop sends the answer, and no task waits for it; an event stream can move to the next process.
On any other server the framework sends the same bytes, from a thread of its pool.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from urllib.parse import quote

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from graceful.contrib import Fields, fields_of, marks, name_of, of_events
from graceful.downloads.parked import Parked
from graceful.downloads.token import Download


def download(
    target: str | os.PathLike[str],
    *,
    content_type: str | None = None,
    filename: str | None = None,
    as_attachment: bool = False,
) -> StreamingResponse:
    """Send a file, or the resource at a URL of an upstream server.

    :param target: a path, which is opened now, or an `http://` or `https://` URL.
    :param content_type: None to guess it by the name; for a URL, None takes the upstream's own.
    :param filename: the name under which a browser saves the file; None for the target's own name.
    :param as_attachment: have a browser save the file instead of showing it.
    :raises FileNotFoundError: there is no such file.
    """
    body = Download(target)
    response = _streaming(body, fields_of(body, content_type, filename))
    if filename or as_attachment:
        disposition = "attachment" if as_attachment else "inline"
        response.headers["Content-Disposition"] = f"{disposition}; {_named(filename or name_of(body))}"
    return response


def park(ticket: Parked) -> Response:
    """Have a request wait until the application calls :meth:`~graceful.Parked.answer`.

    Fields that middlewares add to this response are kept, unless that call sets them, too.
    """
    return _streaming(ticket, marks(ticket)) if ticket.headers else _Waiting(ticket)


def event_stream(ticket: Parked) -> StreamingResponse:
    """Begin a stream of server-sent events; :meth:`~graceful.Parked.send` sends each event."""
    return _streaming(ticket, of_events(ticket))


def _streaming(token: Download | Parked, fields: Fields) -> StreamingResponse:
    """Returns a response with these fields, whose body also keeps the token alive until the answer has begun."""
    response = StreamingResponse(_pieces(token))
    for name, value in fields:
        response.headers[name] = value
    return response


async def _pieces(token: Download | Parked) -> AsyncIterator[bytes]:
    """The body, where the event loop does not send it.

    Its first piece is empty: when a middleware has taken it, the server has got the head, and has looked at it.
    """
    yield b""
    if not token.claimed:
        async for piece in iterate_in_threadpool(token):
            yield piece


def _named(filename: str) -> str:
    """Returns the parameter of `Content-Disposition` (RFC 6266)."""
    quoted = quote(filename)
    return f'filename="{filename}"' if quoted == filename else f"filename*=utf-8''{quoted}"


class _Waiting(Response):
    """A parked request on a server that has no place for it: a thread of the pool waits.

    :param ticket: the request's.
    """

    def __init__(self, ticket: Parked) -> None:
        super().__init__()
        self._ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer when there is one."""
        answer = await run_in_threadpool(self._ticket.wait)
        response = Response(answer.body, int(answer.status[:3]))
        for name, value in answer.headers:
            response.headers[name] = value
        await response(scope, receive, send)
