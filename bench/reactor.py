"""What the graceful reactor costs: `twistd web` on it, and on the stock one, in one run.

It counts connections and nothing else, so a kept-alive connection should cost nothing, and a new one for each request
the most that it can.  A second instance on the stock reactor shows how far two equal servers seem to differ.

    python bench/reactor.py
    python bench/reactor.py --rounds 31

Prints what `throughput.py` prints, whose options it takes.
"""

from __future__ import annotations

import sys

from servers import ServerFailed
from throughput import leave_well, parse_arguments, run

ARGUMENTS = ["--servers", "stock,stock2,reactor", "--scenarios", "small,close,big", "--rounds", "15"]

if __name__ == "__main__":
    leave_well()
    try:
        sys.exit(run(parse_arguments([*ARGUMENTS, *sys.argv[1:]])))
    except ServerFailed as error:
        sys.exit(f"reactor: {error}")
