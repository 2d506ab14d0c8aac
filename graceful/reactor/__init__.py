"""The graceful reactor: any Twisted service drains, by one flag.

    twistd --reactor=graceful ANYTHING

On SIGTERM every Twisted service cuts its connections, or hangs in its thread pool.  Under this reactor it closes its
listening sockets, finishes what is in flight, and exits with a status that says how it went, as `twistd graceful-app`
does: it is the same drain, behind another door.  Nothing in the service is changed, and nothing has to be.

Importing this installs nothing, and imports no reactor.
"""

from __future__ import annotations

from graceful.reactor.interfaces import ICountsInFlight, IIdling

__all__ = ["ICountsInFlight", "IIdling", "install"]


def install() -> None:
    """Install the graceful reactor, in a process that is its own: its settings come by the environment.

    :raises ValueError: a setting cannot be used.
    :raises ReactorAlreadyInstalledError: there is a reactor already.
    """
    from graceful.reactor import core

    core.install()
