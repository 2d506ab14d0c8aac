"""Run Twisted's own test suites under the graceful reactor and under the stock one, and compare the results.

    python tools/twisted_suites.py [--broken] [MODULE...]

Twisted's reactor tests build their reactors from a list, `ReactorBuilder._reactors`, and ignore the installed
reactor: with `--reactor` alone, even a reactor that cannot listen passes all of them.  So this program replaces the
list by the reactor under test.  Each reactor has a process of its own, with a time limit.

The program prints the tests that fail only under the graceful reactor, and exits 1 if there are any.  With `--broken`
it tests a reactor that cannot listen, in which the suites must find faults.

The tests of HTTP/2 need `httpx`, which no other test of graceful needs; `pip install 'httpx[http2]'` to run them,
too.

A test may stop its reactor while connections are open, and expects the reactor to stop.  So the deadline here is 0.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any, Final

from graceful.config.settings import Settings
from graceful.reactor.core import GracefulReactor

MODULES: Final = (
    "twisted.internet.test",
    "twisted.web.test",
    "twisted.test.test_internet",
    "twisted.test.test_tcp",
    "twisted.test.test_threads",
)
#: Seconds that the suites may take under one reactor.
LIMIT: Final = 1800


class Graceful:
    """Holds the graceful reactor under the name of the stock class, by which some tests decide what to test."""

    class EPollReactor(GracefulReactor):
        """The graceful reactor, with a deadline of 0."""

        __module__ = GracefulReactor.__module__  # some tests look for `install` in this module

        def __init__(self) -> None:
            super().__init__(Settings(deadline=0))


class Broken:
    """Holds a reactor that does not work."""

    class EPollReactor(Graceful.EPollReactor):
        """A reactor that cannot listen."""

        __module__ = GracefulReactor.__module__

        def listenTCP(self, *arguments: object, **named: object) -> None:
            """Fail to listen."""
            raise RuntimeError("this reactor is broken")


REACTORS: Final = {
    "stock": "twisted.internet.epollreactor.EPollReactor",
    "graceful": f"{__name__}.Graceful.EPollReactor",
    "broken": f"{__name__}.Broken.EPollReactor",
}


def run(which: str, modules: list[str]) -> None:
    """Run suites in this process, and print the result as JSON, in the last line."""
    from twisted.internet.main import installReactor
    from twisted.python.reflect import namedAny

    installReactor(namedAny(REACTORS[which])())

    from twisted.internet.test import reactormixins
    from twisted.trial.reporter import Reporter
    from twisted.trial.runner import TestLoader, TrialRunner

    reactormixins.ReactorBuilder._reactors = [REACTORS[which]]
    if which == "broken":
        reactormixins.DEFAULT_TIMEOUT_DURATION = 1  # type: ignore[attr-defined]
    started = time.monotonic()
    suite = TestLoader().loadByNames(modules, recurse=True)
    result: Any = TrialRunner(Reporter, workingDirectory="trial").run(suite)
    bad = {test.id(): str(why) for test, why in [*result.failures, *result.errors]}
    said = {
        "run": result.testsRun,
        "skipped": len(result.skips),
        "bad": bad,
        "seconds": round(time.monotonic() - started, 1),
    }
    print("\n" + json.dumps(said), flush=True)
    sys.exit(0)


def judged(which: str, modules: list[str]) -> dict[str, Any]:
    """Run suites under one reactor, in a process of its own.  Returns the result."""
    command = [sys.executable, os.path.abspath(__file__), "--run", which, *modules]
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            command,
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            errors="replace",
        )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise SystemExit(f"the suites under the {which} reactor ended with {done.returncode}:\n{done.stdout[-5000:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    print(
        f"{which}: {found['run']} run in {found['seconds']} s, {found['skipped']} skipped, {len(found['bad'])} failed"
    )
    return found


def main() -> int:
    """Run the suites under both reactors, and print the differences.  Returns the exit status."""
    parser = argparse.ArgumentParser(description="Run Twisted's own test suites under the graceful reactor.")
    parser.add_argument("--run", metavar="REACTOR", help=argparse.SUPPRESS)
    parser.add_argument("--broken", action="store_true", help="judge a reactor that cannot listen")
    parser.add_argument("modules", nargs="*", metavar="MODULE", default=MODULES)
    given = parser.parse_args()
    if given.run:
        run(given.run, list(given.modules))
    stock = judged("stock", list(given.modules))
    ours = judged("broken" if given.broken else "graceful", list(given.modules))
    worse = sorted(ours["bad"].keys() - stock["bad"].keys())
    for name in worse:
        print(f"only under ours: {name}\n{ours['bad'][name]}")
    for name in sorted(stock["bad"].keys() - ours["bad"].keys()):
        print(f"only under the stock one: {name}")
    return 1 if worse or ours["run"] != stock["run"] else 0


if __name__ == "__main__":
    sys.exit(main())
