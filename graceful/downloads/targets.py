"""Which file or URL a path means, and that it means nothing else.

A path of a request, or of an `X-Accel-Redirect` that an application has put together from a request, is what an
attacker chooses.  `..`, `%2e%2e`, `%2F`, `%00`, a backslash, an absolute URL, a symbolic link: each has led out of
somebody's directory.  So a path is taken apart into segments, every segment is looked at as it is decoded, and the
target is put together again from those; what is refused says why, for the log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes, urlsplit

from attrs import frozen

_SAFE: Final = "!$&'()*+,;=:@~"
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_VISIBLE: Final = re.compile(r"[!-~]*\Z")
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9\-._~+@]+)+\Z")


class BadTarget(ValueError):
    """A mapping on the command line that cannot be used.  Its text says what is expected."""


class Refused(Exception):
    """Nothing may be sent for a path; the client is told 404, and the log why."""


@frozen
class File:
    """A file below a directory.

    :ivar path: where it should be.
    :ivar beneath: the directory that it must really be in, whatever links there are; empty for anywhere.
    """

    path: bytes
    beneath: bytes = b""


@frozen
class Url:
    """What an upstream server has.

    :ivar url: `http://host/path?query`, quoted as it is sent.
    """

    url: str


Target = File | Url


@frozen
class Mapping:
    """A prefix of paths, and what is there.

    :ivar prefix: such as `/files`, without a slash at its end.
    :ivar base: a URL or a directory, likewise.
    :ivar remote: whether it is a URL.
    """

    prefix: str
    base: str
    remote: bool


def parse_mapping(text: str) -> Mapping:
    """Read `/PREFIX=URL-or-DIRECTORY`.

    :raises BadTarget: it is none.
    """
    prefix, equals, base = text.partition("=")
    prefix = prefix.rstrip("/")
    if not equals or not _PREFIX.match(prefix) or {".", ".."} & set(prefix.split("/")):
        raise BadTarget("expected /PREFIX=URL or /PREFIX=DIRECTORY, such as /files=http://librarian:58000/")
    if "://" in base:
        try:
            parts = urlsplit(base)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.query or parts.fragment or parts.username is not None or not _VISIBLE.match(base):
            raise BadTarget("expected a URL of http or https, with a host, without user, query and fragment")
        return Mapping(prefix, base.rstrip("/"), True)
    if not os.path.isdir(base):
        raise BadTarget("expected a URL, or a directory, which this is not")
    return Mapping(prefix, os.path.abspath(base), False)


def resolve(mappings: Iterable[Mapping], path: str) -> Target | None:
    """Find what a path means.

    :param path: quoted, with a query or without; characters are latin-1, as in a field or a request target.
    :returns: None if no mapping has its prefix.
    :raises Refused: one has, and nothing may be sent.
    """
    path, _, query = path.partition("?")
    for mapping in sorted(mappings, key=lambda mapping: -len(mapping.prefix)):
        rest = path[len(mapping.prefix) :]
        if path.startswith(mapping.prefix) and rest[:1] in ("", "/"):
            return _below(mapping, _segments(rest), query)
    return None


def _segments(path: str) -> list[bytes]:
    """The decoded segments of a path below a prefix.

    :raises Refused: one of them could mean something else than a name.
    """
    if not path.isascii():
        raise Refused("it is not quoted")
    segments = [unquote_to_bytes(segment) for segment in path.split("/")[1:]]
    for segment in segments:
        # Some servers take what is behind a semicolon for a parameter, and what is left for a dot segment.
        if segment.partition(b";")[0] in (b".", b".."):
            raise Refused("it has a dot segment")
        if b"/" in segment or b"\\" in segment:
            raise Refused("it has a slash in a segment")
        if _CONTROL.search(segment):
            raise Refused("it has a control character")
    if b"" in segments[:-1]:
        raise Refused("it has an empty segment")
    return segments


def _below(mapping: Mapping, segments: list[bytes], query: str) -> Target:
    if mapping.remote:
        if not _VISIBLE.match(query):
            raise Refused("its query is not quoted")
        url = mapping.base + "".join("/" + quote_from_bytes(segment, _SAFE) for segment in segments)
        return Url(f"{url}?{quote(query, _SAFE + '/?%')}" if query else url)
    if not segments or not segments[-1]:
        raise Refused("it is a directory")
    base = os.fsencode(mapping.base)
    return File(os.path.join(base, *segments), base)
