"""A deploy, step by step: the order, the limits, and the state that each failure leaves."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from graceful.deploy.balancer import Found
from graceful.deploy.haproxy import ServerState
from graceful.deploy.host import ProcessError, Reply
from tests.fast.deploy.deploys import LocalHost, Rehearsal

BAD = Reply(500, "500 Internal Server Error")


def only(events: list[str], name: str) -> list[str]:
    """The events of one instance and its processes."""
    return [event for event in events if name in event or event.split()[0] in ("stop", "closed", "TERM", "KILL")]


class OrderTests(SynchronousTestCase):
    """The order of the steps."""

    def test_steps_follow_in_order(self) -> None:
        """Out, unchecked, told to stop, closed, started, healthy, good, checked again by HAProxy, in, good still."""
        rehearsal = Rehearsal(min_up=0, count=1)
        self.assertEqual(rehearsal.deploy()["result"], "deployed")
        self.assertEqual(
            rehearsal.machine.events,
            [
                "app/app1 drain",
                "app/app1 health off",
                "stop 101 quiet",
                "closed 101",
                "start app1",
                "http://app1/health",
                "http://app1/login",
                "app/app1 health on",
                "app/app1 ready",
                "http://app1/login",
            ],
        )

    def test_one_after_the_other(self) -> None:
        """The next instance is begun when the one before gets requests again."""
        rehearsal = Rehearsal()
        verdict = rehearsal.deploy()
        self.assertEqual([one["result"] for one in verdict["instances"]], ["deployed", "deployed"])
        events = rehearsal.machine.events
        self.assertLess(events.index("app/app1 ready"), events.index("app/app2 drain"))
        self.assertEqual([one["pid"] for one in verdict["instances"]], [103, 104])

    def test_started_while_the_old_one_goes_on(self) -> None:
        """The next one starts at `closed`, and is put in, while the old one finishes for an hour."""
        rehearsal = Rehearsal(count=1, min_up=0)
        rehearsal.olds["app1"].finishes_in = 3600.0
        rehearsal.olds["app1"].latest = 4000.0
        verdict = rehearsal.deploy()
        self.assertLess(verdict["instances"][0]["seconds"], 5)
        self.assertGreater(verdict["seconds"], 3600)
        self.assertEqual((verdict["result"], verdict["killed"], verdict["finished"]), ("deployed", 0, 1))

    def test_not_before_closed(self) -> None:
        """Nothing is started before the sockets are closed."""
        rehearsal = Rehearsal(count=1, min_up=0)
        rehearsal.olds["app1"].closes_in = 40.0
        rehearsal.deploy()
        events = rehearsal.machine.events
        self.assertLess(events.index("closed 101"), events.index("start app1"))

    def test_not_before_the_old_one_is_quiet(self) -> None:
        """HAProxy gets it back only when the old process has no idle connection left."""
        rehearsal = Rehearsal(count=1, min_up=0)
        old = rehearsal.olds["app1"]
        old.idle_for, old.finishes_in = 9.0, 100.0
        verdict = rehearsal.deploy()
        self.assertGreater(verdict["instances"][0]["seconds"], 9)
        self.assertLess(verdict["instances"][0]["seconds"], 12)

    def test_predecessors_are_waited_for_too(self) -> None:
        """A process that leaves since an earlier deploy may have idle connections too, and is told to stop."""
        rehearsal = Rehearsal(count=1, min_up=0)
        first = rehearsal.olds["app1"]
        first.finishes_in = 50.0
        first.leave()
        rehearsal.machine.process("app1")
        first.idle_for = 8.0
        verdict = rehearsal.deploy()
        self.assertGreater(verdict["instances"][0]["seconds"], 7)
        self.assertIn("stop 101 quiet", rehearsal.machine.events)
        self.assertEqual(len(verdict["instances"][0]["old"]), 2)

    def test_every_haproxy_and_backend(self) -> None:
        """Each step is done at all of them."""
        rehearsal = Rehearsal(count=1, haproxys=2, min_up=0)
        for haproxy in rehearsal.haproxys:
            haproxy.backends["api"] = {"one": ServerState("ready", True)}
        rehearsal.change(servers=(("app", "app1"), ("api", "one")))
        self.assertEqual(rehearsal.deploy()["result"], "deployed")
        events = rehearsal.machine.events
        stop, start = events.index("stop 101 quiet"), events.index("start app1")
        for name in ("app/app1 {}@0", "api/one {}@0", "app/app1 {}@1", "api/one {}@1"):
            self.assertLess(events.index(name.format("drain")), stop)
            self.assertGreater(events.index(name.format("ready")), start)

    def test_an_instance_that_is_down(self) -> None:
        """No process is told to stop; the new one is started, and HAProxy learns that it is up."""
        rehearsal = Rehearsal(count=1, min_up=0)
        rehearsal.olds["app1"].dead = True
        rehearsal.haproxy.change("app", "app1", running=False)
        rehearsal.machine.later(20.0, lambda: rehearsal.haproxy.change("app", "app1", running=True))
        self.assertEqual(rehearsal.deploy()["result"], "deployed")
        self.assertNotIn("stop 101 quiet", rehearsal.machine.events)
        self.assertIn("it is down already", rehearsal.machine.said("note")[0])


class BalancerTests(SynchronousTestCase):
    """HAProxy's state is not ours alone."""

    def test_refuses_when_too_few_others_are_up(self) -> None:
        """The rollout is refused when too few others are up, and nothing is touched."""
        rehearsal = Rehearsal()
        rehearsal.haproxy.change("app", "app2", running=False)
        verdict = rehearsal.deploy()
        self.assertEqual([one["result"] for one in verdict["instances"]], ["failed", "untouched"])
        self.assertIn("0 other servers are up in app, min_up is 1", verdict["instances"][0]["why"])
        self.assertEqual(rehearsal.machine.events, [])

    def test_min_up_counts_who_gets_requests(self) -> None:
        """A server in drain, in maint or without weight is not up."""
        for values in ({"state": "drain"}, {"state": "maint"}, {"weight": 0}):
            rehearsal = Rehearsal()
            rehearsal.haproxy.change("app", "app2", **values)
            self.assertEqual(rehearsal.deploy()["instances"][0]["result"], "failed", values)

    def test_left_as_it_was_found(self) -> None:
        """A server that an operator has taken out by hand stays out, with the new version behind it."""
        for state in ("maint", "drain"):
            rehearsal = Rehearsal(count=1)
            rehearsal.haproxy.change("app", "app1", state=state, checks=())
            self.assertEqual(rehearsal.deploy()["result"], "deployed")
            self.assertEqual(rehearsal.states(), [state])
            self.assertEqual(rehearsal.haproxy.backends["app"]["app1"].checks, ())

    def test_agent_check_is_off_while_out(self) -> None:
        """The agent check, which would put the server back within an interval, is off meanwhile."""
        rehearsal = Rehearsal(count=1, min_up=0)
        both = ("agent", "health")
        rehearsal.haproxy.change("app", "app1", configured=both, checks=both)
        rehearsal.deploy()
        events = rehearsal.machine.events
        self.assertLess(events.index("app/app1 agent off"), events.index("stop 101 quiet"))
        self.assertGreater(events.index("app/app1 agent on"), events.index("start app1"))

    def test_a_reload_forgets(self) -> None:
        """A server that is in again in mid-deploy is taken out again, and it is said."""
        rehearsal = Rehearsal(count=1, min_up=0)
        rehearsal.olds["app1"].closes_in = 30.0

        def reload() -> None:
            rehearsal.haproxy.change("app", "app1", state="ready", checks=("health",))
            rehearsal.machine.happened("reload")

        rehearsal.machine.later(10.0, reload)
        rehearsal.deploy()
        events = rehearsal.machine.events
        after = events[events.index("reload") + 1 :]
        self.assertEqual(after[:3], ["app/app1 drain", "app/app1 health off", "closed 101"])
        self.assertIn("app/app1 was back in the rotation, and is taken out again", rehearsal.machine.said("warning"))
        self.assertEqual(rehearsal.states(), ["ready"])

    def test_tied_clients_need_maint(self) -> None:
        """Clients that are tied to a server still come in drain, and not in maint."""
        rehearsal = Rehearsal(count=1, min_up=0)
        rehearsal.haproxy.cookie = "one"
        rehearsal.deploy()
        self.assertEqual(rehearsal.machine.events[0], "app/app1 maint")
        self.assertEqual(rehearsal.states(), ["ready"])

    def test_requests_that_still_come(self) -> None:
        """The server is set to maint if requests still come for another reason."""
        rehearsal = Rehearsal(count=1, min_up=0)
        rehearsal.haproxy.calm = False
        rehearsal.deploy()
        events = rehearsal.machine.events
        self.assertEqual(events[:4], ["app/app1 drain", "app/app1 health off", "app/app1 maint", "stop 101 quiet"])
        self.assertIn("requests still come", rehearsal.machine.said("note")[0])

    def test_haproxy_is_restarted(self) -> None:
        """HAProxy may be away for a while, at any step."""
        for when in (0.0, 0.1, 0.3, 1.0, 1.3):
            rehearsal = Rehearsal(count=1, min_up=0)

            def lose(rehearsal: Rehearsal = rehearsal, lost: bool = True) -> None:
                rehearsal.haproxy.lost = lost

            rehearsal.machine.later(when, lose)
            rehearsal.machine.later(when + 20.0, lambda lose=lose: lose(lost=False))  # type: ignore[misc]
            self.assertEqual(rehearsal.deploy()["result"], "deployed", when)
            self.assertEqual(rehearsal.states(), ["ready"])
            self.assertIn("it has 30 s to come back", rehearsal.machine.said("warning")[0])

    def test_server_without_weight_is_put_back_without(self) -> None:
        """A server without weight gets no requests, and is put back without."""
        rehearsal = Rehearsal(count=1, min_up=0)
        rehearsal.haproxy.change("app", "app1", weight=0)
        self.assertEqual(rehearsal.deploy()["result"], "deployed")

    def test_haproxy_is_lost(self) -> None:
        """If it does not come back the deploy fails; what must be put back is remembered."""
        rehearsal = Rehearsal(min_up=0)

        def lose() -> None:
            rehearsal.haproxy.lost = True

        rehearsal.machine.later(0.5, lose)
        verdict = rehearsal.deploy()
        self.assertEqual([one["result"] for one in verdict["instances"]], ["failed", "untouched"])
        self.assertIn("Connection refused", verdict["instances"][0]["why"])
        self.assertEqual(rehearsal.found_servers.recall("app1")["haproxy app/app1"], Found("ready", ("health",)))

    def test_lost_before_anything_was_stopped(self) -> None:
        """The old one was not touched: it is put back at once, if HAProxy will."""
        rehearsal = Rehearsal(count=1, min_up=0)

        def permission(control: str) -> Any:
            raise ProcessError("permission denied")

        rehearsal.machine.leaving = permission  # type: ignore[method-assign]
        self.assertEqual(rehearsal.deploy()["result"], "failed")
        self.assertEqual(rehearsal.states(), ["ready"])
        self.assertEqual(rehearsal.haproxy.backends["app"]["app1"].checks, ("health",))
        self.assertNotIn("stop 101 quiet", rehearsal.machine.events)
        self.assertEqual(rehearsal.found_servers.recall("app1"), {})

    def test_held_to_be_down(self) -> None:
        """A server that HAProxy cannot reach is taken out again, and the deploy fails."""
        rehearsal = Rehearsal(min_up=0)
        change = rehearsal.haproxy.change

        def down(backend: str, server: str, **values: Any) -> None:
            change(backend, server, **values)
            if values.get("state") == "ready":
                change(backend, server, running=False)

        rehearsal.haproxy.change = down  # type: ignore[method-assign]
        verdict = rehearsal.deploy()
        self.assertIn("HAProxy holds app/app1 to be DOWN", verdict["instances"][0]["why"])
        self.assertEqual(rehearsal.states(), ["drain", "ready"])

    def test_quiet_site_is_no_failure(self) -> None:
        """A quiet site has no traffic; that is noted, and is no failure."""
        rehearsal = Rehearsal(count=1, min_up=0)
        traffic = rehearsal.haproxy.traffic
        rehearsal.haproxy.traffic = lambda *where: evolve(traffic(*where), requests=3)  # type: ignore[method-assign]
        verdict = rehearsal.deploy()
        self.assertEqual(verdict["result"], "deployed")
        self.assertIn("no traffic seen at app/app1 in 2 s", rehearsal.machine.said("note"))

    def test_left_by_an_earlier_deploy(self) -> None:
        """The states that the interrupted deploy had found count, and its instance comes first."""
        rehearsal = Rehearsal()
        rehearsal.found_servers.remember("app2", {"haproxy app/app2": Found("ready", ("health",))})
        rehearsal.haproxy.change("app", "app2", state="drain", checks=())
        verdict = rehearsal.deploy()
        self.assertEqual([one["name"] for one in verdict["instances"]], ["app2", "app1"])
        self.assertEqual(verdict["result"], "deployed")
        self.assertEqual(rehearsal.states(), ["ready", "ready"])
        self.assertEqual(rehearsal.haproxy.backends["app"]["app2"].checks, ("health",))
        self.assertEqual(rehearsal.found_servers.recall("app2"), {})


class NewVersionTests(SynchronousTestCase):
    """A version that is no good."""

    def broken(self, rehearsal: Rehearsal) -> dict[str, Any]:
        """Deploy it; the rollout must stop there, and the other instance must not have been touched."""
        verdict = rehearsal.deploy()
        self.assertEqual([one["result"] for one in verdict["instances"]][1], "untouched")
        self.assertEqual(verdict["result"], "failed")
        self.assertEqual([event for event in rehearsal.machine.events if "app2" in event], [])
        return verdict["instances"][0]  # type: ignore[no-any-return]

    def test_failed_start_stays_out(self) -> None:
        """The server stays out, is checked as before, and the next deploy knows how it was found."""
        rehearsal = Rehearsal()
        rehearsal.machine.commands["start app1"] = lambda: 1
        one = self.broken(rehearsal)
        self.assertEqual((one["result"], one["why"]), ("failed", "start has ended with status 1: start app1"))
        self.assertEqual(rehearsal.states(), ["drain", "ready"])
        self.assertEqual(rehearsal.haproxy.backends["app"]["app1"].checks, ("health",))
        self.assertIn("haproxy app/app1", rehearsal.found_servers.recall("app1"))
        assert rehearsal.conductor is not None
        self.assertEqual(rehearsal.conductor.rollouts[0].lines, ["what it said"])
        rehearsal.machine.commands["start app1"] = rehearsal.machine.starts("app1")
        self.assertEqual(rehearsal.deploy()["result"], "deployed")
        self.assertEqual(rehearsal.states(), ["ready", "ready"])

    def test_shows_the_end_of_the_servers_log(self) -> None:
        """The end of its log says more than the command that has started it."""
        rehearsal = Rehearsal()
        rehearsal.change(log="/app.log")
        rehearsal.machine.commands["start app1"] = lambda: 1
        self.broken(rehearsal)
        assert rehearsal.conductor is not None
        self.assertEqual(rehearsal.conductor.rollouts[0].lines, ["the end of /app.log"])

    def test_start_returns_without_a_new_process(self) -> None:
        """`start` returns 0, as systemd's does for a unit that still stops, and there is no new process."""
        rehearsal = Rehearsal(start_within=45.0)
        rehearsal.machine.commands["start app1"] = lambda: 0
        one = self.broken(rehearsal)
        self.assertIn("start returned 0, but no new process serves at app1 after 45 s", one["why"])
        self.assertIn("systemctl reload", one["why"])
        self.assertApproximates(one["seconds"], 45.3, 1)

    def test_the_old_one_is_no_new_process(self) -> None:
        """A process that was there before does not count as new."""
        rehearsal = Rehearsal(min_up=0, takeover=True)
        rehearsal.machine.commands["start app1"] = lambda: 0
        one = self.broken(rehearsal)
        self.assertIn("no new process", one["why"])

    def test_start_runs_on_without_a_new_process(self) -> None:
        """`start` runs on, and no new process serves."""
        rehearsal = Rehearsal()
        rehearsal.machine.commands["start app1"] = lambda: None
        self.assertIn("start still runs, and no new process serves", self.broken(rehearsal)["why"])

    def test_health_has_as_long_as_the_start(self) -> None:
        """Health has as long as the start."""
        rehearsal = Rehearsal()
        rehearsal.machine.replies["http://app1/health"] = Reply(503, "503 Service Unavailable")
        one = self.broken(rehearsal)
        self.assertEqual(one["why"], "http://app1/health says 503 Service Unavailable")
        self.assertGreater(one["seconds"], 60)

    def test_it_ends_again(self) -> None:
        """A process that has served for a moment and is gone."""
        rehearsal = Rehearsal()
        rehearsal.machine.replies["http://app1/health"] = Reply(0, "Connection refused")

        def die() -> None:
            process = rehearsal.machine.serving_at["app1"]
            assert process is not None
            process.dead = True

        rehearsal.machine.later(2.0, die)
        one = self.broken(rehearsal)
        self.assertIn("has ended again", one["why"])
        self.assertLess(one["seconds"], 5)

    def test_check_fails_after_three_tries(self) -> None:
        """Health says nothing about the application; the check does, and it gets three tries."""
        rehearsal = Rehearsal()
        rehearsal.machine.replies["http://app1/login"] = BAD
        one = self.broken(rehearsal)
        self.assertEqual(one["why"], "http://app1/login says 500 Internal Server Error, expected 200")
        self.assertEqual(rehearsal.machine.events.count("http://app1/login"), 3)
        self.assertNotIn("app/app1 ready", rehearsal.machine.events)

    def test_check_warms_up(self) -> None:
        """A check that fails once is no failure."""
        rehearsal = Rehearsal()
        rehearsal.machine.replies["http://app1/login"] = BAD
        rehearsal.machine.later(1.8, rehearsal.machine.replies.clear)
        self.assertEqual(rehearsal.deploy()["result"], "deployed")

    def test_check_in_traffic(self) -> None:
        """A server that fails as soon as it gets requests is taken out again."""
        rehearsal = Rehearsal()
        set_state = rehearsal.haproxy.set_state

        def then_bad(backend: str, server: str, state: str) -> None:
            set_state(backend, server, state)
            if state == "ready":
                rehearsal.machine.replies[f"http://{server}/login"] = BAD

        rehearsal.haproxy.set_state = then_bad  # type: ignore[method-assign]
        self.broken(rehearsal)
        self.assertEqual(rehearsal.states(), ["drain", "ready"])

    def test_check_may_expect_another_status(self) -> None:
        """A check may expect another status than 200."""
        rehearsal = Rehearsal()
        rehearsal.change(expect=302)
        for name in ("app1", "app2"):
            rehearsal.machine.replies[f"http://{name}/login"] = Reply(302, "302 Found")
        self.assertEqual(rehearsal.deploy()["result"], "deployed")


class RollbackTests(SynchronousTestCase):
    """The version before."""

    def rehearsal(self, **plan: Any) -> Rehearsal:
        """A deploy of a version whose check fails, with a rollback."""
        rehearsal = Rehearsal(**plan)
        machine = rehearsal.machine
        machine.replies["http://app1/login"] = BAD
        rehearsal.change(rollback="roll back")

        def run() -> int:
            machine.replies.clear()
            machine.later(1.0, lambda: machine.process("app1"))
            return 0

        machine.commands["roll back"] = run
        return rehearsal

    def test_previous_version_serves_after_a_bad_one(self) -> None:
        """The previous version starts when the bad one has closed its sockets; the deploy has failed."""
        rehearsal = self.rehearsal()
        verdict = rehearsal.deploy()
        self.assertEqual(verdict["result"], "failed")
        one = verdict["instances"][0]
        self.assertEqual((one["result"], one["pid"]), ("rolled back", 104))
        self.assertIn("http://app1/login says 500", one["why"])
        events = rehearsal.machine.events
        self.assertEqual(events[events.index("stop 103 quiet") + 1 :][:2], ["closed 103", "roll back"])
        self.assertEqual(rehearsal.states(), ["ready", "ready"])
        self.assertEqual([old["pid"] for old in one["old"]], [101, 103])
        self.assertEqual(rehearsal.found_servers.recall("app1"), {})

    def test_rolls_back_when_there_is_nothing_to_stop(self) -> None:
        """A new version that never started has no process to stop."""
        rehearsal = self.rehearsal()
        rehearsal.machine.commands["start app1"] = lambda: 1
        self.assertEqual(rehearsal.deploy()["instances"][0]["result"], "rolled back")

    def test_stays_out_when_the_rollback_fails(self) -> None:
        """The instance stays out of the rotation."""
        rehearsal = self.rehearsal()
        rehearsal.machine.commands["roll back"] = lambda: 3
        verdict = rehearsal.deploy()
        self.assertEqual(verdict["instances"][0]["result"], "failed")
        self.assertEqual(
            rehearsal.machine.said("failed")[-1], "rollback: rollback has ended with status 3: roll back"
        )
        self.assertEqual(rehearsal.states(), ["drain", "ready"])
        self.assertIn("haproxy app/app1", rehearsal.found_servers.recall("app1"))

    def test_not_for_haproxys_faults(self) -> None:
        """A version is not rolled back because HAProxy is away."""
        rehearsal = self.rehearsal()
        rehearsal.machine.replies.clear()

        def lose() -> None:
            rehearsal.haproxy.lost = True

        rehearsal.machine.later(1.2, lose)
        rehearsal.machine.later(40.0, lambda: setattr(rehearsal.haproxy, "lost", False))
        self.assertEqual(rehearsal.deploy()["instances"][0]["result"], "failed")
        self.assertNotIn("roll back", rehearsal.machine.events)


class StuckTests(SynchronousTestCase):
    """Kill -9, as belt and braces."""

    def test_silent_control_gets_sigterm(self) -> None:
        """A server whose control does not answer gets SIGTERM, and is waited for."""
        rehearsal = Rehearsal(count=1, min_up=0)
        rehearsal.olds["app1"].silent = True
        rehearsal.machine.later(0.5, lambda: setattr(rehearsal.olds["app1"], "silent", True))
        rehearsal.olds["app1"].finishes_in = 20.0
        verdict = rehearsal.deploy()
        self.assertEqual(verdict["result"], "deployed")
        events = rehearsal.machine.events
        self.assertLess(events.index("TERM 101"), events.index("start app1"))

    def test_stuck_for_good(self) -> None:
        """A process that does not heed SIGTERM is killed after the default time, and only then the new one starts."""
        rehearsal = Rehearsal(count=1, min_up=0, margin=30.0)
        old = rehearsal.olds["app1"]
        old.silent, old.obeys = True, False
        verdict = rehearsal.deploy()
        events = rehearsal.machine.events
        self.assertLess(events.index("KILL 101"), events.index("start app1"))
        self.assertApproximates(verdict["instances"][0]["seconds"], 212 + 30 + 1.5, 1)
        self.assertEqual((verdict["result"], verdict["killed"]), ("deployed", 1))

    def test_kills_after_latest_exit_and_margin(self) -> None:
        """A server that does not end is killed after its latest exit and the margin, and its exchanges are listed."""
        rehearsal = Rehearsal(count=1, min_up=0, margin=10.0)
        old = rehearsal.olds["app1"]
        old.finishes_in, old.latest = None, 100.0
        verdict = rehearsal.deploy()
        self.assertEqual(rehearsal.machine.events[-1], "KILL 101")
        (one,) = verdict["instances"][0]["old"]
        self.assertTrue(one["killed"])
        self.assertEqual(one["lost"], [{"id": 7, "method": "GET", "path": "/slow", "age": 3.0, "peer": "192.0.2.7"}])
        self.assertApproximates(one["seconds"], 110, 1)
        self.assertEqual(verdict["result"], "deployed")

    def test_stopped_in_its_drain(self) -> None:
        """A process that falls silent has until the latest exit that it told last."""
        rehearsal = Rehearsal(count=1, min_up=0, margin=10.0)
        old = rehearsal.olds["app1"]
        old.finishes_in, old.latest = None, 100.0
        rehearsal.machine.later(20.0, lambda: setattr(old, "silent", True))
        (one,) = rehearsal.deploy()["instances"][0]["old"]
        self.assertApproximates(one["seconds"], 110, 1)

    def test_follows_a_deadline_that_moves(self) -> None:
        """A deadline that is moved meanwhile is followed."""
        rehearsal = Rehearsal(count=1, min_up=0, margin=10.0)
        old = rehearsal.olds["app1"]
        old.finishes_in, old.latest = 400.0, 100.0
        rehearsal.machine.later(90.0, lambda: setattr(old, "latest", 500.0))
        verdict = rehearsal.deploy()
        self.assertEqual((verdict["killed"], verdict["finished"]), (0, 1))

    def test_no_last_word_has_its_own_status(self) -> None:
        """A server that ends without a last word has a status of its own."""
        rehearsal = Rehearsal(count=1, min_up=0)
        old = rehearsal.olds["app1"]
        old.finishes_in = None
        rehearsal.machine.later(30.0, lambda: setattr(old, "dead", True))
        verdict = rehearsal.deploy()
        self.assertEqual(verdict["vanished"], 1)
        self.assertEqual(verdict["instances"][0]["old"][0]["exit_status"], 72)

    def test_may_not_kill(self) -> None:
        """A process that may not be killed is reported, and the deploy does not wait for it."""
        rehearsal = Rehearsal(count=1, min_up=0, margin=10.0)
        old = rehearsal.olds["app1"]
        old.finishes_in, old.latest = None, 100.0

        def refuse() -> None:
            raise ProcessError("may not send SIGKILL to process 101")

        old.kill = refuse  # type: ignore[method-assign]
        verdict = rehearsal.deploy()
        self.assertEqual(rehearsal.machine.said("warning"), ["may not send SIGKILL to process 101"])
        self.assertEqual(verdict["still_leaving"], 1)


class TakeoverTests(SynchronousTestCase):
    """Without HAProxy: start, took over, the old one leaves, gone."""

    def rehearsal(self) -> Rehearsal:
        """Instances whose start takes over."""
        rehearsal = Rehearsal(takeover=True, min_up=0)

        def takes_over(name: str) -> None:
            machine: LocalHost = rehearsal.machine
            old = machine.serving_at[name]
            assert old is not None
            old.finishes_in = 30.0
            old.leave()
            machine.process(name)

        for name in ("app1", "app2"):
            rehearsal.machine.commands[f"start {name}"] = lambda name=name: (  # type: ignore[misc]
                rehearsal.machine.later(1.0, lambda: takes_over(name)) or 0
            )
        return rehearsal

    def test_takeover_tells_no_process_to_stop(self) -> None:
        """No process is told to stop; the old ones are followed to their end."""
        rehearsal = self.rehearsal()
        verdict = rehearsal.deploy()
        self.assertEqual((verdict["result"], verdict["finished"]), ("deployed", 2))
        self.assertEqual([event for event in rehearsal.machine.events if "stop" in event], [])
        self.assertEqual(len(rehearsal.machine.said("took over")), 2)

    def test_old_process_serves_on_when_the_start_fails(self) -> None:
        """The old process serves on."""
        rehearsal = self.rehearsal()
        rehearsal.machine.commands["start app1"] = lambda: 1
        verdict = rehearsal.deploy()
        self.assertEqual([one["result"] for one in verdict["instances"]], ["failed", "untouched"])
        self.assertEqual(rehearsal.olds["app1"].state, "serving")

    def test_start_without_takeover_fails(self) -> None:
        """A command that starts a second one beside the first is no takeover."""
        rehearsal = self.rehearsal()

        def beside() -> int:
            old = rehearsal.machine.serving_at.pop("app1")
            assert old is not None
            rehearsal.machine.process("app1")
            return 0

        rehearsal.machine.commands["start app1"] = beside
        verdict = rehearsal.deploy()
        self.assertIn("does `start` have --takeover?", verdict["instances"][0]["why"])
