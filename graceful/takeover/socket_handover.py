"""The predecessor's side of a takeover, as a small state machine without I/O.

The listening sockets are open all the time while a successor takes them over.  What can fail is the successor: it may
crash while it imports its application, hang, be killed, or speak another version of the protocol.  So nothing changes
for the predecessor until the successor has said that it accepts:

     idle ─offer─▶ offered ─accepts─▶ handed
      ▲               │
      └lost, too late─┘

While the sockets are offered, another process holds them too: nothing may be done to them that outlives a descriptor.
A successor that is gone has closed them.  One that is too late may still run, and is refused when it says that it
accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger(namespace="graceful")


#: The version of the takeover protocol: both sides must have the same.
PROTOCOL: Final = 1


class TakeoverRefused(Exception):
    """The successor cannot take over.  The text is one line for its operator."""


class SocketHolder(Protocol):
    """The instance that owns the sockets.  Reactor thread."""

    def cannot_hand_over(self) -> str | None:
        """Returns why it cannot hand its sockets over; None if it can."""

    def share_sockets(self) -> None:
        """From now on a successor holds the sockets, too."""

    def reclaim_sockets(self, alone: bool) -> None:
        """The successor has failed.

        :param alone: it has closed the sockets; else it may still hold them.
        """

    def hand_over(self, kept: Sequence[int], pid: int) -> None:
        """Let go of the sockets that the successor has kept, close the rest, and drain.

        :param kept: the numbers of these sockets, counted in the order in which they were offered.
        :param pid: the successor, which accepts from now on.
        """


class SocketHandover:
    """Hands the sockets of one instance to its successor.  Reactor thread.

    :param clock: monotonic.
    :param holder: the instance that owns the sockets.
    :param timeout: seconds that a successor has until it accepts.
    :param ended: called when a takeover has ended, successfully or not.
    :ivar successor: the pid to which the sockets are offered or handed; 0 for none.
    :ivar handed: whether the successor has taken over.
    """

    def __init__(
        self,
        clock: IReactorTime,
        holder: SocketHolder,
        timeout: float,
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        self._clock = clock
        self._holder = holder
        self._timeout = timeout
        self._timer: IDelayedCall | None = None
        self._token: object = None
        self.successor = 0
        self.handed = self._leaving = False
        self._ended = ended

    def offer(self, token: object, pid: int, protocol: object) -> None:
        """A process asks for the sockets.

        :param token: identifies it from now on: its connection.
        :param pid: its process number, for log lines.
        :param protocol: its version of the protocol, as it was received.
        :raises TakeoverRefused: it gets no sockets.
        """
        why = self._why_not(protocol)
        if why is not None:
            log.warn("process {pid} gets no sockets: {why}", pid=pid, why=why)
            raise TakeoverRefused(why)
        self.successor, self._token = pid, token
        self._holder.share_sockets()
        self._timer = self._clock.callLater(self._timeout, self._late)
        log.info("process {pid} gets the sockets; this one serves until that one accepts", pid=pid)

    def _why_not(self, protocol: object) -> str | None:
        if protocol != PROTOCOL:
            return f"it speaks version {str(protocol)[:20]} of the takeover, this one {PROTOCOL}: stop, then start"
        return self.obstacle()

    def obstacle(self) -> str | None:
        """Returns why no successor can take over now; None if one can."""
        if self.handed:
            return f"process {self.successor} has taken over already"
        if self.successor:
            return f"process {self.successor} is taking over just now: wait for it"
        return self._holder.cannot_hand_over()

    def abandon(self) -> None:
        """This instance stops: a successor that has not accepted yet must not."""
        self._leaving = True

    def accepts(self, token: object, kept: Sequence[int]) -> None:
        """The successor accepts connections.

        :param token: its connection.
        :param kept: the numbers of the offered sockets that it has kept.
        :raises TakeoverRefused: it must not accept: this instance does not wait for it any more.
        """
        if self.handed or self._leaving or not self.successor or token is not self._token:
            raise TakeoverRefused(
                f"nobody waits for this successor any more: it has taken longer than {self._timeout:g} s"
            )
        self._stop_timer()
        self.handed, self._token = True, None
        self._ended()
        self._holder.hand_over(kept, self.successor)

    def lost(self, token: object) -> None:
        """A successor's connection has ended, which means that the successor is gone."""
        if (
            self.handed or not self.successor or token is not self._token
        ):  # handed over, or the successor was too late
            return
        pid = self.successor
        self._fail()
        self._holder.reclaim_sockets(True)
        self._say(pid, "has ended before it accepted; its own log says why")

    def _late(self) -> None:
        """The successor takes too long; the sockets stay shared, since it may still hold them."""
        pid = self.successor
        self._timer = None
        self._fail()
        self._holder.reclaim_sockets(False)
        self._say(pid, f"has not accepted within {self._timeout:g} s")

    def _fail(self) -> None:
        self._stop_timer()
        self.successor, self._token = 0, None

    def _say(self, pid: int, why: str) -> None:
        on = "stops" if self._leaving else "serves on"
        log.error("no takeover: process {pid} {why}; this one {on}", pid=pid, why=why, on=on)
        self._ended()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
