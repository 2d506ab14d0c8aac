"""`graceful top`: what is in flight, live in a terminal."""

from __future__ import annotations

import argparse

from graceful.commands.common import UNREACHABLE, say


def top(arguments: argparse.Namespace) -> int:
    """Show the status until the server is gone, or Ctrl-C."""
    try:
        from graceful.commands import screen
    except ImportError:
        say("top needs the package rich: pip install 'graceful-app[cli]'")
        return UNREACHABLE
    return screen.show(arguments)
