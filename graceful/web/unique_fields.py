"""Fields that are new with each request are cut out of a head, so that the rest of it comes again as a whole.

A proxy gives each request an id of its own, and a trace has one.  A head with such a field is like no other, so that
:mod:`graceful.web.known_heads` does not know it.  Yet all else in it has come before, and to look at each of its
lines costs as much as everything else that the server does for the request.

So the names of fields that have come with a new value are noted, a few of them, and only if they mean nothing to the
framing.  Their lines are cut out, what is left is looked up as one piece, and the fields are put back where they
were.  A value is printable ASCII, which means the same to every parser; with another one, nothing is cut.  Reactor
thread only.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from graceful.web.known_heads import ComposedFields, KnownFields

#: Names that are noted.  Each is looked for in all heads that are not known.
NOTED: Final = 6

_BREAK: Final = b"\r\n"
#: A value that means the same to every parser.
VALUE: Final = re.compile(rb"[!-~](?:[ -~]*[!-~])?\Z")

# How a line with such a name begins, with the line break before it, and the name.
_noted: dict[bytes, bytes] = {}

#: A field that was cut out of a head: how many lines are before it, but for those that were cut out earlier; name and
#: value.
OwnField: TypeAlias = tuple[int, tuple[bytes, bytes]]


def note_name(name: bytes) -> None:
    """Cut out lines with this name from now on: one has come whose value is new, and means nothing to the framing."""
    if len(_noted) >= NOTED:
        _noted.clear()  # those that really have new values will soon be back
    _noted[_BREAK + name + b": "] = name


def cut(data: bytes) -> tuple[bytes, list[OwnField]]:
    """Cut out of a head what is its own.

    :param data: the fields as they were sent, from the line break before them to the empty line.
    :returns: what is left, and what was cut, in that order; nothing was, if there may be a doubt about a value.
    """
    rest = data
    own: list[OwnField] = []
    for beginning, name in _noted.items():
        start = rest.find(beginning)
        if start >= 0:
            end = rest.find(_BREAK, start + 2)
            value = rest[start + len(beginning) : end]
            if not value.isalnum() and VALUE.match(value) is None:
                return data, []
            own.append((rest.count(_BREAK, 0, start), (name, value)))
            rest = rest[:start] + rest[end:]
    return rest, own


def shared(fields: list[tuple[bytes, bytes]], own: list[OwnField]) -> list[tuple[bytes, bytes]]:
    """Returns the fields of what was left.

    :param fields: of the whole head; one for each of its lines.
    """
    left = fields.copy()
    for place, _ in own:
        del left[place]
    return left


def with_own(known: KnownFields, own: list[OwnField]) -> ComposedFields:
    """Returns the fields of the whole head.

    :param known: those of what was left; one for each of its lines.
    """
    fields = list(known)
    for place, field in reversed(own):
        fields.insert(place, field)
    composed = ComposedFields(fields)
    composed.rest, composed.own = known, own
    if known.length:
        composed.length = known.length
    if not known.keep:
        composed.keep = False
    return composed
