"""Ends a process with its parent, while it cannot look after itself.

A worker whose application hangs while it is imported hears nothing: if its supervisor dies in that time, nothing is
left that could end it.  The kernel can (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent(parent: int) -> bool:
    """Have the kernel kill this process when the parent ends.  The thread that calls this one has to be the main one.

    :param parent: the process that should be the parent.
    :returns: False if that has ended already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def outlive_parent() -> None:
    """Take back :func:`end_with_parent`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
