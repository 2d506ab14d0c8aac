"""Two interfaces by which a service can tell the graceful reactor what it waits for.  Both are optional."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import Interface


class IIdling(Interface):
    """A protocol that knows when its connection may be closed without interrupting anything.

    A connection counts as in flight until it ends, since only its protocol knows what it is about.  One that
    provides this, or is adapted to it (`twisted.python.components.registerAdapter`), is closed earlier.
    """

    def whenIdle() -> Deferred[object]:
        """Returns a Deferred that fires when the connection may be closed.  Called once, when a drain begins."""


class ICountsInFlight(Interface):
    """A reactor that waits for Deferreds before it stops."""

    def inFlight(deferred: Deferred[object], what: str) -> Deferred[object]:
        """Count work as in flight until a Deferred fires: that of a client connection, or a child process.

        At the deadline the Deferred is cancelled.

        :param what: names the work in log and status.
        :returns: the same Deferred.
        """
