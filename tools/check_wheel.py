"""Compare a wheel with the sources of the checkout, byte by byte.

    python tools/check_wheel.py dist/graceful_app-*.whl

A wheel that lacks a module or a data file, or has a file that an earlier build left behind, installs well and fails
later, elsewhere.  And the tests run two copies of graceful, the checkout's and the installed one, which is only sound
if both are the same.  Exits 1 if they differ, and names each difference.

A wheel for one platform has the same files, and beside them just the compiled modules that setup.py names.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final
from zipfile import ZipFile

ROOT = Path(__file__).parent.parent
OUTSIDE = ("_graceful_app.py", "twisted/plugins/graceful_app.py", "twisted/plugins/graceful_reactor.py")


PURE: Final = "-none-any.whl"


def compiled_modules(root: Path = ROOT) -> set[str]:
    """Returns the modules, as paths without their ends, that a wheel for one platform has compiled.

    The last one is what mypyc makes of the whole group, and the others refer to.
    """
    named = re.search(r'^HOT = """(.*?)"""', (root / "setup.py").read_text(), re.M | re.S)
    assert named is not None, "setup.py names no modules"
    return {*(f"graceful/{name}" for name in named[1].split()), "graceful__mypyc"}


def differences(wheel: Path, root: Path = ROOT) -> list[str]:
    """Returns a line for each file that only one of wheel and checkout has, or that differs between them."""
    sources = {
        str(path.relative_to(root)): path.read_bytes()
        for path in (root / "graceful").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    sources |= {path: (root / path).read_bytes() for path in OUTSIDE}
    data = f"{'-'.join(wheel.name.split('-')[:2])}.data/data"
    shared = [path for path in (root / "share").rglob("*") if path.is_file()]
    sources |= {f"{data}/{path.relative_to(root)}": path.read_bytes() for path in shared}
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and ".dist-info/" not in name]
        packed = {name: archive.read(name) for name in names}
    missing = []
    if not wheel.name.endswith(PURE):
        modules = {name.partition(".")[0]: name for name in packed if name.endswith(".so")}
        wanted = compiled_modules(root)
        packed = {name: data for name, data in packed.items() if modules.get(name.partition(".")[0]) != name}
        missing = [f"not compiled: {name}" for name in sorted(wanted - modules.keys())]
        missing += [f"too much: {modules[name]}" for name in sorted(modules.keys() - wanted)]
    both = sources.keys() & packed.keys()
    return [
        *missing,
        *(f"missing: {name}" for name in sorted(sources.keys() - both)),
        *(f"too much: {name}" for name in sorted(packed.keys() - both)),
        *(f"differs: {name}" for name in sorted(both) if sources[name] != packed[name]),
    ]


if __name__ == "__main__":
    found = differences(Path(sys.argv[1]))
    for line in found:
        print(f"{sys.argv[1]}: {line}", file=sys.stderr)
    sys.exit(1 if found else 0)
