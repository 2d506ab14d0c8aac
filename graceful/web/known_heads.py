"""Heads of requests that come again are not parsed again.

A browser sends the same ten fields with each of its requests, a proxy or a client program the same three, and parsing
them costs more than everything else that the server does for a small request.  So what was parsed is remembered by
its bytes, for all connections together, boundedly.  Only plain heads are: HTTP/1.1, one Host, and a body that came
with its head and has a Content-Length, or none.  For those the parser's verdict on the fields depends on nothing but
their bytes, nor that on an ordinary request line.

What is remembered is shared by requests of several clients, and therefore immutable.  Reactor thread, except as said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

#: Fields of as many heads are remembered, and as many request lines.
REMEMBERED: Final = 512
#: Hashes of as many are kept to see that fields come again.
SEEN_ONCE: Final = 4096
#: Bytes of the fields of a head, with its line breaks, and of a request line, that are remembered.
LONGEST_FIELDS: Final = 4096
LONGEST_LINE: Final = 256

# Of an origin-form target only characters that every parser takes (RFC 3986 §3.3), and no fragment; none of them has
# to be escaped in a log.
_LINE: Final = re.compile(rb"([A-Z]+) (/[!$-;=?-Z_a-z~]*) HTTP/1\.1\Z")


class KnownFields(tuple[tuple[bytes, bytes], ...]):
    """The fields of a head that may come again: name and value of each, as an exchange has them.

    :ivar length: bytes of the body that they announce; 0: there is none.
    :ivar keep: whether the connection may carry another exchange; what `Connection` says.
    :ivar in_lines: each is one line of the head, and the head has no other.
    :ivar places: how many lines are before the line that begins at a byte.  Reactor thread.
    :ivar environ: the same as PEP 3333 has them, once a thread has made that; never changed.  Any thread.
    :ivar lowered: the same as ASGI has them, once that was asked for; never changed.  Any thread.
    :ivar shown_client: what the access log tells of them, once that was asked for.  Any thread.
    """

    length: int = 0
    keep: bool = True
    in_lines: bool = False
    places: dict[int, int]
    environ: dict[str, Any] | None = None
    lowered: list[tuple[bytes, bytes]] | None = None
    shown_client: str | None = None


class ComposedFields(KnownFields):
    """The fields of a head that was put together; it will hardly come again, so nothing is made to be shared.

    :ivar rest: those of them that do come again; None if that is not known.
    :ivar own: the others, each with its place in the rest (see :mod:`graceful.web.unique_fields`).
    """

    rest: KnownFields | None = None
    own: Sequence[tuple[int, tuple[bytes, bytes]]] = ()


_fields: dict[bytes, KnownFields] = {}
# Hashes of fields, and of single lines of them, that have come.  What a proxy makes unique for each request is not
# worth more.
_once: set[int] = set()
_lines: dict[bytes, tuple[str, bytes, str]] = {}

# A method that is looked up of an imported name is made for each call; these are made once.
known_fields: Final = _fields.get
known_line: Final = _lines.get


def learn_fields(data: bytes, fields: Sequence[tuple[bytes, bytes]], length: int = 0, keep: bool = True) -> None:
    """Remember the fields of a plain head, if they have come before.

    :param data: as they were sent, from the line break before them to the empty line.
    :param fields: what was parsed.
    :param length: bytes of the body that they announce.
    :param keep: whether the connection may carry another exchange.
    """
    if len(data) <= LONGEST_FIELDS and has_come(data):
        remember_fields(data, fields, length, keep)


def remember_fields(data: bytes, fields: Sequence[tuple[bytes, bytes]], length: int, keep: bool) -> None:
    """Remember fields that have come before; see :func:`learn_fields`."""
    if len(_fields) >= REMEMBERED:
        _fields.clear()  # those that really come again will soon be back
    known = _fields[data] = KnownFields(fields)
    known.length, known.keep, known.places = length, keep, {}
    lines = data.split(b"\r\n")[1:-2]
    known.in_lines = len(lines) == len(fields) and all(
        line.startswith(name + b":") for line, (name, _) in zip(lines, fields, strict=True)
    )


def has_come(data: bytes) -> bool:
    """Whether these bytes have come before; if not, they have now."""
    key = hash(data)
    if key in _once:
        return True
    if len(_once) >= SEEN_ONCE:
        _once.clear()
    _once.add(key)
    return False


def learn_line(line: bytes, methods: dict[bytes, str]) -> tuple[str, bytes, str] | None:
    """Remember an ordinary request line.

    :param line: as it was sent, without its line break.
    :param methods: those that the parser has taken before, with their names.
    :returns: method, target, and the line as text, harmless to logs; None if it is one for the parser.
    """
    match = _LINE.match(line) if len(line) <= LONGEST_LINE else None
    name = methods.get(match[1]) if match is not None else None
    if match is None or name is None:
        return None
    if len(_lines) >= REMEMBERED:
        _lines.clear()
    known = _lines[line] = name, match[2], line.decode("ascii")
    return known
