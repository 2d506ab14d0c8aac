"""Print the lowest versions of the runtime dependencies that pyproject.toml allows, as constraints for pip.

    python tools/lowest.py > constraints.txt

A minimum that is never installed is a guess: `make lowest` runs tests with exactly these versions.  Dependencies of
the extras that add to what a server can do count as well; those of the tests and checkers do not.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The extras whose packages a server, or a test of an application's, imports.
EXTRAS: Final = ("cli", "metrics", "testing", "oops")
_REQUIREMENT: Final = re.compile(
    r"(?P<name>[\w.-]+)(?:\[[\w,-]+\])?>=(?P<version>[\w.]+)(?:,[^;]*)?(?P<marker>;.*)?\Z"
)


def lowest(requirements: Iterable[str]) -> Iterator[str]:
    """Yield a constraint for each requirement.

    :raises ValueError: a requirement has no minimum.
    """
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement.replace(" ", ""))
        if match is None:
            raise ValueError(f"no minimum in {requirement!r}")
        marker = requirement.partition(";")[2].strip()
        yield f"{match['name']}=={match['version']}{f'; {marker}' if marker else ''}"


def main() -> None:
    """Print the constraints of this checkout."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    print("\n".join(lowest([*project["dependencies"], *(one for extra in EXTRAS for one in extras[extra])])))


if __name__ == "__main__":
    main()
