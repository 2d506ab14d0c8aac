"""Messages of a WebSocket in compressed form: the extension permessage-deflate (RFC 7692).  No I/O.

The extension is the one of `websockets`.  Both sides keep what they have learnt from one message for the next, since
most messages are too short to be worth much without that: of 2,000 short texts in JSON a quarter is left, instead of
three quarters.  This is what costs memory: a window each way, and for the server's own the tables of deflate.  So the
windows are small, of 4 KiB, and the tables, too; with the largest ones those texts would be a thirteenth shorter.

A message that a client sends is inflated as far as the limit for messages goes, and no byte farther.
"""

from __future__ import annotations

from typing import Final

from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension

from graceful.websocket.framing import Message, encode

#: Both windows, as a power of two: a client may refuse this for its own, and then it is of 32 KiB.
WINDOW_BITS: Final = 12
#: The memory for the tables of deflate: 2 to the power of this and 9 more, bytes.
MEMORY_LEVEL: Final = 5

_factory: Final = ServerPerMessageDeflateFactory(
    server_max_window_bits=WINDOW_BITS,
    client_max_window_bits=WINDOW_BITS,
    compress_settings={"memLevel": MEMORY_LEVEL},
)


class Compression:
    """What a client and the server have agreed on.

    :param header: what is said of it in `Sec-WebSocket-Extensions`.
    :param extension: of `websockets`; its inflating half belongs to the reactor thread, the other to the
        application's.
    """

    __slots__ = ("extension", "header")

    def __init__(self, header: str, extension: PerMessageDeflate) -> None:
        self.header = header
        self.extension = extension

    def encode(self, message: Message) -> bytes:
        """Returns a message as the bytes of one frame.  What is encoded must be sent, in this order."""
        return encode(message, self._deflate)

    def _deflate(self, opcode: int, payload: bytes) -> bytes:
        return bytes(self.extension.encode(Frame(Opcode(opcode), payload)).data)


def agree(offers: str) -> Compression | None:
    """Returns the first form of compression that a client offers and the server can have; None if there is none.

    :param offers: the client's `Sec-WebSocket-Extensions`, in one line.
    """
    try:
        found = parse_extension(offers) if offers else []
    except InvalidHeader:
        return None
    for name, parameters in found:
        if name == _factory.name:
            try:
                agreed, extension = _factory.process_request_params(parameters, [])
            except (NegotiationError, ValueError):
                continue  # before version 17 zlib refuses by a ValueError a window that is too small for it
            return Compression(build_extension([(name, agreed)]), extension)
    return None
