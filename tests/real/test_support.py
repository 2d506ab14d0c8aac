"""What the other tests rely on: a status that they see is the one that the process ended with."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.docs_site import Site, gone
from tests.support.server import Server

FOREGROUND = "echo $$ > twistd.pid; echo 'socket tcp:127.0.0.1:1 open (pid 1)'; exit 71"


@pytest.fixture
def site() -> Iterator[Site]:
    """A directory, whose daemons are collected."""
    with Site() as site:
        yield site


@pytest.fixture
def ended(site: Site) -> Server:
    """A server that has ended by itself with 71, and has left its pid file."""
    server = site.server(FOREGROUND)
    server.start()
    assert gone(server.pid, 10)
    return server


def test_foreground_is_not_a_daemon(site: Site, ended: Server) -> None:
    """Who collects daemons leaves a server in the foreground alone, though it has a pid file."""
    assert (site.path / "twistd.pid").read_text() == f"{ended.pid}\n"
    site.collect()
    assert ended.wait() == 71


def test_a_status_that_another_caller_collected_is_unknown(ended: Server) -> None:
    """If somebody else has collected a server, its status is not known; it is not taken for a good one."""
    os.waitpid(ended.pid, 0)
    with pytest.raises(ChildProcessError):
        ended._reap()
