"""`graceful.testing`, as a site uses it: in a directory of its own, by the pytest and trial that are installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.server import PROGRAMS

SITE = """
import os
import time


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/slow":
        time.sleep(1.5)
    if path == "/until":
        until = time.monotonic() + 60
        while not os.path.exists(environ["QUERY_STRING"]) and time.monotonic() < until:
            time.sleep(0.01)
    if path == "/stuck":
        time.sleep(30)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""

WITH_PYTEST = """
import time

import pytest

from graceful.testing import LostRequest, Refused, StartFailed


def test_redeploy(app_server, tmp_path):
    server = app_server("site_under_test:application")
    slow = server.begin("GET", f"/until?{tmp_path}/go")
    server.arrived("/until")
    before = int(server.get("/").body)
    new = server.redeploy()
    assert int(server.get("/").body) == new != before

    def in_flight():
        return [exchange["path"].partition("?")[0] for exchange in server.in_flight()]

    # The last byte of an answer may be here before its thread has told the register.
    until = time.monotonic() + 10
    while in_flight() != ["/until"] and time.monotonic() < until:
        pass
    assert in_flight() == ["/until"]
    (tmp_path / "go").touch()
    assert int(slow.answer().body) == before
    assert server.lost == []


def test_stop(app_server):
    server = app_server("site_under_test:application")
    server.leave()
    assert server._client.request("GET", "/+haproxy").status == 503
    server.enter()
    assert server.get("/+haproxy").status == 200
    slow = server.begin("POST", "/slow", b"body", content_type="text/plain")
    server.arrived("/slow")
    server.sigterm()
    server.closed()
    with pytest.raises(Refused):
        server.get("/")
    assert slow.answer().status == 200
    assert server.gone() == 0
    assert [lost.why for lost in server.lost] == ["given up with 503"]  # that of the health


def test_what_is_lost_is_seen(app_server):
    server = app_server("site_under_test:application", "--deadline", "0")
    stuck = server.begin("GET", "/stuck")
    server.arrived("/stuck")
    server.sigterm()
    assert server.gone() != 0
    assert stuck.answer().status == 503
    assert [(lost.path, lost.why) for lost in server.lost] == [("/stuck", "given up with 503")]


def test_does_not_start(app_server):
    with pytest.raises(StartFailed, match="nowhere cannot be imported"):
        app_server("nowhere:application")
"""

WITH_TRIAL = """
from twisted.internet.defer import inlineCallbacks
from twisted.trial.unittest import TestCase

from graceful.testing import AppServerMixin, StartFailed


class SiteTests(AppServerMixin, TestCase):
    @inlineCallbacks
    def test_redeploy(self):
        server = yield self.serve("site_under_test:application")
        slow = server.get("/slow")
        yield server.arrived("/slow")
        before = int((yield server.get("/")).body)
        new = yield server.redeploy()
        self.assertEqual(int((yield server.get("/")).body), new)
        self.assertEqual(int((yield slow).body), before)
        server.sigterm()
        yield server.closed()
        self.assertEqual((yield server.gone()), 0)
        self.assertEqual(server.lost, [])

    def test_does_not_start(self):
        return self.assertFailure(self.serve("nowhere:application"), StartFailed)
"""


def run(directory: Path, *command: str) -> str:
    """Run tests in a directory, and return what is said."""
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_pytest_fixture_works_without_configuration(tmp_path: Path) -> None:
    """The fixture is there without being asked for, and does what the guide says."""
    (tmp_path / "site_under_test.py").write_text(SITE)
    (tmp_path / "test_site.py").write_text(WITH_PYTEST)
    assert "4 passed" in run(tmp_path, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_site.py")


def test_the_trial_mixin_leaves_nothing_in_the_reactor(tmp_path: Path) -> None:
    """So does the mixin; nothing is left in the reactor."""
    (tmp_path / "site_under_test.py").write_text(SITE)
    (tmp_path / "test_site.py").write_text(WITH_TRIAL)
    assert "PASSED (successes=2)" in run(tmp_path, str(PROGRAMS / "trial"), "test_site")
