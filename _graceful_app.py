"""What still works when `import graceful` finds something else than the application server.

On PyPI the name `graceful` belongs to another project, which also installs a package `graceful`.  Installed after
ours it overwrites `graceful/__init__.py`; uninstalled it deletes that file; on an earlier entry of Python's path it
hides our package, as a stray `graceful.py` does.  Python then says only that some module does not exist.  So the
commands begin in this module, outside of the package, and say what is wrong, and what to do.

A start is refused in each of these cases: the application would fail at its first `from graceful import …`.  The
`graceful` command goes on for as long as it can be imported at all: the operator may need it to stop what runs.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Final

HOME: Final = os.path.dirname(os.path.realpath(__file__))
"""The directory that our package was installed into, since this module stands beside it."""

#: What our `graceful/__init__.py` imports, and no other does.
_OURS: Final = "graceful._version"
#: `graceful` cannot ask the server: the status that the command has for this.
_UNREACHABLE: Final = 2


def check(program: str) -> None:
    """Let a start go on only with our own package.

    :param program: what the line begins with.
    :raises SystemExit: `import graceful` would find something else; with one line for standard error, and status 1.
    """
    trouble = find_trouble()
    if trouble is not None:
        sys.exit(f"{program}: {trouble}")


def find_trouble() -> str | None:
    """Return what is wrong with the package that `import graceful` would find, and None if it is ours.

    The package is found, and its code is read, but it is not run: a stray `graceful.py` may do anything.
    """
    try:
        spec = find_spec("graceful")
    except ValueError:  # It has been imported already, from nowhere.
        spec = None
    if spec is not None and _is_ours(spec):
        return None
    places = [] if spec is None else [os.path.realpath(place) for place in spec.submodule_search_locations or ()]
    package = os.path.join(HOME, "graceful")
    if spec is None or package in places:
        return (
            f"{package}/__init__.py is not the application server's: another distribution, probably the one called "
            "graceful, has overwritten or deleted it; run: pip uninstall graceful; "
            "pip install --force-reinstall --no-deps graceful-app"
        )
    found = places[0] if places else spec.origin
    return (
        f"{found} hides the application server's package {package}: rename it, or take its directory off Python's "
        "path; if the distribution graceful has put it there, run: pip uninstall graceful"
    )


def command() -> int:
    """Run the `graceful` command, and return its exit status."""
    try:
        from graceful.cli import main
    except Exception:
        trouble = find_trouble()
        if trouble is None:
            raise
        print(f"graceful: {trouble}", file=sys.stderr)
        return _UNREACHABLE
    return main()


def _is_ours(spec: ModuleSpec) -> bool:
    """Tell our package by what its code imports: the place of the file does not say which project it is of."""
    try:
        code = spec.loader.get_code("graceful")  # type: ignore[union-attr]
    except (AttributeError, ImportError, OSError, SyntaxError):
        return False
    return code is not None and _OURS in code.co_names
