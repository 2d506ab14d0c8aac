"""Says which interpreter was measured: two builds of one version differ by a tenth, more than most changes do."""

from __future__ import annotations

import platform
import sys


def interpreter() -> str:
    """Returns version, program, date of the build, and compiler, in one line."""
    program = getattr(sys, "_base_executable", sys.executable)
    build = platform.python_build()[1]
    return f"{platform.python_version()} ({program}, built {build} by {platform.python_compiler()})"
