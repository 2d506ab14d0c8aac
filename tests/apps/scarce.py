"""`basic`, in a process that may not start any further thread once it has served its first request."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable
from typing import Any

import basic

if os.environ.get("SCARCE_FROM_THE_START"):
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Set the limit, and answer as `basic` does."""
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    return basic.application(environ, start_response)
