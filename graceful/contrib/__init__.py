"""Adapters for frameworks and libraries: one module for each, which only its users import.

An adapter for a web framework makes a response whose body is a token (:mod:`graceful.downloads.token`), with the
token's header fields.  This module has what those adapters share: the other fields of the response, chosen so that
middlewares do not change it.
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
    """Returns the header fields by which a token's answer is handed over to the event loop.

    A middleware that compresses would read the body, and a thread would have to send the result.  `Content-Encoding:
    identity` tells it that the body is encoded already; the server does not send that field.
    """
    return [*token.headers, ("Content-Encoding", "identity")] if token.headers else []


def of_events(token: HandoverToken) -> Fields:
    """Returns the header fields of a stream of server-sent events."""
    return [
        *marks(token),
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "no-cache"),
        ("X-Accel-Buffering", "no"),  # for an nginx in front
    ]


def fields_of(download: Download, content_type: str | None, filename: str | None) -> Fields:
    """Returns the header fields of a response whose body is a download.

    :param content_type: None to guess it; for a URL, None takes the upstream's own if the event loop passes that on.
    :param filename: the name by which to guess it; None for the target's.
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
    """Returns the default file name of a download: the last part of its path or URL."""
    path = unquote(urlsplit(download.target).path) if download.remote else download.target
    return os.path.basename(path)
