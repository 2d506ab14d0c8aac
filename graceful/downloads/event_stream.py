"""Which events of a stream a client has got, as the HTML standard has it read them (server-sent events, 9.2.6).

When the stream goes on in another process, that must not send an event twice, nor begin in the middle of one.
"""

from __future__ import annotations

import re
from typing import Final

#: What goes on in another process with an answer of this kind.
STREAM: Final = "stream"
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
#: Fields that take effect by themselves, and not with the event that they stand in.
_AT_ONCE: Final = frozenset((b"", b"retry"))


class EventStream:
    """A place in an event stream.

    :ivar id: the id of the last event that had one, as the client sends it when it comes back; None: none had one.
    """

    def __init__(self) -> None:
        self.id: bytes | None = None
        self._next_id: bytes | None = None
        self._line = b""
        self._in_event = self._after_cr = False

    @property
    def between_events(self) -> bool:
        """Whether the last event is complete."""
        return not (self._line or self._in_event)

    def follow(self, data: bytes) -> None:
        """Read on."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]  # the same line end
            self._after_cr = False
        if not data:
            return
        self._after_cr = data.endswith(b"\r")
        *lines, self._line = _LINE_END.split(self._line + data)
        for line in lines:
            if not line:
                self.id, self._in_event = self._next_id, False
                continue
            name, _, value = line.partition(b":")
            if name == b"id" and b"\0" not in value:
                self._next_id = value.removeprefix(b" ")
            self._in_event = self._in_event or name not in _AT_ONCE
