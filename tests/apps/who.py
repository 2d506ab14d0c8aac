"""An application that tells which user imports and runs it."""

from __future__ import annotations

import os
from collections.abc import Iterable

import basic

IMPORTED_BY = os.getuid()


def application(environ: basic.Environ, start_response: basic.Start) -> Iterable[bytes]:
    """Answer both users."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"imported by {IMPORTED_BY}, served by {os.getuid()}".encode()]
