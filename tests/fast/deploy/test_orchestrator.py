"""A whole deploy: which instance is next, how many at once, and how it is ended early."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.deploy.balancer import Found
from graceful.deploy.dry_run import preview
from graceful.deploy.journal import Journal, JournalError, unfinished
from graceful.deploy.orchestrator import interrupted_something
from graceful.deploy.plan import Plan, PlannedInstance
from graceful.deploy.progress import Lines, ProgressEvents, verdict_lines
from tests.fast.deploy.deploys import MemoryCommand, Rehearsal


class ParallelTests(SynchronousTestCase):
    """Several at once."""

    def fewest_up(self, **plan: Any) -> tuple[int, dict[str, Any]]:
        """Deploy five instances; how many were up when fewest were."""
        rehearsal = Rehearsal(count=5, **plan)
        fewest = 5
        sleep = rehearsal.machine.sleep

        def count(seconds: float) -> None:
            nonlocal fewest
            fewest = min(fewest, rehearsal.states().count("ready"))
            sleep(seconds)

        rehearsal.machine.sleep = count  # type: ignore[method-assign]
        verdict = rehearsal.deploy()
        return fewest, verdict

    def test_one_at_a_time_keeps_four_of_five_up(self) -> None:
        """With one instance at a time, four of five are always up."""
        fewest, verdict = self.fewest_up()
        self.assertEqual((fewest, verdict["result"]), (4, "deployed"))

    def test_two_at_once_keep_three_of_five_up(self) -> None:
        """Two at once are faster, and three are always up."""
        slow = self.fewest_up()[1]["seconds"]
        fewest, verdict = self.fewest_up(parallel=2)
        self.assertEqual((fewest, verdict["result"]), (3, "deployed"))
        self.assertLess(verdict["seconds"], slow * 0.8)

    def test_min_up_is_kept(self) -> None:
        """All at once, but two others must be up: the other instances wait, and none waits for ever."""
        fewest, verdict = self.fewest_up(parallel=5, min_up=2)
        self.assertEqual((fewest, verdict["result"]), (2, "deployed"))

    def test_a_failure_ends_what_is_under_way(self) -> None:
        """Others that are under way are brought to their end; nothing else is begun."""
        rehearsal = Rehearsal(count=5, parallel=2)
        rehearsal.machine.commands["start app1"] = lambda: 1
        verdict = rehearsal.deploy()
        results = [one["result"] for one in verdict["instances"]]
        self.assertEqual(results, ["failed", "deployed", "untouched", "untouched", "untouched"])
        self.assertEqual(rehearsal.states(), ["drain", "ready", "ready", "ready", "ready"])


class EarlyEndTests(SynchronousTestCase):
    """Ctrl-C, and a version that is bad before anything was touched."""

    def interrupt(self, *moments: float) -> tuple[Rehearsal, dict[str, Any]]:
        """Deploy three instances; the start takes three seconds."""
        rehearsal = Rehearsal(count=3)
        for name in ("app1", "app2", "app3"):
            rehearsal.machine.commands[f"start {name}"] = rehearsal.machine.starts(name, 3.0)
        conductor = rehearsal.conduct()

        def interrupt() -> None:
            conductor.interrupted += 1

        for moment in moments:
            rehearsal.machine.later(moment, interrupt)
        return rehearsal, conductor.run()

    def test_first_interrupt_finishes_what_is_under_way(self) -> None:
        """Rollouts under way are brought to their end; no other is begun."""
        rehearsal, verdict = self.interrupt(1.0)
        self.assertEqual([one["result"] for one in verdict["instances"]], ["deployed", "untouched", "untouched"])
        self.assertEqual(verdict["result"], "interrupted")
        self.assertEqual(rehearsal.states(), ["ready", "ready", "ready"])

    def test_second_interrupt_leaves_everything_where_it_is(self) -> None:
        """Everything is left where it is, the log tells where, and the next deploy begins with it."""
        rehearsal, verdict = self.interrupt(1.0, 1.5)
        self.assertEqual([one["result"] for one in verdict["instances"]], ["interrupted", "untouched", "untouched"])
        self.assertEqual((verdict["instances"][0]["step"], verdict["result"]), ("start", "interrupted"))
        self.assertEqual(rehearsal.states(), ["drain", "ready", "ready"])
        (said,) = rehearsal.machine.said("interrupted")
        self.assertIn("left in step 'start', out of the rotation; run the command again", said)
        rehearsal.machine.sleep(5.0)
        self.assertEqual(rehearsal.deploy()["result"], "deployed")
        self.assertEqual(rehearsal.states(), ["ready", "ready", "ready"])

    def test_while_old_ones_finish(self) -> None:
        """Old processes go on without the deploy, and the verdict says so."""
        rehearsal = Rehearsal(count=1, min_up=0)
        rehearsal.olds["app1"].finishes_in = 100.0
        conductor = rehearsal.conduct()
        rehearsal.machine.later(50.0, lambda: setattr(conductor, "interrupted", 2))
        verdict = conductor.run()
        self.assertEqual((verdict["result"], verdict["still_leaving"]), ("deployed", 1))
        self.assertApproximates(verdict["seconds"], 50, 1)

    def test_failing_before_command_touches_nothing(self) -> None:
        """A version that cannot be imported touches nothing."""
        rehearsal = Rehearsal(before="check it")
        rehearsal.machine.commands["check it"] = lambda: 1
        verdict = rehearsal.deploy()
        self.assertEqual(verdict["result"], "failed")
        self.assertIn("`before` has ended with status 1, nothing was touched", verdict["why"])
        self.assertEqual(rehearsal.machine.events, ["check it"])
        rehearsal.machine.commands["check it"] = lambda: 0
        self.assertEqual(rehearsal.deploy()["result"], "deployed")

    def test_before_is_interrupted(self) -> None:
        """The second Ctrl-C does not wait for it."""
        rehearsal = Rehearsal(before="check it")
        rehearsal.machine.run = lambda command, name: MemoryCommand(None)  # type: ignore[method-assign]
        conductor = rehearsal.conduct()
        rehearsal.machine.later(1.0, lambda: setattr(conductor, "interrupted", 2))
        self.assertEqual(conductor.run()["why"], "interrupted; nothing was touched")


class PreviewTests(SynchronousTestCase):
    """The preview: what would be done, and what would stop it."""

    def test_preview_touches_nothing(self) -> None:
        """The preview shows how everything is and what would be done, and touches nothing."""
        rehearsal = Rehearsal(before="check it")
        lines, problems = preview(rehearsal.plan, rehearsal.machine, rehearsal.haproxys)
        self.assertEqual(problems, [])
        text = "\n".join(lines)
        for part in (
            "before: check it",
            "app/app1 is ready, UP, 1 others up",
            "process 101 is serving",
            "start app2",
        ):
            self.assertIn(part, text)
        self.assertEqual(rehearsal.machine.events, [])

    def test_finds_a_read_only_stats_socket(self) -> None:
        """A stats socket that only permits reading is found before anything is touched."""
        rehearsal = Rehearsal()
        rehearsal.haproxy.level = lambda: "operator"  # type: ignore[method-assign]
        _, problems = preview(rehearsal.plan, rehearsal.machine, rehearsal.haproxys)
        self.assertEqual(problems, ["HAProxy at haproxy: its stats socket is of level operator, needs admin"])

    def test_finds_a_server_that_haproxy_does_not_know(self) -> None:
        """A server or a backend that HAProxy does not know is found before anything is touched."""
        for servers, said in (((("app", "web1"),), "no server app/web1"), ((("www", "app1"),), "Can't find backend")):
            rehearsal = Rehearsal(count=1)
            rehearsal.change(servers=servers)
            _, problems = preview(rehearsal.plan, rehearsal.machine, rehearsal.haproxys)
            self.assertIn(said, problems[0])


class JournalTests(SynchronousTestCase):
    """The records that outlive a deploy."""

    def setUp(self) -> None:
        """Have a directory for records."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        path = os.path.join(self.directory, "deploy.toml")
        self.plan = Plan(path, (PlannedInstance("app1", "app1.sock", "start"),), records=self.directory)

    def journal(self) -> Journal:
        """A deploy's."""
        journal = Journal(self.plan)
        self.addCleanup(journal.close)
        return journal

    def test_refuses_a_second_deploy(self) -> None:
        """A second deploy is refused, with the process of the first; the lock ends with the first."""
        first = self.journal()
        error = self.assertRaises(JournalError, Journal, self.plan)
        self.assertIn(f"another deploy of {self.plan.path} is under way: process {os.getpid()}", str(error))
        first.close()
        self.journal()

    def test_what_was_found(self) -> None:
        """The record is there for the next deploy until everything is put back."""
        found = {"haproxy app/app1": Found("maint", ("agent", "health"))}
        first = self.journal()
        first.remember("app1", found)
        first.close()
        self.assertEqual(unfinished(self.plan), {"app1": found})
        second = self.journal()
        self.assertEqual(second.recall("app1"), found)
        second.forget("app1")
        self.assertEqual(unfinished(self.plan), {})
        self.assertEqual(sorted(os.listdir(self.directory)), ["deploy.lock"])

    def test_rejects_a_broken_state_file(self) -> None:
        """A broken state file is an error, and is not used."""
        with open(self.plan.record("state"), "w") as file:
            file.write('{"found": {"app1": 5}}')
        self.assertIn("cannot be read", str(self.assertRaises(JournalError, unfinished, self.plan)))

    def test_names_a_directory_that_cannot_be_written(self) -> None:
        """A directory that cannot be written to is said, with what to do."""
        plan = Plan(self.plan.path, self.plan.instances, records=os.path.join(self.directory, "nowhere"))
        self.assertIn("`records` in the file", str(self.assertRaises(JournalError, Journal, plan)))

    def test_history_has_a_line_for_each_deploy(self) -> None:
        """One line of JSON for each deploy."""
        journal = self.journal()
        for number in range(2):
            journal.append({"number": number})
        with open(self.plan.record("history")) as file:
            self.assertEqual([json.loads(line)["number"] for line in file], [0, 1])


class VerdictTests(SynchronousTestCase):
    """The texts of a verdict."""

    def test_verdict_has_a_line_for_each_instance(self) -> None:
        """In a line for the deploy and one for each instance."""
        verdict = Rehearsal().deploy()
        self.assertFalse(interrupted_something(verdict))
        lines = verdict_lines(verdict)
        self.assertRegex(lines[0], r"^deployed in \d+\.\d s: 2 finished, 0 taken down, 0 killed$")
        self.assertRegex(lines[1], r"^  app1  deployed in \d+\.\d s, process 103$")
        self.assertEqual(len(lines), 3)

    def test_strict_counts_taken_down_killed_and_vanished(self) -> None:
        """Exchanges taken down, and processes killed or vanished, are named, and count for `--strict`."""
        rehearsal = Rehearsal(count=3, margin=1.0)
        rehearsal.olds["app1"].taken_down = 2
        rehearsal.olds["app2"].finishes_in = None
        third = rehearsal.olds["app3"]
        third.finishes_in = None
        rehearsal.machine.later(60.0, lambda: setattr(third, "dead", True))
        verdict = rehearsal.deploy()
        self.assertTrue(interrupted_something(verdict))
        text = "\n".join(verdict_lines(verdict))
        self.assertIn("2 taken down, 1 killed, 1 ended without a last word", text)
        self.assertIn("process 101 had 2 taken down, 0 threads abandoned, reports OOPS-1 OOPS-2", text)
        self.assertIn("process 102 was killed, in flight: exchange 7 GET /slow, 3.0 s old", text)
        self.assertIn("process 103 has ended without a last word", text)

    def test_failed_verdict_has_the_reason(self) -> None:
        """The verdict of a failed deploy has the reason, and the instances that were not touched."""
        rehearsal = Rehearsal()
        rehearsal.machine.commands["start app1"] = lambda: 1
        lines = verdict_lines(rehearsal.deploy())
        self.assertTrue(lines[0].startswith("FAILED"))
        self.assertIn("start has ended with status 1", lines[1])
        self.assertIn("app2  untouched", lines[2])

    def test_json_events_end_with_the_verdict(self) -> None:
        """Each event is an object in a line; the verdict is the last."""
        out = io.StringIO()
        events = ProgressEvents(out)
        events.tell("app1", "drain", "out of the rotation", pid=5)
        events.verdict(Rehearsal().deploy())
        first, last = map(json.loads, out.getvalue().splitlines())
        self.assertEqual((first["instance"], first["step"], first["pid"]), ("app1", "drain", 5))
        self.assertEqual((last["step"], last["result"], last["instance"]), ("verdict", "deployed", None))

    def test_deploy_goes_on_without_its_terminal(self) -> None:
        """A deploy goes on when its terminal, or the reader of its output, is gone."""
        for kind in (ProgressEvents, lambda out: Lines(out, 4)):
            reading, writing = os.pipe()
            os.close(reading)
            with os.fdopen(writing, "w") as out:
                progress = kind(out)
                for _ in range(3):
                    progress.tell("app1", "drain", "out of the rotation")

    def test_plain_lines_show_the_end_of_a_log(self) -> None:
        """Plain lines, with the end of a log below what has failed."""
        out = io.StringIO()
        Lines(out, 4).tell("app1", "failed", "start has ended", log=["ImportError"])
        first, second = out.getvalue().splitlines()
        self.assertRegex(first, r"^    0\.0 s  app1  failed        start has ended$")
        self.assertRegex(second, r"^ +\| ImportError$")
