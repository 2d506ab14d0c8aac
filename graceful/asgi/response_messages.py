"""From the messages of an ASGI application to the head of an answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from graceful.web.response_headers import PLAIN, ResponseHead, checked_line, learn_name, reason

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange

Field = tuple[bytes, bytes] | list[bytes]

_statuses: dict[int, str] = {}
_fields: dict[tuple[bytes, bytes], tuple[str, str]] = {}
#: Whole heads that have been checked, by status and fields as applications have them.
_heads: dict[tuple[int, tuple[Field, ...]], ResponseHead] = {}
_REMEMBERED: Final = 1024
_LONGEST_REMEMBERED: Final = 256


def start_answer(exchange: Exchange, message: dict[str, Any]) -> None:
    """Say an answer's status and headers; nothing is sent before the first piece of its body.

    :param message: `http.response.start`.
    :raises ValueError, TypeError: something in it must not be sent.
    """
    code = message["status"]
    fields = tuple(message.get("headers", ()))
    try:
        head = _heads.get((code, fields))
    except TypeError:  # something in it is a list
        head = None
    if head is None or exchange.resumes:  # a stream that has moved compares its fields with those that were sent
        _start(exchange, code, fields)
    else:
        exchange.start_as(head)
    if message.get("trailers", False) and exchange.head is not None:
        # It is the server's to send; an application that sends trailers knows which.
        for name, value in fields:
            if name.lower() == b"trailer":
                exchange.head += checked_line("Trailer", value.decode("latin-1"))


def _start(exchange: Exchange, code: int, fields: tuple[Field, ...]) -> None:
    """Say a head that has not come before."""
    status = _statuses.get(code)
    if status is None:
        status = _learn_status(code)
    known = _fields.get
    headers = []
    for name, value in fields:
        headers.append(known((name, value)) or _learn_field(name, value))
    head = exchange.start(status, headers)
    if head is not None:
        if len(_heads) >= _REMEMBERED:
            _heads.clear()
        try:
            _heads[code, fields] = head
        except TypeError:  # something in it is a list
            pass


def _learn_status(code: object) -> str:
    if not isinstance(code, int) or not 200 <= code <= 999:
        raise ValueError(f"the status must be a number of three digits, from 200 on, not {code!r}")
    status = _statuses[int(code)] = f"{int(code)} {reason(code)}"
    return status


def _learn_field(name: bytes, value: bytes) -> tuple[str, str]:
    if not isinstance(name, bytes) or not isinstance(value, bytes):
        raise TypeError(f"header names and values must be bytes, not {name!r}: {value!r}")
    # The one field that is looked for by its usual spelling.
    field = "Content-Length" if name == b"content-length" else name.decode("latin-1"), value.decode("latin-1")
    if len(name) + len(value) < _LONGEST_REMEMBERED:
        if len(_fields) >= _REMEMBERED:
            _fields.clear()
        _fields[name, value] = field
    return field


def trailers_wanted(exchange: Exchange) -> bool:
    """Whether the client has said that it takes trailers (RFC 9110 §10.1.4)."""
    return any(
        name.lower() == b"te" and b"trailers" in [part.strip() for part in value.lower().split(b",")]
        for name, value in exchange.headers
    )


def lines_of_trailers(headers: Iterable[Field]) -> str:
    """Returns trailers as lines.

    :raises ValueError, TypeError: something in them must not be sent.
    """
    lines = []
    for name, value in headers:
        text = name.decode("latin-1")
        if learn_name(text) != PLAIN:  # it would frame the answer, or belong to the connection (RFC 9110 §6.5.1)
            raise ValueError(f"{text} must not be a trailer")
        lines.append(checked_line(text, value.decode("latin-1")))
    return "".join(lines)
