"""`graceful deploy` with a real HAProxy: instances are replaced under all kinds of clients, and nobody notices."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.docs_site import Site
from support.fleet import Fleet
from support.load import Load

QUICK = ("--idle-grace", "1", "--deadline", "20")


@pytest.fixture
def site() -> Iterator[Site]:
    """A directory with a site in it."""
    with Site() as site:
        yield site


def test_deploys_under_load(site: Site) -> None:
    """Deploy after deploy, every process is replaced, and not a single request is lost or refused."""
    with Fleet(site, 2, QUICK) as fleet, Load(fleet.balancer.port) as load:
        for number in range(2):
            load.mark()
            before = fleet.pids()
            fleet.version(str(number + 2))
            said = fleet.deploy("--json")
            after = fleet.pids()
            print(said)
            assert after.keys() == before.keys()
            assert not set(after.values()) & set(before.values())
            verdict = json.loads(said.splitlines()[-1])
            assert verdict["step"] == "verdict"
            assert (verdict["result"], verdict["taken_down"], verdict["killed"]) == ("deployed", 0, 0)
        load.mark()
        load.stop().check()
        assert set(fleet.balancer.states().values()) == {"ready"}
