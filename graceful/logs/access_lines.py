"""Formatting the lines of the access log, so that no client can forge one.

The format is the combined one of the Apache HTTP server, with the time when the request began, plus the
seconds from its first byte to its answer's last, and the request id.

What a client sends ends up in these lines, and a client that could end a line could forge one.  Everything
outside printable ASCII, quotes and backslashes are escaped.  Searching each field would be slow, so a
whole batch is checked at once: with the harmless characters deleted, exactly six quotes and a line
end must remain of each line.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Final, Protocol

_HARMLESS: Final = bytes(code for code in range(0x20, 0x7F) if code not in b'"\\')
_FRAME: Final = b'""""""\n'
_SUSPECT: Final = re.compile(r"[^ !#-\[\]-~]")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Finished(Protocol):
    """The attributes of a finished exchange that the log reads."""

    peer: str
    scheme: str
    method: str
    target: bytes
    version: str
    status: int
    sent: int
    headers: Sequence[tuple[bytes, bytes]]
    started: float
    ended: float

    @property
    def client_fields(self) -> Sequence[tuple[bytes, bytes]]: ...

    @property
    def request_id(self) -> str: ...

    @property
    def trace_id(self) -> str | None: ...


def escape(text: str) -> str:
    r"""Make text harmless inside a quoted field: `\"`, `\\`, and `\xNN` for all but printable ASCII."""

    def replace(match: re.Match[str]) -> str:
        character = match.group()
        return "\\" + character if character in '"\\' else f"\\x{ord(character):02x}"

    return _SUSPECT.sub(replace, text)


class _Escaped:
    """An exchange's stand-in with everything escaped that a client or a proxy supplied."""

    def __init__(self, exchange: Finished) -> None:
        self.peer = escape(exchange.peer)
        self.scheme = exchange.scheme
        self.method = escape(exchange.method)
        self.target = escape(exchange.target.decode("latin-1")).encode("ascii")
        self.version = escape(exchange.version)
        self.status = exchange.status
        self.sent = exchange.sent
        self.headers: Sequence[tuple[bytes, bytes]] = [
            (name, escape(value.decode("latin-1")).encode("ascii")) for name, value in exchange.headers
        ]
        self.client_fields = self.headers
        self.started = exchange.started
        self.ended = exchange.ended
        self.request_id = escape(exchange.request_id)
        self.trace_id = None  # the combined form does not show it


def stamp(second: int) -> str:
    """Return a time stamp of the combined format, in UTC.

    :param second: whole seconds since the epoch.
    """
    moment = time.gmtime(second)
    # Not strftime: the months' names are English whatever the locale.
    return (
        f"{moment.tm_mday:02d}/{_MONTHS[moment.tm_mon - 1]}/{moment.tm_year}"
        f":{moment.tm_hour:02d}:{moment.tm_min:02d}:{moment.tm_sec:02d} +0000"
    )


def _render(batch: Sequence[Finished], offset: float, stamps: dict[int, str]) -> list[str]:
    lines = []
    clients: dict[int, str] = {}  # by identity, since requests with the same head share its fields
    moment = ""
    begins = ends = 0.0  # the second of `moment`
    for exchange in batch:
        started = exchange.started
        if not begins <= started < ends:
            second = int(started + offset)
            begins, ends = second - offset, second - offset + 1
            moment = stamps.get(second) or stamp(second)
            stamps[second] = moment
        target = exchange.target
        if target:
            request = f"{exchange.method} {target.decode('latin-1')} HTTP/{exchange.version}"
        else:
            request = "-"
        headers = exchange.headers
        client = clients.get(id(headers))
        if client is None:
            fields = exchange.client_fields
            client = clients.get(id(fields)) or _client(fields)
            clients[id(headers)] = clients[id(fields)] = client
        lines.append(
            f'{exchange.peer or "-"} - - [{moment}] "{request}" {exchange.status} {exchange.sent}'
            f" {client} {exchange.ended - started:.6f} {exchange.request_id}\n"
        )
    return lines


def _client(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Returns what the fields of a head say of where the client comes from, and what it is."""
    referer = agent = "-"
    for name, value in headers:
        size = len(name)
        if size == 10:
            if name == b"User-Agent" or name.lower() == b"user-agent":
                agent = value.decode("latin-1")
        elif size == 7 and (name == b"Referer" or name.lower() == b"referer"):
            referer = value.decode("latin-1")
    return f'"{referer}" "{agent}"'


def _clean(data: bytes, count: int) -> bool:
    return data.translate(None, _HARMLESS) == _FRAME * count


def format_lines(batch: Sequence[Finished], offset: float, stamps: dict[int, str] | None = None) -> bytes:
    """Return the log lines of finished exchanges.

    :param batch: the exchanges, in the order of their lines.
    :param offset: seconds to add to the exchanges' monotonic times to get the time since the epoch.
    :param stamps: time stamps made so far, by second; new ones are added.
    """
    if stamps is None:
        stamps = {}
    lines = _render(batch, offset, stamps)
    data = "".join(lines).encode()
    if not _clean(data, len(lines)):
        for number, line in enumerate(lines):
            if not _clean(line.encode(), 1):
                (lines[number],) = _render([_Escaped(batch[number])], offset, stamps)
        data = "".join(lines).encode()
    return data
