"""Twisted's own tests of reactors, under ours: what a service finds there is what it finds in the stock one."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.docs_blocks import ROOT

SUITES = [
    f"twisted.internet.test.test_{name}"
    for name in ("core", "fdset", "socket", "tcp", "threads", "time", "tls", "unix")
]


def judge(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run suites under both reactors."""
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "twisted_suites.py", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def test_the_graceful_reactor_passes() -> None:
    """It fails where the stock one fails, and nowhere else."""
    done = judge(*SUITES, "twisted.test.test_threads")
    assert done.returncode == 0, done.stdout


def test_a_broken_reactor_does_not() -> None:
    """The tests are about the reactor that they are given: one that cannot listen is found out."""
    done = judge("--broken", "twisted.internet.test.test_tcp.TCPPortTestsBuilder_EPollReactorTests")
    assert done.returncode == 1, done.stdout
    assert "only under ours: twisted.internet.test.test_tcp" in done.stdout
    assert "this reactor is broken" in done.stdout
