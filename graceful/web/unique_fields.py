"""Fields that are new with each request are cut out of a head, so that the rest of it comes again as a whole.

A proxy gives each request an id of its own, and a trace has one.  A head with such a field is like no other, so that
:mod:`graceful.web.known_heads` does not know it.  Yet all else in it has come before, and to look at each of its
lines costs as much as everything else that the server does for the request.

So the names of fields are noted that have come with a new value again and again, a few of them, and only if they mean
nothing to the framing.  Their lines are cut out, what is left is looked up as one piece, and the fields are put back
where they were.  A value is printable ASCII, which means the same to every parser; with another one, nothing is cut.
Reactor thread only.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from graceful.web.known_heads import ComposedFields, KnownFields, has_come

#: Names that are noted.  Each is looked for in all heads that are not known.
NOTED: Final = 6
#: New values of a name, one after the other, until it is noted: a site has many clients, whose names come again.
NEW: Final = 8
#: Names whose new values are counted.
_COUNTED: Final = 64
#: One head of this number is looked at: do the values that are cut out come again after all?
SAMPLE: Final = 64

_BREAK: Final = b"\r\n"
#: A value that means the same to every parser.
VALUE: Final = re.compile(rb"[!-~](?:[ -~]*[!-~])?\Z")

# How a line with such a name begins, with the line break before it, and the name.
_noted: dict[bytes, bytes] = {}
# How many new values of a name have come since one came again.
_new: dict[bytes, int] = {}

#: A field that was cut out of a head: where in the rest it stood; name and value.
CutField: TypeAlias = tuple[int, tuple[bytes, bytes]]
#: The same, with the number of the rest's lines that are before it.
OwnField: TypeAlias = tuple[int, tuple[bytes, bytes]]


def value_is_new(name: bytes) -> None:
    """A new value has come, of a name that means nothing to the framing; lines with it may soon be cut out."""
    count = _new.get(name, 0) + 1
    if count < NEW:
        if len(_new) >= _COUNTED:
            _new.clear()
        _new[name] = count
        return
    _new.pop(name, None)
    if len(_noted) >= NOTED:
        _noted.clear()  # those that really have new values will soon be back
    _noted[_BREAK + name + b": "] = name


def value_comes_again(name: bytes) -> None:
    """A value has come that is known."""
    if _new:
        _new.pop(name, None)


def reconsider(data: bytes, own: list[CutField]) -> None:
    """Cut out no more lines with a name whose values come again after all.  Of most heads, this looks at nothing.

    :param data: as :func:`cut` got it.
    :param own: as it has returned that.
    """
    if not hash(data) % SAMPLE:
        for _, (name, value) in own:
            beginning = _BREAK + name + b": "
            if has_come(beginning + value):
                _noted.pop(beginning, None)


def cut(data: bytes) -> tuple[bytes, list[CutField]]:
    """Cut out of a head what is its own.

    :param data: the fields as they were sent, from the line break before them to the empty line.
    :returns: what is left, and what was cut, as it stood; nothing was, if there may be a doubt about a value.
    """
    rest = data
    own: list[CutField] = []
    for beginning, name in _noted.items():
        before, found, behind = rest.partition(beginning)
        if found:
            value, _, behind = behind.partition(_BREAK)
            if not value.isalnum() and VALUE.match(value) is None:
                return data, []
            rest = before + _BREAK + behind
            one = (len(before), (name, value))
            own = _with(own, one, len(beginning) + len(value)) if own else [one]
    return rest, own


def _with(own: list[CutField], one: CutField, size: int) -> list[CutField]:
    """Returns what was cut so far with one more, by which those behind it have moved up."""
    start = one[0]
    before = [other for other in own if other[0] <= start]
    return [*before, one, *((place - size, field) for place, field in own if place > start)]


def shared(fields: list[tuple[bytes, bytes]], rest: bytes, own: list[CutField]) -> list[tuple[bytes, bytes]]:
    """Returns the fields of what was left.

    :param fields: of the whole head; one for each of its lines.
    """
    left = fields.copy()
    for start, _ in own:
        del left[rest.count(_BREAK, 0, start)]
    return left


def with_own(known: KnownFields, rest: bytes, own: list[CutField]) -> ComposedFields:
    """Returns the fields of the whole head.

    :param known: those of what was left; one for each of its lines.
    """
    placed: list[OwnField] = []
    for start, field in own:
        place = known.places.get(start)
        if place is None:
            place = known.places[start] = rest.count(_BREAK, 0, start)
        placed.append((place, field))
    fields = list(known)
    for place, field in reversed(placed):
        fields.insert(place, field)
    composed = ComposedFields(fields)
    composed.rest, composed.own = known, placed
    if known.length:
        composed.length = known.length
    if not known.keep:
        composed.keep = False
    return composed
