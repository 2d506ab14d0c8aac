"""An application server for Python WSGI apps whose deploys nobody notices.

This package's front door is what an application imports, and a .tac file that embeds the server.  Nothing here, nor
anything imported from here, may import the reactor: twistd chooses it after the options are parsed, and daemonizes
after that.  And an application that wants one name shall not load all of the server for it: a name is looked up when
it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from graceful.downloads.parked import Parked as Parked
    from graceful.downloads.token import Download as Download
    from graceful.service import AppServer as AppServer
    from graceful.settings import Settings as Settings
    from graceful.wsgi import WSGIResource as WSGIResource

__all__ = ["AppServer", "Download", "Parked", "Settings", "WSGIResource", "__version__"]

__version__ = "0.1.0"

_HOMES: Final = {
    "AppServer": "graceful.service",
    "Download": "graceful.downloads.token",
    "Parked": "graceful.downloads.parked",
    "Settings": "graceful.settings",
    "WSGIResource": "graceful.wsgi",
}


def __getattr__(name: str) -> Any:
    """Look a name up in the module that it lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
