"""The process of a graceful reactor: its last limit, its thread pools, and its exit status.

A reactor that runs in a thread, or that a test builds, must not end the process that it is in.  So what ends a
process is an object of its own, which only :func:`graceful.reactor.install` makes.
"""

from __future__ import annotations

from threading import current_thread, main_thread

from graceful.process.exit import EXIT_SECONDS, REPORTS, LastLimit
from graceful.reactor.thread_pools import Pools


class ReactorProcess:
    """A process that its reactor may end.

    Outside of the main thread a reactor does not end it: the process belongs to another program.

    :ivar limit: the moment at which the process ends in any case, once it was told to stop.
    :ivar pools: stops the thread pools within the deadline.
    """

    def __init__(self) -> None:
        self.limit = LastLimit()
        self.pools = Pools()

    def install(self) -> None:
        """Take the process; early, since a verdict skips what was registered with atexit before."""
        self.limit.install()
        self.pools.install()

    def arm(self, seconds: float) -> None:
        """End the process `seconds` from now, whatever happens."""
        if current_thread() is main_thread():
            self.limit.arm(seconds)

    def verdict(self, status: int) -> None:
        """Set the exit status; the process has to end soon."""
        if current_thread() is main_thread():
            self.limit.verdict(status, REPORTS + EXIT_SECONDS)
