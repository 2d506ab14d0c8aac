"""A request body that an application reads while it arrives, in bounded memory.

The reactor thread puts in what the client sends, and one other thread takes it out.  Each side may be the faster one:
the client's bytes stay in the kernel while too much waits here, and a reader that finds nothing is told when there is
more.  There is no lock.  Each side first writes its own field and then reads the other's, so at least one of them
sees the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

#: Bytes that wait for the application, at which reading from the client stops: as many as are read at once may wait.
HIGH: Final = 262_144


class BodyStream:
    """One request body on its way to the application.

    :param on_room: called by the reader when it has made room for a client that was paused.  Any thread.
    :ivar on_news: called by the reactor thread when a reader that has found nothing should look again.
    :ivar ended: the whole body has come.  Written by the reactor thread.
    :ivar broken: the rest will never come.  Written by the reactor thread.
    """

    __slots__ = (
        "_accepted",
        "_continue",
        "_discarding",
        "_on_room",
        "_paused",
        "_pieces",
        "_taken",
        "_wanted",
        "broken",
        "ended",
        "on_news",
    )

    def __init__(self, on_room: Callable[[], object]) -> None:
        self._on_room = on_room
        self.on_news: Callable[[], object] | None = None
        self._pieces: deque[bytes] = deque()
        self._accepted = self._taken = 0
        self.ended = self.broken = False
        self._discarding = self._paused = self._wanted = False
        self._continue: list[bool] = []

    # -- the reactor thread -------------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """Accept a piece."""
        if not self._discarding:
            self._accepted += len(data)
            self._pieces.append(data)
            self._tell()

    def end(self) -> None:
        """The whole body has come."""
        self.ended = True
        self._tell()

    def break_off(self) -> None:
        """The rest will not come: the client has left, or what it sends is no body."""
        self.broken = True
        self._tell()

    def full(self) -> bool:
        """Whether the client has to wait; then the reader's next step calls `on_room`."""
        if self._accepted - self._taken <= HIGH:
            return False
        self._paused = True
        if self._accepted - self._taken <= HIGH or self._discarding:
            self._paused = False
            return False
        return True

    def expect(self) -> bool:
        """The client waits for 100 Continue.  Returns whether a reader waits already; then the caller says it."""
        self._continue.append(True)
        return self._wanted and self.take_expectation()

    @property
    def expecting(self) -> bool:
        """Whether the client still waits for 100 Continue.  Any thread."""
        return bool(self._continue)

    def _tell(self) -> None:
        if self._wanted and self.on_news is not None:
            self._wanted = False
            self.on_news()

    # -- the reader's thread ------------------------------------------------------------------------------

    def take(self) -> bytes:
        """Returns all that has come and was not taken yet."""
        pieces = self._pieces
        taken: list[bytes] = []
        try:
            while True:
                taken.append(pieces.popleft())
        except IndexError:
            pass
        if not taken:
            return b""
        data = taken[0] if len(taken) == 1 else b"".join(taken)
        self._taken += len(data)
        self._make_room()
        return data

    def want(self) -> bool:
        """Have `on_news` called at the next news.  Returns whether there are some already."""
        self._wanted = True
        return bool(self._pieces) or self.ended or self.broken

    def take_expectation(self) -> bool:
        """Returns whether the client waits for 100 Continue; True once, to the one that says it.  Any thread."""
        try:
            return self._continue.pop()
        except IndexError:
            return False

    def close(self) -> None:
        """Throw away the body, and what still comes of it.  Any thread."""
        self._discarding = True
        self._pieces.clear()
        self._make_room()

    def _make_room(self) -> None:
        if self._paused:
            self._paused = False
            self._on_room()
