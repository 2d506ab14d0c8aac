"""An instance with workers, as a takeover sees it: whose sockets they are, and how to make it drain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graceful.sockets.binding import BoundSocket
from graceful.workers.fleet_drain import Exodus
from graceful.workers.slot_sockets import Places


class Hands:
    """The sockets and the way out of a supervisor, as a takeover sees them.

    :param clock: monotonic.
    :param places: the sockets.
    :param exodus: the way out.
    """

    def __init__(self, clock: Any, places: Places, exodus: Exodus) -> None:
        self.clock = clock
        self._places = places
        self._exodus = exodus
        self._handed: tuple[Sequence[BoundSocket], int] = (), 0

    @property
    def state(self) -> str:
        """How far it is."""
        return self._exodus.state

    def open_sockets(self) -> list[BoundSocket]:
        """All sockets."""
        return self._places.open_sockets()

    def rebind(self, known: Sequence[BoundSocket]) -> None:
        """Take note of what has become known about sockets."""
        self._places.rebind(known)

    def hand_sockets(self, handed: Sequence[BoundSocket], pid: int) -> None:
        """These are another process's."""
        self._handed = handed, pid

    def foreign(self) -> list[str]:
        """There are none."""
        return []

    def succeeded(self) -> None:
        """Have all workers let go of them, and drain."""
        self._exodus.succeeded(*self._handed)
