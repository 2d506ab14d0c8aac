"""A real server inside your test: does *your* application survive a deploy?

A test of an application calls it, and proves nothing about the moment in which its process is replaced: the request
that runs too long, the long-poll that is not told to come back, the answer that is cut.  So here a real
`twistd graceful-app` serves the application on a free port; a test sends requests through a client that forgives
nothing, and in the middle of them has the server leave, stop, or be replaced.  With pytest:

    def test_report(app_server):
        server = app_server("mysite.wsgi:application")
        report = server.begin("GET", "/report")
        server.arrived("/report")
        server.redeploy()
        assert report.answer().status == 200
        assert server.lost == []

The fixture comes with the package.  :class:`AppServerMixin` does the same for trial, with Deferreds;
:class:`MemoryServer` without a process and without a network, for fast tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graceful.testing.client import Answer, Lost, LostRequest, Pending, Refused
from graceful.testing.server import LiveServer, StartFailed

if TYPE_CHECKING:
    from graceful.testing.memory import MemoryServer as MemoryServer
    from graceful.testing.trial import AppServerMixin as AppServerMixin

__all__ = [
    "Answer",
    "AppServerMixin",
    "LiveServer",
    "Lost",
    "LostRequest",
    "MemoryServer",
    "Pending",
    "Refused",
    "StartFailed",
]


def __getattr__(name: str) -> Any:
    """What needs more than the standard library is imported when it is asked for."""
    if name == "AppServerMixin":
        from graceful.testing.trial import AppServerMixin

        return AppServerMixin
    if name == "MemoryServer":
        from graceful.testing.memory import MemoryServer

        return MemoryServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
