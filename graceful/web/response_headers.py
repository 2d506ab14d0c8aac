"""What may stand in a response's head, checked once for each spelling.

An application can put anything into its status and headers, and a line break there would let the client that supplied
the value write headers, or a whole second response, of his own.  Checking each character of each header of each
answer is dear, but most of them repeat: the verdict on each name, field and status is remembered, boundedly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

PLAIN: Final = 0
LENGTH: Final = 1
DATE: Final = 2
SERVER: Final = 4
CONNECTION: Final = 8
HOP: Final = 16
OFFER: Final = 32

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
    # The application offers its answer to the event loop (see graceful.downloads).
    "x-accel-redirect": OFFER,
    "x-graceful-handover": OFFER,
}

#: The fields of an answer, names and values, as applications have them.  PEP 3333 asks for a list of tuples; were it
#: the annotation, a compiled function would refuse all others, lists of lists for example.
ResponseFields = Sequence[Any]


class ResponseHead(NamedTuple):
    """A head, as far as an application has said it; without what it may leave to the server.

    :ivar code: the status code.
    :ivar text: the status line and the fields, but for the length.
    :ivar length: what its Content-Length says, or -1.
    :ivar data: with the length, as bytes; empty if there is none, or it may have to be left out.
    """

    code: int
    text: str
    length: int
    data: bytes


#: Where Python 3.10 to 3.12 have older words than RFC 9110.
_REASONS: Final = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_STATUS: Final = re.compile(r"[2-9]\d\d(?: [^\x00-\x1f\x7f]*)?\Z")
#: All controls but the tab, which is the only one that a field's value may hold (RFC 9110 §5.5).
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_REMEMBERED: Final = 1024
_LONGEST_REMEMBERED: Final = 256

#: What has been checked: names, whole fields as lines of a head, and status lines.
NAMES: Final[dict[str, int]] = {}
LINES: Final[dict[tuple[str, str], str]] = {}
STATUSES: Final[dict[str, tuple[int, str]]] = {}
#: Lengths, by how they were written.
LENGTHS: Final[dict[str, int]] = {}
#: Whole heads of fields that have been checked, by status and fields.
HEADS: Final[dict[tuple[str, tuple[tuple[str, str], ...]], ResponseHead]] = {}

# A method that is looked up of an imported name is made for each call; these are made once.
known_name: Final = NAMES.get
known_line: Final = LINES.get
known_status: Final = STATUSES.get
known_length: Final = LENGTHS.get
known_head: Final = HEADS.get


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


def checked_line(name: str, value: str) -> str:
    """Check a field's value, and return the field as a line of a head.

    :raises TypeError: the value is no str.
    :raises ValueError: the value holds a control character, or what latin-1 has not.
    """
    if type(value) is not str:
        raise TypeError(f"header values must be str, not {value!r}")
    if _CONTROL.search(value):
        raise ValueError(f"the header {name} holds a control character: {value!r}")
    line = f"{name}: {value}\r\n"
    line.encode("latin-1")
    return line


def learn_line(name: str, value: str) -> str:
    """Check an ordinary field, and remember its line in case it comes again.

    When there is no more room all are forgotten: those that really come again will soon be back.
    """
    line = checked_line(name, value)
    if len(line) < _LONGEST_REMEMBERED:
        if len(LINES) >= _REMEMBERED:
            LINES.clear()
        LINES[name, value] = line
    return line


def remember_length(value: str, length: int) -> None:
    """Remember what a Content-Length says, in case it comes again."""
    if len(LENGTHS) >= _REMEMBERED:
        LENGTHS.clear()
    LENGTHS[value] = length


def remember_head(status: str, fields: tuple[tuple[str, str], ...], head: ResponseHead) -> None:
    """Remember a head all of whose fields have been checked, in case it comes again."""
    if len(HEADS) >= _REMEMBERED:
        HEADS.clear()
    HEADS[status, fields] = head


def learn_status(status: object) -> tuple[int, str]:
    """Check a status as PEP 3333 has it (`"200 OK"`), remember it, and return its code and its line of a head.

    :raises TypeError: it is no str.
    :raises ValueError: it is no final status, or holds control characters.
    """
    if type(status) is not str:
        raise TypeError(f"the status must be str, not {status!r}")
    if not _STATUS.match(status):
        raise ValueError(f"not a status: {status!r}")
    # The space belongs to the line even if no reason follows it (RFC 9112 §4).
    known = int(status[:3]), f"HTTP/1.1 {status}\r\n" if len(status) > 3 else f"HTTP/1.1 {status} \r\n"
    if len(STATUSES) < _REMEMBERED:
        STATUSES[status] = known
    return known


def bodiless(code: int) -> bool:
    """Whether answers with this status never have a body (RFC 9112 §6.3, RFC 9110 §15.3.6)."""
    return code == 204 or code == 304 or code == 205


def reason(code: int) -> str:
    """The standard reason phrase, in RFC 9110's words."""
    try:
        return _REASONS.get(code) or HTTPStatus(code).phrase
    except ValueError:
        return "Unknown"
