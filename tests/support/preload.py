"""Libraries that are put between a server and its C library, to let happen what is rare: see the `.c` files."""

from __future__ import annotations

import subprocess
from pathlib import Path


def library(name: str, directory: Path) -> Path:
    """Compile `name`.c of this directory into another, and return the path for LD_PRELOAD."""
    source = Path(__file__).with_name(f"{name}.c")
    compiled = directory / f"{name}.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", compiled, source, "-ldl"]
    subprocess.run([str(word) for word in command], check=True)
    return compiled
