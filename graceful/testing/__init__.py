"""A real server inside your test: does *your* application survive a deploy?

A test that only calls an application proves nothing about the moment in which its process is replaced: the request
that runs too long, the long-poll that is not told to come back, the answer that is cut.  So a real
`twistd graceful-app` serves the application on a free port.  The test sends requests through a strict client, and in
the middle of them makes the server leave the rotation, stop, or be replaced.  With pytest:

    def test_report(app_server):
        server = app_server("mysite.wsgi:application")
        report = server.begin("GET", "/report")
        server.arrived("/report")
        server.redeploy()
        assert report.answer().status == 200
        assert server.lost == []

The fixture comes with the package.  :class:`AppServerMixin` does the same for trial, with Deferreds.
:class:`MemoryServer` does it without a process and without a network, for fast tests, and :class:`AsgiMemoryServer`
does so for ASGI applications.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from graceful.testing.client import Answer, Lost, LostRequest, Pending, Refused
from graceful.testing.server import LiveServer, StartFailed

if TYPE_CHECKING:
    from graceful.testing.memory import MemoryServer as MemoryServer
    from graceful.testing.memory_asgi import AsgiMemoryServer as AsgiMemoryServer
    from graceful.testing.memory_stream import MemoryStream as MemoryStream
    from graceful.testing.memory_websocket import MemoryWebSocket as MemoryWebSocket
    from graceful.testing.memory_websocket import WebSocketEnded as WebSocketEnded
    from graceful.testing.trial import AppServerMixin as AppServerMixin

__all__ = [
    "Answer",
    "AppServerMixin",
    "AsgiMemoryServer",
    "LiveServer",
    "Lost",
    "LostRequest",
    "MemoryServer",
    "MemoryStream",
    "MemoryWebSocket",
    "Pending",
    "Refused",
    "StartFailed",
    "WebSocketEnded",
]

#: The modules of names that need more than the standard library.
_MODULES = {
    "AppServerMixin": "trial",
    "AsgiMemoryServer": "memory_asgi",
    "MemoryServer": "memory",
    "MemoryStream": "memory_stream",
    "MemoryWebSocket": "memory_websocket",
    "WebSocketEnded": "memory_websocket",
}


def __getattr__(name: str) -> Any:
    """Import a name that needs more than the standard library, when it is first used."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"graceful.testing.{module}"), name)
