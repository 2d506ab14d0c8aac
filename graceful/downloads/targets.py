"""Which file or URL a path means, and that it means nothing else.

An attacker chooses the path of a request, and so the `X-Accel-Redirect` that an application makes of it.  `..`,
`%2e%2e`, `%2F`, `%00`, a backslash, an absolute URL, a symbolic link: each has led out of a server's directory.  So a
path is split into segments, every segment is checked after decoding, and the target is put together from those; the
reason of a refusal goes to the log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

from attrs import frozen
from twisted.logger import Logger

from graceful.config.values import _VISIBLE, Mapping

log = Logger(namespace="graceful")

#: Characters that a segment of a URL may have unquoted (RFC 3986 §3.3).
_SAFE: Final = "!$&'()*+,;=:@~"
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")


class RefusedPath(Exception):
    """Nothing may be sent for a path; the client is told 404, and the log why."""


@frozen
class File:
    """A file below a directory.

    :ivar path: its name.
    :ivar beneath: the directory that it must be in after all symbolic links are resolved; empty for anywhere.
    """

    path: bytes
    beneath: bytes = b""


@frozen
class Url:
    """A URL at an upstream server.

    :ivar url: `http://host/path?query`, quoted as it is sent.
    """

    url: str


Target = File | Url


def log_refusal(exchange: object, path: str, refused: RefusedPath) -> None:
    """Write to the log why nothing is sent for a path."""
    log.warn("{exchange}: {path!r} is not sent: {why}", exchange=exchange, path=path, why=refused)


def resolve(mappings: Iterable[Mapping], path: str) -> Target | None:
    """Find what a path means.

    :param path: quoted, with a query or without; characters are latin-1, as in a field or a request target.
    :returns: None if no mapping has its prefix.
    :raises RefusedPath: a mapping has the prefix, but nothing may be sent.
    """
    path, _, query = path.partition("?")
    for mapping in sorted(mappings, key=lambda mapping: -len(mapping.prefix)):
        rest = path[len(mapping.prefix) :]
        if path.startswith(mapping.prefix) and rest[:1] in ("", "/"):
            return _below(mapping, _segments(rest), query)
    return None


def _segments(path: str) -> list[bytes]:
    """Return the decoded segments of a path below a prefix.

    :raises RefusedPath: a segment could mean something else than a name.
    """
    if not path.isascii():
        raise RefusedPath("it is not quoted")
    segments = [unquote_to_bytes(segment) for segment in path.split("/")[1:]]
    for segment in segments:
        # Some servers take what follows a semicolon for a parameter, and the rest for a dot segment.
        if segment.partition(b";")[0] in (b".", b".."):
            raise RefusedPath("it has a dot segment")
        if b"/" in segment or b"\\" in segment:
            raise RefusedPath("it has a slash in a segment")
        if _CONTROL.search(segment):
            raise RefusedPath("it has a control character")
    if b"" in segments[:-1]:
        raise RefusedPath("it has an empty segment")
    return segments


def _below(mapping: Mapping, segments: list[bytes], query: str) -> Target:
    if mapping.remote:
        if not _VISIBLE.match(query):
            raise RefusedPath("its query is not quoted")
        url = mapping.base + "".join("/" + quote_from_bytes(segment, _SAFE) for segment in segments)
        return Url(f"{url}?{quote(query, _SAFE + '/?%')}" if query else url)
    if not segments or not segments[-1]:
        raise RefusedPath("it is a directory")
    base = os.fsencode(mapping.base)
    return File(os.path.join(base, *segments), base)
