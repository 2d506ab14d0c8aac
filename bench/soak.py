"""Lets a server live through deploys, kills and limits under load for a long time, and says what it has cost.

    python bench/soak.py --minutes 20 --every 20

What happens is in `tests/support/soak.py`.  Ends with 1 if a request was lost, or if memory, descriptors or threads
have grown.  It needs root, for the limit on processes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.home import Home
from tests.support.soak import Soak


def main() -> None:
    """Run, and print a line for each kind of event, of client and of look."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (default: 20)")
    parser.add_argument("--every", type=float, default=20.0, help="seconds from one event to the next (default: 20)")
    given = parser.parse_args()
    home, soak = Home(os.getuid()), Soak()
    try:
        soak.run(home, given.minutes * 60, given.every)
        left = home.left_behind()
    finally:
        home.remove()
    print("events:", ", ".join(f"{name} {count}" for name, count in soak.happened.items()))
    assert soak.report is not None
    for kind, counts in soak.report.counts.items():
        print(f"{kind}:", ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    for number in sorted({0, len(soak.looks) // 2, len(soak.looks) - 1}):
        print(soak.looks[number])
    print("left behind:", left or "nothing")
    soak.check()
    if left:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
