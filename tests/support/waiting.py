"""Waiting for what no event tells of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: Seconds to wait for what is to come soon, but is no promise of the server's: a busy machine takes its time.
PATIENCE: Final = 40.0


def wait_for(condition: Callable[[], bool], timeout: float = PATIENCE) -> None:
    """Wait until a condition holds.

    :raises AssertionError: if it does not in `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not in {timeout} s"
        time.sleep(0.01)
