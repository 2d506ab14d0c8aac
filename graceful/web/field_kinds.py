"""What a field means to the framing of a request, by its name.

Names are learnt, boundedly: what a name means is looked up for each field of each request.  Reactor thread only.
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

Learnt = TypeVar("Learnt")

TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")

PLAIN: Final = 0
# A plain head may have one of each of these; as numbers each has a bit of its own.
HOST: Final = 1
CONNECTION: Final = 2
LENGTH: Final = 4
#: The first kind of fields that have one value: which of two counts, a proxy and an application may see differently
#: (RFC 9110 §5.3).  They have a bit each, from this one on.
SINGLE: Final = 16
# With one of these a head is not plain, or refused: they are below zero.
PROXY_CONNECTION: Final = -1
EXPECT: Final = -2
CODING: Final = -3
UPGRADE: Final = -4
#: Not passed on: with an underscore it looks in the environ like its twin with a hyphen, a way past proxies' filters.
DROP: Final = -5
#: No name of a field.
BAD: Final = -6
SINGLE_VALUED: Final = (
    b"authorization",
    b"content-type",
    b"if-modified-since",
    b"if-range",
    b"if-unmodified-since",
    b"max-forwards",
    b"proxy-authorization",
    b"range",
)
_KINDS: Final = {
    b"host": HOST,
    b"connection": CONNECTION,
    b"proxy-connection": PROXY_CONNECTION,
    b"expect": EXPECT,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"upgrade": UPGRADE,
    **{name: SINGLE << number for number, name in enumerate(SINGLE_VALUED)},
}
_LENGTH_DIGITS: Final = 8
#: Names that are remembered, and the bytes of the longest one.
REMEMBERED_NAMES: Final = 1024
LONGEST_NAME: Final = 64
_names: dict[bytes, int] = {}

#: The kind of a name that has come before, as it was sent; None for others.
known_kind: Final = _names.get


def kind_of(name: bytes) -> int:
    """Returns the kind of a name that has not come before, and remembers it."""
    if not TOKEN.match(name):
        return BAD
    kind = DROP if b"_" in name else _KINDS.get(name.lower(), PLAIN)
    remember_name(_names, name, kind)
    return kind


def remember_name(memory: dict[bytes, Learnt], name: bytes, learnt: Learnt) -> None:
    """Remember what a name means, boundedly: a client can make up any.

    :param memory: what is remembered, by the names as they were sent; any thread that may use it.
    """
    if len(name) <= LONGEST_NAME:
        if len(memory) >= REMEMBERED_NAMES:
            memory.clear()  # those that really come again will soon be back
        memory[name] = learnt


def connection_options(value: bytes) -> set[bytes]:
    """Returns the options that a `Connection` field lists (RFC 9110 §7.6.1), in lower case."""
    return {option.strip() for option in value.lower().split(b",")}


def is_short_length(value: bytes) -> bool:
    """Whether this is a Content-Length as nearly all are: digits, and few."""
    return len(value) < _LENGTH_DIGITS and value.isdigit()
