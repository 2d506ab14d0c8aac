"""Between the bytes of a WebSocket and its messages (RFC 6455 §5 to §8).  No I/O.

Frames are parsed and checked by the half of `websockets` that does no I/O.  It was compared with `wsproto` 1.3.2, on
one core: to echo 13 bytes costs 9 µs against 26, 1 KiB 12 against 36, 64 KiB 21 against 150, since it unmasks in C; a
connection's state is 1.3 KiB against 1.7.  And it is the one of the two that had releases in the last year.  What it
leaves to its callers is here: messages of several frames, and that text is UTF-8, which is found out with the first
frame that is not.

Most of what comes is one short message, in one frame that came alone.  :meth:`Framing.whole` takes that in a third of
the time wherever it leaves the protocol as it was: between two frames and two messages, on a connection that is open.

It parses all that it is given at once.  A packet of 64 KiB may hold 10,000 messages, so it is fed in slices, and the
caller stops between them when it has enough.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # it was installed without its C part
    from websockets.utils import apply_mask

#: Bytes that are parsed at once: at most 700 messages.
SLICE: Final = 4096
#: Bytes of a close frame's reason (RFC 6455 §5.5).
LONGEST_REASON: Final = 123
#: What a client is told when the server stops.
RESTART: Final = 1012
#: The code of a close frame that has none (RFC 6455 §7.1.5), and of a connection that ends without one.
NO_CODE: Final = 1005
BROKEN: Final = 1006

Message = str | bytes

# The module has these as names of its own, too, but other ones before version 17.
CONT: Final = Opcode.CONT
TEXT: Final = Opcode.TEXT
BINARY: Final = Opcode.BINARY
CLOSE: Final = Opcode.CLOSE

_decoder: Final = codecs.getincrementaldecoder("utf-8")
_FINAL: Final = 0x80
_COMPRESSED: Final = 0x40
_WHOLE_TEXT: Final = _FINAL | 1
_WHOLE_BINARY: Final = _FINAL | 2
_MASKED: Final = 0x80
_MASK: Final = 4
#: Bytes of the head of a short frame with a mask, and of its longest payload.
_HEAD: Final = 2 + _MASK
_SHORT: Final = 125


def encode(message: Message, deflate: Callable[[int, bytes], bytes] | None = None) -> bytes:
    """Returns a message as the bytes of one frame.

    :param deflate: compresses the payload of a frame with an opcode; None: it is sent as it is.
    """
    if isinstance(message, str):
        payload, first = message.encode(), _FINAL | 1
    else:
        payload, first = message, _FINAL | 2
    if deflate is not None:
        payload, first = deflate(first & 15, payload), first | _COMPRESSED
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


class _Protocol(Protocol):
    """The protocol; a client may also close in the middle of a message of several frames (RFC 6455 §5.4)."""

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is CLOSE:
            self.current_size = None
        super().recv_frame(frame)


class Framing:
    """One connection's protocol, from the end of its handshake.  Reactor thread.

    :param max_message: bytes of the longest message that is taken; a longer one ends the connection with 1009.
    :param extensions: what client and server have agreed on.
    :ivar over: both sides have said that they close, or the client has broken the protocol: what :meth:`to_send`
        returns then are the last bytes.
    """

    __slots__ = ("_between", "_decoder", "_is_text", "_missing", "_parts", "_protocol", "_short", "over")

    def __init__(self, max_message: int, extensions: Sequence[Any] = ()) -> None:
        self._protocol = _Protocol(SERVER, max_size=max_message)
        self._protocol.extensions = list(extensions)
        self._is_text = False
        self._parts: bytearray | None = None  # of a message whose last frame has not come
        self._decoder: codecs.IncrementalDecoder | None = None
        self._missing = 0  # bytes that are to come of the last frame that has begun; -1: not known any more
        # Bytes of the longest payload that need not go through the protocol; -1 if all must.
        self._short = -1 if extensions else min(max_message, _SHORT)
        self._between = True  # no message has begun, and the connection is open
        self.over = False

    def whole(self, data: bytes) -> Message | None:
        """Returns the message of a short frame that came alone; None: :meth:`receive` is to parse it."""
        size = len(data) - _HEAD
        if not 0 <= size <= self._short or data[1] != size | _MASKED or self._missing or not self._between:
            return None
        first = data[0]
        if first != _WHOLE_TEXT and first != _WHOLE_BINARY:
            return None
        payload = apply_mask(data[_HEAD:], data[2:_HEAD])
        if first == _WHOLE_BINARY:
            return payload
        try:
            return payload.decode()
        except UnicodeDecodeError:
            return None

    def receive(self, data: bytes | memoryview) -> list[Message]:
        """Parse a slice of what the client has sent.  Returns the messages that are complete with it."""
        if self._missing >= 0:
            self._missing = _missing_behind(data, self._missing)
        protocol = self._protocol
        messages: list[Message] = []
        if self.over:
            return messages
        protocol.receive_data(data)  # type: ignore[arg-type]
        frames = protocol.events_received()
        self.over = protocol.eof_sent
        try:
            for frame in frames:
                assert isinstance(frame, Frame)
                if frame.opcode <= TEXT or frame.opcode is BINARY:
                    message = self._add(frame)
                    if message is not None:
                        messages.append(message)
        except UnicodeDecodeError:
            if not self.over:
                protocol.fail(CloseCode.INVALID_DATA)
                self.over = True
        self._between = self._parts is None and not self.over and protocol.state is OPEN
        return messages

    def _add(self, frame: Frame) -> Message | None:
        """Take in a frame with data.  Returns the message that it ends, if it ends one."""
        data = frame.data
        if frame.opcode is not CONT:
            self._is_text = frame.opcode is TEXT
            if frame.fin:
                return bytes(data).decode() if self._is_text else bytes(data)
            self._parts = bytearray()
            self._decoder = _decoder() if self._is_text else None
        assert self._parts is not None
        if self._decoder is not None:
            self._decoder.decode(bytes(data), frame.fin)
        self._parts += data
        if not frame.fin:
            return None
        parts, self._parts, self._decoder = self._parts, None, None
        return parts.decode() if self._is_text else bytes(parts)

    # -- control frames -------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Ask the client whether it is there."""
        self._protocol.send_ping(b"")

    def close(self, code: int, reason: str = "") -> None:
        """Say that the server closes, unless it has said so.

        :raises ValueError: the code is none that may be sent.
        """
        if self._protocol.state is not OPEN:
            return
        try:
            self._protocol.send_close(None if code == NO_CODE else code, shortened(reason))
        except ProtocolError:
            raise ValueError(f"not a close code that may be sent: {code}") from None

    def to_send(self) -> bytes:
        """Returns what is to be sent now: answers to pings, and what was asked for."""
        return b"".join(self._protocol.data_to_send())

    @property
    def closing(self) -> bool:
        """Whether the server has said that it closes."""
        return self._protocol.close_sent is not None

    @property
    def ended_with(self) -> tuple[int, str]:
        """Code and reason of the end: the client's, or those of the server's refusal."""
        close = self._protocol.close_rcvd or self._protocol.close_sent
        return (int(close.code), close.reason) if close is not None else (BROKEN, "")


def _missing_behind(data: bytes | memoryview, position: int) -> int:
    """Returns how many bytes are missing of the last frame in a slice; -1: its head ends in the midst of its length.

    :param position: where in the slice, or how far behind it, a frame begins.
    """
    size = len(data)
    while position < size:
        if position + 2 > size:
            return -1
        length = data[position + 1] & ~_MASKED
        position += 2
        if length >= 126:
            length_size = 2 if length == 126 else 8
            if position + length_size > size:
                return -1
            length = int.from_bytes(data[position : position + length_size], "big")
            position += length_size
        position += _MASK + length
    return position - size


def shortened(reason: str) -> str:
    """Returns as much of a reason as fits into a close frame."""
    return reason.encode()[:LONGEST_REASON].decode(errors="ignore")


def check_close(code: int) -> None:
    """Raises ValueError if a close code is none that may be sent."""
    if code != NO_CODE:
        try:
            Close(code, "").check()
        except ProtocolError:
            raise ValueError(f"not a close code that may be sent: {code}") from None
