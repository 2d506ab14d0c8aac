"""The body of a request, from wherever it is, as the pieces of `http.request` messages.

A body comes to an application in three ways: not at all or whole, in memory; whole, in the file that it was spooled
to; or while the client sends it.  In each case only a bounded part of it is in memory.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Final

from graceful.web.body_stream import BodyStream

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange

#: Bytes of a file in one message.
PIECE: Final = 65536


class RequestBody:
    """Takes a request's body in pieces.  The loop's thread.

    :param exchange: its body is taken.
    :ivar done: the last piece was taken.
    :ivar stream: the stream that it comes through; None if it is whole already.
    """

    __slots__ = ("_file", "_left", "_whole", "done", "stream")

    def __init__(self, exchange: Exchange) -> None:
        body = exchange.body
        self._whole = b""
        self._file: IO[bytes] | None = None
        self._left = 0
        self.stream: BodyStream | None = None
        if isinstance(body, list):
            self._whole = body[0] if len(body) == 1 else b"".join(body)
        elif isinstance(body, BodyStream):
            self.stream = body
        elif body is not None:
            self._file, self._left = body, exchange.received
        self.done = False

    def take(self) -> tuple[bytes, bool] | None:
        """Returns the next piece, and whether more follow; None: nothing has come, or the rest will never come."""
        stream = self.stream
        if stream is not None:
            ended = stream.ended  # before taking: then all of it is there
            data = stream.take()
            if not data and not ended:
                return None
            self.done = ended
            return data, not ended
        if self._file is not None:
            data = self._file.read(PIECE)
            self._left -= len(data)
            self.done = self._left <= 0 or not data
            return data, not self.done
        data, self._whole = self._whole, b""
        self.done = True
        return data, False

    @property
    def broken(self) -> bool:
        """Whether the rest will never come."""
        return self.stream is not None and self.stream.broken
