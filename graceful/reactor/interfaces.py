"""What a service may tell the graceful reactor, and need not."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import Interface


class IIdling(Interface):
    """A protocol that knows when its connection is in the middle of nothing.

    A connection counts as in flight until it ends, since only its protocol knows what it is about.  One that
    provides this, or is adapted to it (`twisted.python.components.registerAdapter`), is closed earlier.
    """

    def whenIdle() -> Deferred[object]:
        """Called once, when a drain begins: fire when the connection may be closed; now, if it is idle already."""


class ICountsInFlight(Interface):
    """A reactor that waits for what it is told of before it stops."""

    def inFlight(deferred: Deferred[object], what: str) -> Deferred[object]:
        """Count something as in flight until a Deferred fires: a client connection's work, or a child process.

        At the deadline it is cancelled.

        :param what: what it is, for people.
        :returns: the same Deferred.
        """
