"""`graceful deploy` with a real HAProxy: instances are replaced under all kinds of clients, and nobody notices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.docs_site import Site
from tests.support.fleet import Fleet, check_replaced, events_of
from tests.support.load import Load

QUICK = ("--idle-grace", "1", "--deadline", "20")
#: `bench/deploys.py` has as many as one likes.
ROUNDS = 3


@pytest.fixture
def site() -> Iterator[Site]:
    """A directory with a site in it."""
    with Site() as site:
        yield site


def test_deploys_under_load_replace_all_and_lose_nothing(site: Site) -> None:
    """Deploy after deploy, every process is replaced, and not a single request is lost or refused.

    HAProxy would cut whatever a server finishes that it holds to be down; and it never does.
    """
    with Fleet(site, 2, QUICK, server="on-marked-down shutdown-sessions") as fleet:
        with Load(fleet.balancer.port) as load:
            for _ in range(ROUNDS):
                before = fleet.pids()
                check_replaced(fleet, before, events_of(fleet.deploy("--json", "--strict"))[-1])
            load.mark()
            load.stop().check()
        assert len((site.path / "deploy.history").read_text().splitlines()) == ROUNDS


def test_five_instances_two_at_once_lose_nothing(site: Site) -> None:
    """Five instances, two at once, each connection of HAProxy belonging to one client."""
    with Fleet(site, 5, QUICK, lines="http-reuse never") as fleet, Load(fleet.balancer.port) as load:
        fleet.plan("parallel = 2\nmin_up = 3")
        load.mark()
        before = fleet.pids()
        check_replaced(fleet, before, events_of(fleet.deploy("--json"))[-1])
        load.mark()
        load.stop().check()
