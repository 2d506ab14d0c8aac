"""Twisted's reactor, looking into the hub of a server first.

To Twisted's reactor the hub is one reader among others.  Before it calls one, it polls, finds out what the reader is
called in the log, and copies a context for that: for a request that comes alone all this costs a fifth of what the
server does.  So here the epolls are nested the other way round.  The hub's has the reactor's in it; its connections
are worked through directly, and Twisted's loop has its turn when one of its own descriptors is ready, or a timer due.

Nothing else differs from the reactor that Twisted chooses on Linux.  With another one, which a user has chosen or an
embedding program, the hub is a reader.
"""

from __future__ import annotations

import sys
from typing import Protocol

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor

_FOREVER = -1.0


class OuterPoll(Protocol):
    """What has an epoll that another one can be put into; a hub."""

    def enclose(self, inner: int) -> None:
        """Watch the other epoll.

        :param inner: its descriptor.
        :raises OSError: the kernel refuses.
        """

    def poll(self, timeout: float) -> bool:
        """Wait for what is ready, and work it through.

        :param timeout: seconds; negative: for ever.
        :returns: whether the other epoll has to be looked into.
        """


class HubReactor(EPollReactor):
    """Twisted's epoll reactor, which one hub can enclose."""

    def __init__(self) -> None:
        self._hub: OuterPoll | None = None
        self._stops = False
        super().__init__()  # type: ignore[no-untyped-call]

    def attach(self, hub: OuterPoll) -> bool:
        """Have a hub poll from now on.  Reactor thread.

        :returns: False if another one does.
        :raises OSError: the kernel refuses.
        """
        if self._hub is not None:
            return False
        hub.enclose(self._poller.fileno())
        self._hub = hub
        return True

    def detach(self, hub: OuterPoll) -> bool:
        """Poll without this hub from now on.  Reactor thread.

        :returns: False if it was not attached.
        """
        if self._hub is not hub:
            return False
        self._hub = None
        return True

    def stop(self) -> None:
        """End the main loop: it has to see that before anything else is waited for."""
        super().stop()
        self._stops = True

    def doPoll(self, timeout: float | None) -> None:
        """Work through what is ready, and go on with that until something is for Twisted's loop to do.

        :param timeout: seconds to wait for something; None: for ever.
        """
        hub = self._hub
        if hub is None:
            super().doPoll(timeout)  # type: ignore[no-untyped-call]
            return
        while not hub.poll(_FOREVER if timeout is None else timeout):
            # A round of the main loop costs several times as much as this look at what it has to do.  What other
            # threads want called wakes the reactor's epoll.
            if self._stops or not self.running or self._hub is not hub:
                return
            timeout = self.timeout()
            if timeout == 0:
                return
        super().doPoll(0)  # type: ignore[no-untyped-call]

    # The name by which the main loop calls it; the base class's would be its own doPoll.
    doIteration = doPoll


def install_unless_chosen() -> None:
    """Install this reactor, unless there is one already."""
    if "twisted.internet.reactor" not in sys.modules:
        installReactor(HubReactor())
