"""Measures what the graceful reactor costs: runs `twistd web` on it and on the stock reactor, in one run.

The graceful reactor only counts connections.  So a kept-alive connection should cost nothing, and a new connection
for each request shows the highest cost.  A second instance on the stock reactor shows by how much two equal servers
differ.

    python bench/reactor.py
    python bench/reactor.py --rounds 31

It takes the options of `throughput.py`, and prints the same tables.
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
