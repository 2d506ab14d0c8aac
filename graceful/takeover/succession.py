"""Being succeeded: the old instance's side of a takeover, as a small state machine without I/O.

A successor that takes the listening sockets over leaves no moment in which nobody listens.  What can go wrong is the
successor: it may crash while it imports its application, hang, be killed, or be of a version that is not understood.
So nothing changes for the old instance until the new one has said that it accepts:

    nobody ─offer─▶ offered ─accepts─▶ handed
      ▲                │
      └─lost, too late─┘

While the sockets are offered, another process holds them too: nothing may be done to them that outlives a descriptor.
A successor that is gone has closed them.  One that takes too long may still live, and is told when it comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger(namespace="graceful")


#: What both sides must agree on: which words there are, and what they mean.
PROTOCOL: Final = 1


class TakeoverRefused(Exception):
    """There is no taking over.  Its text is one line, for the successor and for whoever has started it."""


class SocketHolder(Protocol):
    """The instance whose sockets they are.  Reactor thread."""

    def cannot_hand_over(self) -> str | None:
        """Why it cannot hand its sockets over; None if it can."""

    def lend(self) -> None:
        """From now on somebody else holds the sockets, too."""

    def take_back(self, surely: bool) -> None:
        """They are ours again; if that is not sure, somebody may still hold them."""

    def hand_over(self, kept: Sequence[int], pid: int) -> None:
        """Let go of what has been kept, close the rest, and drain: this process accepts from now on.

        :param kept: numbers of sockets, in the order in which they were offered.
        """


class SocketHandover:
    """One instance's sockets on their way to the next.  Reactor thread.

    :param clock: times the successor; monotonic.
    :param holder: whose sockets they are.
    :param timeout: seconds that a successor has until it accepts.
    :param ended: called when a takeover has ended, well or not.
    :ivar successor: the process that the sockets are offered or handed to; 0 for nobody.
    :ivar handed: whether it has them.
    :ivar leaving: this instance stops, and has given its successor up.
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
        self.handed = self.leaving = False
        self._ended = ended

    def offer(self, token: object, pid: int, protocol: object) -> None:
        """A process asks for the sockets.

        :param token: what it is known by from now on: its connection.
        :param pid: its number, for people.
        :param protocol: which one it speaks.
        :raises NotNow: it gets nothing.
        """
        why = self._why_not(protocol)
        if why is not None:
            log.warn("process {pid} gets no sockets: {why}", pid=pid, why=why)
            raise TakeoverRefused(why)
        self.successor, self._token = pid, token
        self._holder.lend()
        self._timer = self._clock.callLater(self._timeout, self._late)
        log.info("process {pid} gets the sockets; this one serves until that one accepts", pid=pid)

    def _why_not(self, protocol: object) -> str | None:
        if protocol != PROTOCOL:
            return f"it speaks version {str(protocol)[:20]} of the takeover, this one {PROTOCOL}: stop, then start"
        return self.cannot()

    def cannot(self) -> str | None:
        """Why nobody could take over now; None if somebody could."""
        if self.handed:
            return f"process {self.successor} has taken over already"
        if self.successor:
            return f"process {self.successor} is taking over just now: wait for it"
        return self._holder.cannot_hand_over()

    def accepts(self, token: object, kept: Sequence[int]) -> None:
        """The successor accepts connections.

        :param token: its connection.
        :param kept: the numbers of the sockets that it has kept, of those that it was offered.
        :raises NotNow: it must not: nobody waits for it any more.
        """
        if self.handed or self.leaving or not self.successor or token is not self._token:
            raise TakeoverRefused(
                f"nobody waits for this successor any more: it has taken longer than {self._timeout:g} s"
            )
        self._stop_timer()
        self.handed, self._token = True, None
        self._ended()
        self._holder.hand_over(kept, self.successor)

    def lost(self, token: object) -> None:
        """A successor's connection is gone, and so is the successor."""
        if self.handed or not self.successor or token is not self._token:  # it has handed over, or has been too late
            return
        pid = self.successor
        self._fail()
        self._holder.take_back(True)
        self._say(pid, "has ended before it accepted; its own log says why")

    def _late(self) -> None:
        """The successor takes too long.  It may come back, and holds the sockets: they stay shared."""
        pid = self.successor
        self._timer = None
        self._fail()
        self._holder.take_back(False)
        self._say(pid, f"has not accepted within {self._timeout:g} s")

    def _fail(self) -> None:
        self._stop_timer()
        self.successor, self._token = 0, None

    def _say(self, pid: int, why: str) -> None:
        on = "stops" if self.leaving else "serves on"
        log.error("no takeover: process {pid} {why}; this one {on}", pid=pid, why=why, on=on)
        self._ended()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
