"""The long run in its short form: each event at least once, and nothing lost.  `make soak` takes twenty minutes."""

from __future__ import annotations

import os

import pytest

from tests.support.home import Home
from tests.support.soak import Soak


def test_deploys_kills_and_limits_cost_no_request(home: Home) -> None:
    """A SIGHUP, a killed worker of a deploy, a pids limit, a pause and a takeover, under five kinds of clients."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    soak = Soak()
    soak.run(home, 15.0, 3.0)
    soak.check()
