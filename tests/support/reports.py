"""The reports that a server has written, as the tools of OOPS read them; JSON where those cannot be installed."""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.support.home import Home

#: Why tests of OOPS are left out; empty where they are not.
NO_OOPS = "oops-datedir-repo cannot be installed on CPython 3.14 and later" if sys.version_info >= (3, 14) else ""
if not NO_OOPS:
    from oops_datedir_repo.serializer import read
else:
    read = json.load


def reports(home: Home) -> list[dict[str, Any]]:
    """Those in the directory for logs."""
    found = []
    for path in sorted(home.logs.glob("????-??-??/OOPS-*")):
        if path.suffix != ".tmp":  # such a one is just being written
            with path.open("rb") as file:
                found.append(read(file))
    return found
