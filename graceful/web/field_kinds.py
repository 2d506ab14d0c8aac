"""What a field means to the framing of a request, by its name.

Names are learnt, boundedly: what a name means is looked up for each field of each request.  Reactor thread only.
"""

from __future__ import annotations

import re
from typing import Final

TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")

PLAIN: Final = 0
HOST: Final = 1
CONNECTION: Final = 2
PROXY_CONNECTION: Final = 3
EXPECT: Final = 4
LENGTH: Final = 5
CODING: Final = 6
UPGRADE: Final = 7
#: Not passed on: with an underscore it looks in the environ like its twin with a hyphen, a way past proxies' filters.
DROP: Final = 8
#: No name of a field.
BAD: Final = 9
#: The first kind of fields that have one value: which of two counts, a proxy and an application may see differently
#: (RFC 9110 §5.3).  As numbers each has a bit of its own, above the other kinds.
SINGLE: Final = 16
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
_REMEMBERED: Final = 1024
_names: dict[bytes, int] = {}

#: The kind of a name that has come before, as it was sent; None for others.
known_kind: Final = _names.get


def kind_of(name: bytes) -> int:
    """Returns the kind of a name that has not come before, and remembers it."""
    if not TOKEN.match(name):
        return BAD
    kind = DROP if b"_" in name else _KINDS.get(name.lower(), PLAIN)
    if len(_names) >= _REMEMBERED:
        _names.clear()  # those that really come again will soon be back; a client may have sent all the others
    _names[name] = kind
    return kind
