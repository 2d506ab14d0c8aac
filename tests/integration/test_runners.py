"""Trial's TestCases of the library pass by both of their runners: trial, and pytest without pytest-twisted.

Trial runs all of them, pytest three, since each of them starts servers.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


TRIAL = ("twisted.trial", "--temp-directory={}/trial", "tests.integration.test_trial")
PYTEST = ("pytest", "-q", "-p", "no:twisted", "-p", "no:cacheprovider", "tests/integration/test_trial.py")
SOME = ("-k", "test_a_form_is_answered or test_redeploy or test_what_is_not_read")


@pytest.mark.parametrize(
    ("command", "said"),
    [(TRIAL, r"PASSED \(successes=9\)"), ((*PYTEST, *SOME), "3 passed")],
    ids=["trial", "pytest"],
)
def test_each_runner_passes_and_leaves_nothing_in_the_reactor(
    command: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """The tests pass, and leave nothing in the reactor."""
    done = subprocess.run(
        [sys.executable, "-m", *(word.format(tmp_path) for word in command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(said, done.stdout), done.stdout
