"""Compare a wheel with the sources it should be made of, byte by byte.

    python tools/check_wheel.py dist/graceful_app-*.whl

A module that no list of packages names, a data file, or a file that an earlier build left behind: each gives
a wheel that installs, and fails later somewhere else.  And the tests run two copies of graceful, the one in the
checkout and the installed one, which is only sound if they are the same.  Exits 1 and names each difference.
"""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parent.parent
OUTSIDE = ("_graceful_app.py", "twisted/plugins/graceful_app.py", "twisted/plugins/graceful_reactor.py")


def differences(wheel: Path, root: Path = ROOT) -> list[str]:
    """Return a line for each file that is missing in a wheel, too much, or not as it is in the checkout."""
    sources = {
        str(path.relative_to(root)): path.read_bytes()
        for path in (root / "graceful").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    sources |= {path: (root / path).read_bytes() for path in OUTSIDE}
    with ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    both = sources.keys() & packed.keys()
    return [
        *(f"missing: {name}" for name in sorted(sources.keys() - both)),
        *(f"too much: {name}" for name in sorted(packed.keys() - both)),
        *(f"differs: {name}" for name in sorted(both) if sources[name] != packed[name]),
    ]


if __name__ == "__main__":
    found = differences(Path(sys.argv[1]))
    for line in found:
        print(f"{sys.argv[1]}: {line}", file=sys.stderr)
    sys.exit(1 if found else 0)
