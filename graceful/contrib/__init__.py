"""Downloads and parked requests in the words of a framework: one module for each, imported only by who uses it.

A framework's response is the token (:mod:`graceful.downloads.token`) as its body, and the token's field.  What they
have in common is here: what else the response has to say, so that middlewares leave it as it is.
"""

from __future__ import annotations

import mimetypes
import os
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from graceful.downloads.token import Download, HandoverToken

Fields = list[tuple[str, str]]


def marks(token: HandoverToken) -> Fields:
    """The fields by which an answer is handed over.

    A middleware that compresses would make the body one that a thread has to send: it is told that this is done
    already.  That field stays in the server.
    """
    return [*token.headers, ("Content-Encoding", "identity")] if token.headers else []


def of_events(token: HandoverToken) -> Fields:
    """The fields of a response that is a stream of server-sent events."""
    return [
        *marks(token),
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "no-cache"),
        ("X-Accel-Buffering", "no"),  # to an nginx in front
    ]


def fields_of(download: Download, content_type: str | None, filename: str | None) -> Fields:
    """The fields of a response with a download as its body.

    :param content_type: None to have it guessed; from a URL it is the upstream's own, where that is passed on.
    :param filename: what to guess it by, rather than by the target.
    """
    fields = marks(download)
    if content_type is None and not (download.remote and download.headers):
        content_type = mimetypes.guess_type(filename or "")[0] or download.content_type
    if content_type is not None:
        fields.append(("Content-Type", content_type))
    if download.size is not None:
        fields.append(("Content-Length", str(download.size)))
    return fields


def name_of(download: Download) -> str:
    """Returns what a download is called if the view does not say: the last part of its path or URL."""
    path = unquote(urlsplit(download.target).path) if download.remote else download.target
    return os.path.basename(path)
