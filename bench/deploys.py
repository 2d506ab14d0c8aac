"""A hundred deploys behind a real HAProxy, under five kinds of clients: counts lost requests, and times the deploys.

    python bench/deploys.py
    python bench/deploys.py --deploys 20 --instances 5 --parallel 2

Each deploy is a `graceful deploy` that replaces every instance.  The clients are those of the tests: new and
kept-alive connections, slow requests, uploads and downloads.  They check every byte, and send no request twice.
Prints a table in Markdown; exits 1 if a request was lost, or a process was not replaced.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from interpreter import interpreter  # noqa: E402
from tests.support.docs_site import Site  # noqa: E402
from tests.support.fleet import Fleet  # noqa: E402
from tests.support.load import Load, Report  # noqa: E402


def main() -> int:
    """Deploy under load, and print the table.  Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deploys", type=int, default=100)
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--parallel", type=int, default=1)
    given = parser.parse_args()
    took: list[float] = []
    each: list[float] = []
    kept = 0
    began = time.monotonic()
    with Site() as site, Fleet(site, given.instances, ["--deadline", "30"]) as fleet:
        fleet.plan(f"parallel = {given.parallel}\nmargin = 5")
        with Load(fleet.balancer.port) as load:
            for number in range(given.deploys):
                before = fleet.pids()
                verdict = json.loads(fleet.deploy("--json", "--strict").splitlines()[-1])
                kept += sum(fleet.pids()[name] == pid for name, pid in before.items())
                took.append(verdict["seconds"])
                each += [one["seconds"] for one in verdict["instances"]]
                print(f"{number + 1}: {verdict['text']}", file=sys.stderr)
            load.mark()
            report = load.stop()
    return _print(given, report, time.monotonic() - began, took, each, kept)


def _print(
    given: argparse.Namespace, report: Report, seconds: float, took: list[float], each: list[float], kept: int
) -> int:
    answered = {kind: counts.get("ok", 0) for kind, counts in report.counts.items()}
    total, lost = sum(answered.values()), len(report.failures) + len(report.refusals)
    print(f"CPython {interpreter()}")
    print(f"{given.deploys} deploys of {given.instances} instances, {given.parallel} at once, in {seconds:.0f} s\n")
    print("| clients | answered |")
    print("|---|---|")
    for kind, count in answered.items():
        print(f"| {kind} | {count} |")
    print(f"| all | {total} |")
    print(f"\nlost or refused: {lost}", end="")
    if not lost:
        print(f" of {total}: fewer than {3 / total:.1e} of all, with 95 % confidence", end="")
    print(f"\nprocesses not replaced: {kept}")
    print(f"a deploy: median {median(took):.1f} s, longest {max(took):.1f} s")
    print(f"an instance, until it has traffic again: median {median(each):.1f} s, longest {max(each):.1f} s")
    for failure in report.failures[:20]:
        print(failure, file=sys.stderr)
    return 1 if lost or kept else 0


if __name__ == "__main__":
    sys.exit(main())
