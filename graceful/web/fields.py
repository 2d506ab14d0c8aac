"""What may stand in a response's head, checked once for each spelling.

An application can put anything into its status and headers, and a line break there would let whoever supplied
the value write headers, or a whole second response, of his own.  Checking each character of each header of each
answer is dear, but names and status lines repeat: the verdict on each is remembered (boundedly), and line
breaks are counted once over the finished head.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

PLAIN: Final = 0
LENGTH: Final = 1
DATE: Final = 2
SERVER: Final = 4
CONNECTION: Final = 8
HOP: Final = 16

_KINDS: Final = {
    "content-length": LENGTH,
    "date": DATE,
    "server": SERVER,
    "connection": CONNECTION,
    # Hop-by-hop fields are the server's to send (RFC 9110 §7.6.1, PEP 3333); an application's are dropped.
    "keep-alive": HOP,
    "proxy-connection": HOP,
    "te": HOP,
    "trailer": HOP,
    "transfer-encoding": HOP,
    "upgrade": HOP,
}
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_STATUS: Final = re.compile(r"[2-9]\d\d(?: [^\x00-\x1f\x7f]*)?\Z")
_REMEMBERED: Final = 1024

NAMES: Final[dict[str, int]] = {}
STATUSES: Final[dict[str, int]] = {}


def learn_name(name: object) -> int:
    """Check a response field name (RFC 9110 §5.1) and remember what kind of field it is.

    :raises TypeError: it is no str.
    :raises ValueError: it is no token.
    """
    if type(name) is not str:
        raise TypeError(f"header names must be str, not {name!r}")
    if not _TOKEN.match(name):
        raise ValueError(f"not a header name: {name!r}")
    kind = _KINDS.get(name.lower(), PLAIN)
    if len(NAMES) < _REMEMBERED:
        NAMES[name] = kind
    return kind


def learn_status(status: object) -> int:
    """Check a status as PEP 3333 has it (`"200 OK"`), remember it, and return its code.

    :raises TypeError: it is no str.
    :raises ValueError: it is no final status, or holds control characters.
    """
    if type(status) is not str:
        raise TypeError(f"the status must be str, not {status!r}")
    if not _STATUS.match(status):
        raise ValueError(f"not a status: {status!r}")
    code = int(status[:3])
    if len(STATUSES) < _REMEMBERED:
        STATUSES[status] = code
    return code


def bodiless(code: int) -> bool:
    """Whether answers with this status never have a body (RFC 9112 §6.3)."""
    return code == 204 or code == 304


def reason(code: int) -> str:
    """The standard reason phrase, in RFC 9110's words."""
    try:
        return {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}.get(
            code, HTTPStatus(code).phrase
        )
    except ValueError:
        return "Unknown"
