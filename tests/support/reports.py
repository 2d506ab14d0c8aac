"""The reports that a server has written, as the tools of OOPS read them."""

from __future__ import annotations

from typing import Any

from oops_datedir_repo.serializer import read

from tests.support.home import Home


def reports(home: Home) -> list[dict[str, Any]]:
    """Those in the directory for logs."""
    found = []
    for path in sorted(home.logs.glob("????-??-??/OOPS-*")):
        if path.suffix != ".tmp":  # such a one is just being written
            with path.open("rb") as file:
                found.append(read(file))
    return found
