"""An application server for Python WSGI and ASGI apps whose deploys no live request notices.

This package's front door is what an application imports, and a .tac file that embeds the server.  Nothing here, nor
anything imported from here, may import the reactor: twistd chooses it after the options are parsed, and daemonizes
after that.  And an application that wants one name must not load all of the server for it: a name is looked up when
it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from graceful._version import __version__

if TYPE_CHECKING:
    from graceful.application.deadlines import DeadlineExceeded as DeadlineExceeded
    from graceful.application.deadlines import Takedown as Takedown
    from graceful.application.deadlines import check as check
    from graceful.application.deadlines import draining as draining
    from graceful.application.deadlines import remaining as remaining
    from graceful.application.drain_notice import drain_begins as drain_begins
    from graceful.application.hooks import on_drain as on_drain
    from graceful.application.hooks import on_exit as on_exit
    from graceful.asgi import ASGIResource as ASGIResource
    from graceful.config.settings import Settings as Settings
    from graceful.downloads.parked import Parked as Parked
    from graceful.downloads.token import Download as Download
    from graceful.reports.outlets import on_report as on_report
    from graceful.server.app_server import AppServer as AppServer
    from graceful.wsgi import WSGIResource as WSGIResource

__all__ = [
    "ASGIResource",
    "AppServer",
    "DeadlineExceeded",
    "Download",
    "Parked",
    "Settings",
    "Takedown",
    "WSGIResource",
    "__version__",
    "check",
    "drain_begins",
    "draining",
    "on_drain",
    "on_exit",
    "on_report",
    "remaining",
]

_HOMES: Final = {
    "ASGIResource": "graceful.asgi",
    "AppServer": "graceful.server.app_server",
    "DeadlineExceeded": "graceful.application.deadlines",
    "Download": "graceful.downloads.token",
    "Parked": "graceful.downloads.parked",
    "Settings": "graceful.config.settings",
    "Takedown": "graceful.application.deadlines",
    "WSGIResource": "graceful.wsgi",
    "check": "graceful.application.deadlines",
    "drain_begins": "graceful.application.drain_notice",
    "draining": "graceful.application.deadlines",
    "on_drain": "graceful.application.hooks",
    "on_exit": "graceful.application.hooks",
    "on_report": "graceful.reports.outlets",
    "remaining": "graceful.application.deadlines",
}


def __getattr__(name: str) -> Any:
    """Look a name up in the module that it lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
