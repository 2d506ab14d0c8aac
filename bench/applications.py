"""Deploys real applications under their real clients, and says what it has cost.

    python bench/applications.py --minutes 2 --every 8

What happens is in `tests/support/real_sites.py`.  Ends with 1 if a client has lost anything.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.real_sites import SITES, Run


def main() -> None:
    """Run one application after the other, and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="how long each (default: 2)")
    parser.add_argument("--every", type=float, default=8.0, help="seconds from one deploy to the next (default: 8)")
    parser.add_argument("--clients", type=int, default=3, help="of each application (default: 3)")
    parser.add_argument("sites", nargs="*", metavar="APPLICATION", help=f"of {', '.join(SITES)} (default: all)")
    given = parser.parse_args()
    failed = False
    for name in given.sites or SITES:
        began = time.monotonic()
        result = Run(SITES[name], given.clients).run(given.minutes * 60, given.every)
        deploys = ", ".join(f"{count} by {way}" for way, count in result.deploys.items())
        answers = ", ".join(f"{count} of {digit}xx" for digit, count in sorted(result.answers.items()))
        print(
            f"{name}: {result.turns} turns, {len(result.failures)} lost; {sum(result.answers.values())} requests"
            f" ({answers}); deploys: {deploys}; {time.monotonic() - began:.0f} s",
            flush=True,
        )
        try:
            result.check()
        except AssertionError as why:
            print(why, flush=True)
            failed = True
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
