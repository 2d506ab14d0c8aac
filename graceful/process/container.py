"""Whether a container ends with this process, which then cannot be replaced by a successor.

A container ends with its process 1, and a small init as process 1, which Docker and Podman put in front of a server,
ends with the one program that it has started.  systemd and other supervisors do not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

#: How the names of such small inits begin, in /proc/1/comm.
SMALL_INITS: Final = ("tini", "docker-init", "podman-init", "dumb-init", "catatonit")


def _name_of_process_1() -> str:
    try:
        return Path("/proc/1/comm").read_text().strip()
    except OSError:
        return ""


def ends_with_this_process(
    getpid: Callable[[], int] = os.getpid,
    getppid: Callable[[], int] = os.getppid,
    name_of_process_1: Callable[[], str] = _name_of_process_1,
) -> str | None:
    """Returns why the container would end with this process; None if it would not, or there is no container."""
    if getpid() == 1:
        return "the container would end with process 1, which this is"
    if getppid() == 1 and (name := name_of_process_1()).startswith(SMALL_INITS):
        return f"the container would end with this process, which {name} has started"
    return None
