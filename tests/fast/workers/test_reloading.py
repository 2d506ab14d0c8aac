"""A change of files is a deploy, and while the new code cannot be imported the former shows why."""

from __future__ import annotations

from typing import Any, cast

from graceful.workers.reloading import Reloading
from graceful.workers.rolling_restart import RollingRestart
from tests.fast.workers.test_rolling_restart import Paths
from tests.fast.workers.workforce import OLD, Workforce


class ReloadingTests(Workforce):
    """One worker, whose files change."""

    count = 1

    def setUp(self) -> None:
        """Have it accept."""
        super().setUp()
        (self.worker,) = self.open()
        roll = RollingRestart(self.pool, cast(Any, Paths()), OLD, lambda: None, self.deploy_ended)
        self.reloading = Reloading(self.pool, roll)
        self.lines()

    def files_changed(self, files: list[str]) -> None:
        """Pass on what a worker says."""
        self.reloading.changed(files)

    def worker_ended(self, worker: Any) -> None:
        """Pass on that a worker has ended."""
        self.reloading.worker_ended(worker)

    def deploy_ended(self, why: str | None) -> None:
        """Pass on that a deploy has ended."""
        self.reloading.deploy_ended(why)

    def broken(self, worker: Any) -> list[str | None]:
        """Returns what a worker was told to show."""
        said = [values["text"] for word, values in worker.channel.said if word == "broken"]
        worker.channel.said.clear()
        return said

    def test_a_change_is_a_deploy(self) -> None:
        """When the worker says that files have changed, another one takes its place; one that leaves is not heard."""
        self.worker.says("changed", files=["/srv/site.py"])
        self.assertEqual(self.lines()[0], "changed: /srv/site.py")
        worker = self.arrive()
        self.assertEqual(self.pool.serving(), [worker])
        self.worker.says("changed", files=["/srv/site.py"])
        self.assertEqual(self.coming(), [])

    def test_changes_during_a_deploy_are_one_more(self) -> None:
        """What changes while a deploy is under way is deployed after it, once."""
        for _ in range(3):
            self.worker.says("changed", files=["/srv/site.py"])
        self.arrive()
        last = self.arrive()
        self.assertEqual((self.coming(), self.pool.serving()), ([], [last]))

    def test_an_error_is_shown_until_it_is_mended(self) -> None:
        """If the new code cannot be imported, the former goes on and shows the error; mended, it is replaced."""
        self.worker.says("changed", files=["/srv/site.py"])
        failing = self.next()
        failing.says("failed", why="site cannot be imported", error="Traceback ...")
        failing.end(1)
        self.assertEqual((self.pool.serving(), self.broken(self.worker)), ([self.worker], ["Traceback ..."]))
        self.assertIn("no deploy: site cannot be imported; the old release serves on", self.lines())
        self.worker.says("changed", files=["/srv/site.py"])
        self.assertEqual(self.broken(self.arrive()), [])
        self.assertEqual(len(self.pool.leaving), 1)
