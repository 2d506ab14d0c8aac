"""How a WebSocket opens: what a request must say, and the head that accepts it (RFC 6455 §4.2).  No I/O.

The request is an HTTP request that has passed all rules for these; the parser has also looked at its method, version,
`Connection` and `Upgrade` (:attr:`graceful.web.exchange.Exchange.upgrade`).  The rest is looked at here.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha1
from typing import Final, Protocol

from attrs import frozen

from graceful.web.response_headers import DATE, PLAIN, SERVER, checked_line, learn_name

#: What is hashed with a client's key (RFC 6455 §1.3).
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: Bytes of a client's key, decoded.
_KEY: Final = 16
#: Fields that the server answers by itself.
_OURS: Final = frozenset(f"sec-websocket-{name}" for name in ("accept", "extensions", "protocol", "version"))


class BadHandshake(Exception):
    """The request does not open a WebSocket.

    :ivar status: of the answer.
    :ivar extra: more lines of its head, each with its line break.
    """

    def __init__(self, status: int, extra: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.extra = extra


class Tail(Protocol):
    """Ends a head (:meth:`graceful.web.site.Site.tail`)."""

    def __call__(self, keep: bool | None, date: bool, server: bool) -> str: ...


@frozen
class Handshake:
    """What a client has said in its request.

    :ivar key: its Sec-WebSocket-Key, as sent.
    :ivar subprotocols: those that it speaks, best first.
    :ivar extensions: its Sec-WebSocket-Extensions, in one line; empty if it has none.
    """

    key: bytes
    subprotocols: tuple[str, ...]
    extensions: str

    @classmethod
    def read(cls, headers: Iterable[tuple[bytes, bytes]]) -> Handshake:
        """Returns what the fields of a request say.

        :raises BadHandshake: they open no WebSocket.
        """
        keys: list[bytes] = []
        versions: list[bytes] = []
        subprotocols: list[bytes] = []
        extensions: list[bytes] = []
        lists = {
            b"sec-websocket-key": keys,
            b"sec-websocket-version": versions,
            b"sec-websocket-protocol": subprotocols,
            b"sec-websocket-extensions": extensions,
        }
        for name, value in headers:
            found = lists.get(name.lower())
            if found is not None:
                found.append(value)
        if versions != [b"13"]:
            raise BadHandshake(426, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
        if len(keys) != 1 or not _is_key(keys[0]):
            raise BadHandshake(400)
        named = [one.strip() for one in b",".join(subprotocols).decode("latin-1").split(",")]
        return cls(keys[0], tuple(one for one in named if one), b", ".join(extensions).decode("latin-1"))

    def accept(
        self,
        subprotocol: str | None,
        fields: Sequence[tuple[str, str]],
        extension: str | None,
        tail: Tail,
    ) -> bytes:
        """Returns the head that opens the WebSocket.

        :param subprotocol: the one that the application has chosen.
        :param fields: further fields of the application's.
        :param extension: what is said in `Sec-WebSocket-Extensions`; None: nothing.
        :param tail: ends the head.
        :raises ValueError, TypeError: something in them must not be sent.
        """
        lines = [
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
            f"Sec-WebSocket-Accept: {accept_key(self.key)}\r\n",
        ]
        if subprotocol is not None:
            lines.append(checked_line("Sec-WebSocket-Protocol", subprotocol))
        if extension is not None:
            lines.append(checked_line("Sec-WebSocket-Extensions", extension))
        own = 0
        for name, value in fields:
            kind = learn_name(name)
            if name.lower() not in _OURS and kind in (PLAIN, DATE, SERVER):
                own |= kind
                lines.append(checked_line(name, value))
        lines.append(tail(None, not own & DATE, not own & SERVER))
        return "".join(lines).encode("latin-1")


def accept_key(key: bytes) -> str:
    """Returns the proof that the server has read a client's key (RFC 6455 §4.2.2)."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest()).decode("ascii")


def _is_key(key: bytes) -> bool:
    try:
        return len(b64decode(key, validate=True)) == _KEY
    except ValueError:
        return False
