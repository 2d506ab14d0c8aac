"""Where a chunked body stands, so that a parser in another process can go on in the middle of a chunk.

The parser does not tell how much of a chunk is to come, nor where in a line between two chunks it is.  So what it has
accepted is followed here: from size to size, without looking at what is in the chunks.
"""

from __future__ import annotations

from typing import Final

#: Bytes of the line end behind the data of a chunk.
_LINE_END: Final = 2


class ChunkPlace:
    """A place in a chunked body (RFC 9112 §7.1).

    :param left: bytes that are to come of a chunk, with the line end behind it; 0 between two chunks.
    :param line: what has come of the line with the next size; from the last chunk on, of that and the trailers.
    :param last: whether the last chunk has come.
    """

    __slots__ = ("last", "left", "line")

    def __init__(self, left: int = 0, line: bytes = b"", last: bool = False) -> None:
        self.left = left
        self.line = line
        self.last = last

    def follow(self, data: bytes) -> None:
        """Go on behind what the parser has accepted."""
        position, size = 0, len(data)
        while position < size and not self.last:
            if self.left:
                step = min(self.left, size - position)
                self.left -= step
                position += step
                continue
            end = data.find(b"\n", position) + 1
            if not end:
                break
            line, self.line = self.line + data[position:end], b""
            position = end
            length = int(line.partition(b";")[0], 16)
            if length:
                self.left = length + _LINE_END
            else:
                self.last, self.line = True, line
        self.line += data[position:]

    def lead(self) -> tuple[bytes, bytes]:
        """What brings a parser from the beginning of a body to this place.

        :returns: bytes that stand for what the former parser has passed on, and bytes that this one is to take for
            the client's.
        """
        if self.left > _LINE_END:
            return b"%x\r\n" % (self.left - _LINE_END), b""
        if self.left:
            return b"1\r\nx" + b"\r"[: _LINE_END - self.left], b""
        return b"", self.line
