"""Lets the environment of this interpreter borrow what another environment has, packages and programs.

    ENVIRONMENT/bin/python tools/borrow.py OTHER

What is installed in this environment comes before what it borrows.  To install all that a second time would take half
a minute and a quarter of a gigabyte.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path


def main(other: Path) -> None:
    """Borrow what another environment has.

    :param other: the environment, of the same Python.
    """
    own = Path(sysconfig.get_path("purelib"))
    theirs = other.absolute() / own.relative_to(sys.prefix)
    (own / "borrowed.pth").write_text(f"import site; site.addsitedir({str(theirs)!r})\n")
    for program in (other / "bin").iterdir():
        place = Path(sys.prefix) / "bin" / program.name
        if program.is_file() and not place.exists():
            text = program.read_bytes()
            if re.match(rb"#!\S*/bin/python", text):
                place.write_bytes(b"#!%s\n%s" % (sys.executable.encode(), text.partition(b"\n")[2]))
                place.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
