"""Heads that never come again are put together of what does: of all but some fields, or of their lines.

A proxy gives each request an id of its own, so that its head is like no other, and :mod:`graceful.web.known_heads`
does not know it.  If it does know the rest, :mod:`graceful.web.unique_fields` puts the id back into that.  If not, at
least most of its lines have come before.  What a line means depends on no other line, but for a few fields (RFC 9112
§5).  So the lines of plain heads that the parser has taken are remembered with the field that each became, and a head
is put together of them.  A line that has not come before may be among them if nothing can be doubtful about it: its
name has come and means nothing to the framing, and its value is printable ASCII.

All else is the parser's to judge: a second line of a field that can have one, a line that is folded, a coding.
Nothing here refuses a request.  Reactor thread only.
"""

from __future__ import annotations

from typing import Final

from graceful.web.field_kinds import (
    CONNECTION,
    HOST,
    LENGTH,
    PLAIN,
    SINGLE,
    connection_options,
    is_short_length,
    known_kind,
)
from graceful.web.known_heads import (
    LONGEST_FIELDS,
    ComposedFields,
    has_come,
    known_fields,
    learn_fields,
    remember_fields,
)
from graceful.web.unique_fields import VALUE, cut, reconsider, shared, value_comes_again, value_is_new, with_own

#: How many lines are remembered, and of how many bytes at most.
REMEMBERED: Final = 1024
LONGEST: Final = 1024
#: Lines of a head that is put together; the parser takes more.
MOST: Final = 100

_BREAK: Final = b"\r\n"


class FieldLine:
    """What a line of a plain head is.

    :ivar field: name and value.
    :ivar kind: what the name means; unless that is 0, a head has one of it at most.
    :ivar length: of the body, if it says that.
    :ivar keep: whether the connection may carry another exchange, as far as it says.
    """

    __slots__ = ("field", "keep", "kind", "length")

    def __init__(self, name: bytes, value: bytes, kind: int) -> None:
        self.field = (name, value)
        self.kind = kind
        self.length = int(value) if kind == LENGTH else 0
        self.keep = kind != CONNECTION or b"close" not in connection_options(value)


_lines: dict[bytes, FieldLine] = {}


def put_together(data: bytes, body: int) -> ComposedFields | None:
    """Returns the fields of a head that was never parsed; None if the parser has to judge it.

    :param data: as they were sent, from the line break before them to the empty line.
    :param body: bytes that have come behind it; the body has to end with them.
    """
    if len(data) > LONGEST_FIELDS:
        return None
    rest, own = cut(data)
    if own:
        shared_fields = known_fields(rest)
        if shared_fields is not None and shared_fields.in_lines and len(shared_fields) + len(own) <= MOST:
            composed = with_own(shared_fields, rest, own)
            reconsider(data, own)
            if has_come(data):
                remember_fields(data, composed, composed.length, composed.keep)
            return composed
    lines = data.split(_BREAK)
    count = len(lines) - 2  # nothing stands before the first line break, nor around the last
    if count > MOST:
        return None
    fields: list[tuple[bytes, bytes]] = []
    had = length = 0
    keep = True
    for number in range(1, count):
        line = lines[number]
        known = _lines.get(line)
        if known is None:
            known = _plain(line)
            if known is None:
                return None
        elif not known.kind:
            value_comes_again(known.field[0])
        kind = known.kind
        if kind:
            if had & kind:
                return None
            had |= kind
            length += known.length
            keep = keep and known.keep
        fields.append(known.field)
    if not had & HOST or length != body:
        return None
    learn_fields(data, fields, length, keep)
    if own:
        learn_fields(rest, shared(fields, rest, own), length, keep)
    composed = ComposedFields(fields)
    composed.length, composed.keep = length, keep
    return composed


def _plain(line: bytes) -> FieldLine | None:
    """Returns what a line is that has not come before; None if there may be a doubt."""
    name, _, value = line.partition(b": ")
    kind = known_kind(name)
    if kind is None:
        return None
    if kind == LENGTH:
        is_sure = is_short_length(value)
    else:
        is_sure = (kind == PLAIN or kind >= SINGLE) and VALUE.match(value) is not None
    if not is_sure:
        return None
    known = FieldLine(name, value, kind)
    if has_come(line):
        _remember(line, known)
        value_comes_again(name)
    elif kind == PLAIN:
        value_is_new(name)
    return known


def learn_lines(data: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    """Remember the lines of a plain head that have come before.

    :param data: as they were sent, from the line break before them to the empty line.
    :param fields: what the parser has made of them.
    """
    lines = data.split(_BREAK)[1:-2]
    if len(lines) != len(fields):
        return  # some are not passed on, or folded
    for line, field in zip(lines, fields, strict=True):
        name, value = field
        kind = known_kind(name)
        if kind is None or kind < 0 or line in _lines or line[: len(name) + 1] != name + b":":
            continue
        if line[len(name) + 1 :].strip(b" \t") == value and has_come(line):
            _remember(line, FieldLine(name, value, kind))


def _remember(line: bytes, known: FieldLine) -> None:
    if len(line) <= LONGEST:
        if len(_lines) >= REMEMBERED:
            _lines.clear()  # those that really come again will soon be back
        _lines[line] = known
