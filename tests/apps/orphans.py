"""An application whose requests start programs that outlive them, and others that it waits for."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from typing import Any


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer with the exit status of a shell: one that leaves another program behind, or one that takes a while."""
    script = "(sleep 0.1 &); exit 3" if environ["PATH_INFO"] == "/orphan" else "sleep 0.5; exit 4"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % subprocess.run(["/bin/sh", "-c", script]).returncode]
