"""The lines of the access log, so that no client can forge one.

The format is the combined one of the Apache HTTP server, with the time when the request began, plus the
seconds from its first byte to its answer's last, and the request id.

What a client sends ends up in these lines, and a client that could end a line could forge one.  So everything outside
printable ASCII, quotes and backslashes are escaped in what a client can choose: its request line, two fields, and its
address, as far as an endpoint of a plugin believes any.  Those that come again are looked through once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Final

_SUSPECT: Final = re.compile(r"[^ !#-\[\]-~]")
#: Addresses that are remembered, and the characters of the longest one.
_PEERS: Final = 1024
_LONGEST_PEER: Final = 64
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Finished:
    """What a log reads of an exchange that is over; an exchange is one.

    It is a class and no Protocol: what a Protocol names, the compiled server looks up by its name, for each line.

    :ivar peer: the client's address; empty on a Unix socket.
    :ivar scheme: `http` or `https`.
    :ivar method: the method token.
    :ivar target: the request target as it was sent; empty if there was none.
    :ivar version: of HTTP, `"1.1"` or `"1.0"`.
    :ivar line: its request line, if that is known to have nothing in it that has to be escaped; else empty.
    :ivar status: the answer's status code.
    :ivar sent: bytes of the answer's body.
    :ivar headers: name and value of each field of the request.
    :ivar started, ended: when its first byte came and its last one went, monotonic seconds.
    """

    __slots__ = (
        "ended",
        "headers",
        "line",
        "method",
        "peer",
        "scheme",
        "sent",
        "started",
        "status",
        "target",
        "version",
    )

    peer: str
    scheme: str
    method: str
    target: bytes
    version: str
    line: str
    status: int
    sent: int
    headers: Sequence[tuple[bytes, bytes]]
    started: float
    ended: float

    @property
    def shown_client(self) -> str:
        """Where its client says it comes from, and what it is: as :func:`client_of` returns it."""
        raise NotImplementedError

    @property
    def request_id(self) -> str:
        """Its id, unlike that of any other, and harmless: an id that a proxy has chosen was looked at."""
        raise NotImplementedError

    @property
    def trace_id(self) -> str | None:
        """The id of the trace that it belongs to; None if it has none."""
        raise NotImplementedError


def escape(text: str) -> str:
    r"""Make text harmless inside a quoted field: `\"`, `\\`, and `\xNN` for all but printable ASCII."""
    return _SUSPECT.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    return "\\" + character if character in '"\\' else f"\\x{ord(character):02x}"


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


class CombinedLines:
    """Makes the lines of the combined form.  One thread at a time."""

    def __init__(self) -> None:
        self._known = (0, "")  # a second, and its stamp: most lines are of the same
        self._peers: dict[str, str] = {}  # addresses, as they are shown

    def __call__(self, exchange: Finished, began: float) -> str:
        """Returns the line of an exchange.

        :param began: when it began, seconds since the epoch.
        """
        second = int(began)
        known, moment = self._known
        if known != second:
            moment = stamp(second)
            self._known = (second, moment)
        took = exchange.ended - exchange.started
        microseconds = int(took * 1e6 + 0.5)
        # Compiled, it takes a third of what formatting a float does.
        seconds = "0." + str(1_000_000 + microseconds)[1:] if 0 <= microseconds < 1_000_000 else f"{took:.6f}"
        line = exchange.line or _request_of(exchange)
        peer = exchange.peer
        return (
            f'{self._peers.get(peer) or self._shown(peer)} - - [{moment}] "{line}" {exchange.status} {exchange.sent}'
            f" {exchange.shown_client} {seconds} {exchange.request_id}\n"
        )

    def _shown(self, peer: str) -> str:
        """Returns an address as one field; a hyphen if there is none."""
        shown = escape(peer).replace(" ", "\\x20") or "-"
        if len(peer) <= _LONGEST_PEER:
            if len(self._peers) >= _PEERS:
                self._peers.clear()  # those that come again will soon be back
            self._peers[peer] = shown
        return shown


def _request_of(exchange: Finished) -> str:
    if not exchange.target:
        return "-"
    return escape(f"{exchange.method} {exchange.target.decode('latin-1')} HTTP/{exchange.version}")


def client_of(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Returns what the fields of a head say of where a client comes from, and what it is: each escaped, in quotes."""
    referer = agent = "-"
    for name, value in headers:
        size = len(name)
        if size == 10:
            if name == b"User-Agent" or name.lower() == b"user-agent":
                agent = value.decode("latin-1")
        elif size == 7 and (name == b"Referer" or name.lower() == b"referer"):
            referer = value.decode("latin-1")
    return f'"{escape(referer)}" "{escape(agent)}"'
