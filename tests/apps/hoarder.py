"""An application that takes every file descriptor that becomes free, as one with a leak does."""

from __future__ import annotations

import os
import threading
import time
from typing import Any


def _hoard() -> None:
    while True:
        try:
            os.dup(0)
        except OSError:
            time.sleep(0.001)


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Begin with the first request."""
    threading.Thread(target=_hoard, daemon=True).start()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
