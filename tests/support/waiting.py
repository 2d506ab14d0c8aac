"""Waiting for what no event tells of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: Seconds to wait for what is to come soon, but is no promise of the server's: a busy machine takes its time.
PATIENCE: Final = 40.0


def wait_for(condition: Callable[[], bool], timeout: float = PATIENCE) -> None:
    """Wait until a condition holds.

    Between two looks it sleeps for longer than a look takes: one that starts a command would take a whole processor.

    :raises AssertionError: if it does not in `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        if condition():
            return
        ended = time.monotonic()
        assert ended < end, f"not in {timeout} s"
        time.sleep(max(0.01, 2 * (ended - began)))
