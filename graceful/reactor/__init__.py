"""The graceful reactor: one flag makes any Twisted service drain.

    twistd --reactor=graceful ANYTHING

On SIGTERM a Twisted service cuts its connections, or hangs in its thread pool.  Under this reactor it closes its
listening sockets, finishes what is in flight, and exits with a status that says how the drain went, as
`twistd graceful-app` does; the drain is the same.  The service needs no change.

Importing this package installs nothing, and imports no reactor.
"""

from __future__ import annotations

from graceful.reactor.interfaces import ICountsInFlight, IIdling

__all__ = ["ICountsInFlight", "IIdling", "install"]


def install() -> None:
    """Install the graceful reactor in a process that it may end; its settings come from the environment.

    :raises ValueError: a setting cannot be used.
    :raises ReactorAlreadyInstalledError: another reactor is installed.
    """
    from graceful.reactor import core

    core.install()
