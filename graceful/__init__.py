"""An application server for Python WSGI apps whose deploys nobody notices.

This package's front door is what an application imports.  Nothing here, nor anything imported from here, may
import the reactor: twistd chooses it after the options are parsed, and daemonizes after that.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
