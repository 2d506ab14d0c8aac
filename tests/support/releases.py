"""Releases of an application, as deploy tools make them: directories, and a symbolic link to the current one."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

from tests.support.home import Home
from tests.support.server import Server

RELEASE: Final = """
from basic import application as basic

def application(environ, start_response):
    if environ["PATH_INFO"] != "/release":
        return basic(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%s"]
"""


#: What is logged when a deploy is asked for during one.
FOLLOWS: Final = "deploy: one is under way; another one follows it"


class Releases:
    """Directories with one release each, and a symbolic link to the one that is current."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.current = home.path / "current"

    def make(self, name: str, text: str | None = None) -> Path:
        """Make a release, and have the link lead to it."""
        directory = self._home.path / name
        directory.mkdir()
        (directory / "release.py").write_text(text if text is not None else RELEASE % name)
        link = self._home.path / "next"
        link.symlink_to(directory)
        link.rename(self.current)
        return directory


def deploy_broken(releases: Releases, server: Server) -> None:
    """Deploy, by SIGHUP, a release that cannot be imported, and wait for the line that says so."""
    releases.make("broken", "raise RuntimeError('no database here')")
    server.send_signal(signal.SIGHUP)
    server.wait_line("no deploy: release cannot be imported: .*no database here.*; the old release serves on")
