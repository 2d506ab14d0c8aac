"""`graceful deploy` with a real HAProxy: what it does in each case, and what it leaves behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.clients import Connection, request
from tests.support.docs_site import Site, gone
from tests.support.fleet import Fleet, events_of
from tests.support.load import Load
from tests.support.processes import pause
from tests.support.server import PROGRAMS
from tests.support.waiting import wait_for

QUICK = ("--idle-grace", "1", "--deadline", "20")


@pytest.fixture
def site() -> Iterator[Site]:
    """A directory with a site in it."""
    with Site() as site:
        yield site


def test_new_code_answers(site: Site) -> None:
    """Once an instance is in again, no request reaches the old code, on whatever connection HAProxy has.

    It goes on all the while, with a request that takes its time; and idle connections would be kept for as long.
    """
    with Fleet(site, 1, ["--idle-grace", "30"]) as fleet:
        fleet.plan("min_up = 0\nmargin = 1")
        with (
            Connection(fleet.balancer.port) as slow,
            Connection(fleet.balancer.port) as first,
            Connection(fleet.balancer.port) as second,
        ):
            slow.send(request("/sleep?seconds=8"))
            for connection in (first, second):
                connection.send(request("/login"))
                assert connection.answer().body == b"1"
            fleet.version("2")
            with fleet.deploying() as deploy:
                deploy.until("ready")
                for connection in (first, second) * 8:
                    connection.send(request("/login"))
                    assert connection.answer().body == b"2"
                assert slow.answer().body == b"slept"
                verdict = deploy.verdict()
                assert verdict["finished"] >= 1
        assert verdict["instances"][0]["old"][0]["exit_status"] == 0


def test_a_broken_version_is_rolled_back_and_nothing_is_lost(site: Site) -> None:
    """A version that cannot be imported is rolled back, and one whose check fails; nothing is lost."""
    with Fleet(site, 2, QUICK) as fleet:
        good = (site.path / "mysite" / "wsgi.py").read_text()
        site.write("good.py", good)
        roll_back = 'rollback = "cp good.py mysite/wsgi.py; ./start {name} {port}"\nlog = "{name}.log"'
        fleet.plan(instance=roll_back)
        with Load(fleet.balancer.port) as load:
            load.mark()
            before = fleet.pids()
            for extra, login, why in (
                ("\nimport nowhere\n", "200 OK", "start has ended with status 1"),
                ("", "500 Oops", "/login says 500 Oops"),
            ):
                fleet.version("2", login, extra)
                *events, verdict = events_of(fleet.deploy("--json", status=1))
                first, second = verdict["instances"]
                assert (first["result"], second["result"]) == ("rolled back", "untouched")
                assert why in first["why"]
                if extra:
                    (failed,) = (event for event in events if event["step"] == "failed")
                    assert "nowhere" in "".join(failed["log"])
            load.mark()
            load.stop().check()
        after = fleet.pids()
        assert after["app2"] == before["app2"]
        assert set(fleet.balancer.states().values()) == {"ready"}
        assert not (site.path / "deploy.state").exists()


def test_without_a_rollback_a_broken_instance_stays_out(site: Site) -> None:
    """Without a rollback it stays out; `before` would have found it; the next deploy puts it back."""
    with Fleet(site, 2, QUICK) as fleet:
        fleet.version("2", extra="\nimport nowhere\n")
        fleet.plan('before = "twistd graceful-app --check --listen tcp:0 mysite.wsgi"')
        before = fleet.pids()
        said = fleet.deploy(status=1)
        assert "`before` has ended with status 1, nothing was touched" in said
        assert "nowhere" in said
        assert fleet.pids() == before
        fleet.plan("start_within = 20")
        assert "stays out of the rotation: app/app1" in fleet.deploy(status=1)
        assert fleet.balancer.states() == {"app1": "drain", "app2": "ready"}
        fleet.version("3")
        said = fleet.deploy()
        assert "an earlier deploy has left it in drain" in said
        assert "it is down already" in said
        assert fleet.balancer.states() == {"app1": "ready", "app2": "ready"}
        assert fleet.balancer.runtime.servers("app")["app1"].checks == ("health",)


def test_a_process_that_outlives_its_latest_exit_is_killed(site: Site) -> None:
    """A process that does not end by itself is killed after its latest exit, and the verdict names what it had."""
    with Fleet(site, 1, ["--deadline", "2"]) as fleet:
        fleet.plan("min_up = 0\nmargin = 0.5")
        (old,) = fleet.pids().values()
        with Connection(fleet.balancer.port, timeout=30) as stuck:
            stuck.send(request("/sleep?seconds=60"))
            wait_for(lambda: (fleet.status("app1") or {}).get("in_flight_count") == 1)
            with fleet.deploying() as deploy:
                deploy.until("closed")
                pause(old)
                verdict = deploy.verdict()
        assert (verdict["result"], verdict["killed"]) == ("deployed", 1)
        ((one,),) = (instance["old"] for instance in verdict["instances"])
        assert (one["pid"], one["killed"]) == (old, True)
        assert [lost["path"] for lost in one["lost"]] == ["/sleep"]
        assert one["seconds"] > 14
        assert fleet.pids().keys() == {"app1"}


def test_a_takedown_is_counted_and_no_failure_of_the_deploy(site: Site) -> None:
    """What was still running at the deadline is no failure of the deploy, but is counted, and its report is named."""
    with Fleet(site, 1, ["--deadline", "0.5"]) as fleet:
        fleet.plan("min_up = 0")
        with Connection(fleet.balancer.port, timeout=30) as long:
            long.send(request("/sleep?seconds=60"))
            wait_for(lambda: (fleet.status("app1") or {}).get("in_flight_count") == 1)
            verdict = events_of(fleet.deploy("--json", "--strict", status=3))[-1]
            assert long.answer().status == 503
        assert (verdict["result"], verdict["taken_down"], verdict["killed"]) == ("deployed", 1, 0)
        ((old,),) = (instance["old"] for instance in verdict["instances"])
        (report,) = old["reports"]
        assert report in (site.path / "app1.log").read_text()


def test_a_restarted_haproxy_is_told_again_in_mid_deploy(site: Site) -> None:
    """HAProxy forgets everything in mid-deploy: the instance is taken out again, and put back in the end."""
    with Fleet(site, 2, QUICK) as fleet:
        go = site.path / "go"
        fleet.start_with(before="while [ ! -e go ]; do sleep 0.05; done")
        with fleet.deploying() as deploy:
            deploy.until("start")
            fleet.balancer.kill()
            deploy.until("warning")
            fleet.balancer.start(wait=False)
            while "taken out again" not in deploy.until("warning")["text"]:
                pass
            assert fleet.balancer.states()["app1"] == "drain"
            go.touch()
            assert deploy.verdict()["result"] == "deployed"
        assert fleet.balancer.states() == {"app1": "ready", "app2": "ready"}


def test_an_interrupted_deploy_is_finished_by_the_next_one(site: Site) -> None:
    """A second deploy is refused; one that is ended early, or killed, says where it is; the next one goes on."""
    with Fleet(site, 2, QUICK) as fleet:
        started = site.path / "started"
        fleet.start_with(before="touch started; while [ ! -e go ]; do sleep 0.05; done")
        with fleet.deploying() as deploy:
            deploy.until("start")
            assert f"is under way: process {deploy.process.pid}" in fleet.deploy(status=1)
            deploy.process.send_signal(signal.SIGINT)
            deploy.until("interrupted")
            deploy.process.send_signal(signal.SIGINT)
            verdict = deploy.verdict(status=1)
            assert verdict["result"] == "interrupted"
            assert [one["result"] for one in verdict["instances"]] == ["interrupted", "untouched"]
        assert fleet.balancer.states() == {"app1": "drain", "app2": "ready"}
        # What it has started comes up without it.
        (site.path / "go").touch()
        wait_for(lambda: fleet.status("app1") is not None, 30)
        (site.path / "go").unlink()
        started.unlink()
        with fleet.deploying() as deploy:
            wait_for(started.exists, 30)
            deploy.process.kill()
        assert fleet.balancer.states() == {"app1": "drain", "app2": "ready"}
        (site.path / "go").touch()
        wait_for(lambda: fleet.status("app1") is not None, 30)
        said = fleet.deploy()
        assert "an earlier deploy has left it in drain: " in said
        assert fleet.balancer.states() == {"app1": "ready", "app2": "ready"}
        assert fleet.balancer.runtime.servers("app")["app1"].checks == ("health",)


def test_a_deploy_by_takeover_loses_no_request(site: Site) -> None:
    """Without HAProxy, the next process takes the sockets over: no request of any kind is lost or refused."""
    with Fleet(site, 1, QUICK) as fleet:
        fleet.plan(haproxy=False)
        fleet.start_with("--takeover")
        with Load(fleet.ports["app1"]) as load:
            for _ in range(2):
                load.mark()
                (before,) = fleet.pids().values()
                verdict = events_of(fleet.deploy("--json"))[-1]
                assert (verdict["result"], verdict["taken_down"]) == ("deployed", 0)
                assert verdict["instances"][0]["old"][0]["pid"] == before
                assert gone(before, 1)
            load.mark()
            load.stop().check()


def test_the_end_of_the_terminal_changes_nothing_under_nohup(site: Site) -> None:
    """Under nohup(1), the end of the terminal changes nothing."""
    with Fleet(site, 2, QUICK):
        script = "nohup graceful deploy deploy.toml --json > said & until grep -q closed said; do sleep 0.05; done"
        site.shell(f"{script}; kill -HUP $!; wait $!")
        assert events_of((site.path / "said").read_text())[-1]["result"] == "deployed"


def test_the_old_process_serves_on_if_no_new_one_comes_up(site: Site) -> None:
    """Where nothing new comes up, the old one serves on, and the reason is said."""
    with Fleet(site, 1, QUICK) as fleet:
        fleet.plan("start_within = 2", haproxy=False)
        before = fleet.pids()
        fleet.start_with(before="exit 0")
        assert "start returned 0, but no new process serves" in fleet.deploy(status=1)
        assert fleet.pids() == before


def test_a_dry_run_changes_nothing(site: Site) -> None:
    """It says what would be done, and nothing is."""
    with Fleet(site, 2, QUICK) as fleet:
        before = fleet.pids()
        said = fleet.deploy("--dry-run")
        for part in (
            "now app/app1 is ready, UP, 1 others up",
            f"now process {before['app2']} is serving",
            "1. take it",
        ):
            assert part in said
        assert fleet.pids() == before
        fleet.balancer.kill()
        assert "HAProxy at" in fleet.deploy("--dry-run", status=1)
        assert "HAProxy at" in fleet.deploy(status=1)
        assert fleet.pids() == before


def test_in_a_terminal(site: Site) -> None:
    """There is a live picture, and the verdict stays."""
    with Fleet(site, 1, QUICK) as fleet:
        fleet.plan("min_up = 0")
        command = f"script -qec '{PROGRAMS}/graceful deploy deploy.toml' /dev/null"
        said = site.shell(command)
        assert "\x1b[" in said
        assert "deployed in" in said
        assert fleet.pids()
