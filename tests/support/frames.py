"""WebSocket frames as a client makes them, right or wrong, and as it reads them: strictly (RFC 6455 §5)."""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from typing import Final, NamedTuple

CONT: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

KEY: Final = base64.b64encode(bytes(range(16)))
ACCEPT: Final = base64.b64encode(
    hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
)


class Frame(NamedTuple):
    """A frame of a server's."""

    opcode: int
    payload: bytes
    fin: bool = True


def request(*fields: bytes, path: bytes = b"/ws", host: bytes = b"a", version: bytes = b"13") -> bytes:
    """A request that opens a WebSocket.

    :param fields: further ones, each without its line break.
    """
    lines = [
        b"GET " + path + b" HTTP/1.1",
        b"Host: " + host,
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Key: " + KEY,
        b"Sec-WebSocket-Version: " + version,
        *fields,
    ]
    return b"\r\n".join([*lines, b"", b""])


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """A frame of a client's.

    :param rsv: the reserved bits, as a number.
    :param mask: as a client has to.
    """
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size, bit = len(payload), 0x80 if mask else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not mask:
        return head + payload
    key = os.urandom(4)
    stretched = key * (size // 4 + 1)
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(stretched[:size], "big")
    return head + key + masked.to_bytes(size, "big")


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    """A close frame of a client's."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def read_frames(data: bytes) -> tuple[list[Frame], bytes]:
    """Read the frames that a server has sent.

    :returns: the frames, and the bytes of one that is not whole yet.
    """
    frames = []
    while len(data) >= 2:
        first, second = data[0], data[1]
        assert not first & 0x70, "a reserved bit is set"
        assert not second & 0x80, "a server masks"
        size, start = second & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
            assert size > 125 or len(data) < 4, "the length is longer than need be"
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
            assert size > 0xFFFF or len(data) < 10, "the length is longer than need be"
        if len(data) < start + size:
            break
        opcode, fin = first & 0x0F, bool(first & 0x80)
        assert opcode in (CONT, TEXT, BINARY, CLOSE, PING, PONG), opcode
        assert opcode < CLOSE or (fin and size < 126), "a control frame is in pieces, or too long"
        frames.append(Frame(opcode, data[start : start + size], fin))
        data = data[start + size :]
    return frames, data


def code_of(frame: Frame) -> int:
    """The code of a close frame, 1005 if it has none."""
    assert frame.opcode == CLOSE, frame
    return int.from_bytes(frame.payload[:2], "big") if frame.payload else 1005
