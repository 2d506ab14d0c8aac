"""Workers that have served enough requests, or have become too large, are replaced."""

from __future__ import annotations

from graceful.workers.fleet_drain import FleetDrain
from graceful.workers.recycling import PAUSE, SETTLES, Recycling
from tests.fast.workers.workforce import NEW, Workforce

MIB = 1 << 20


class RecyclingTests(Workforce):
    """Three workers, whose numbers of requests and whose memory the test sets."""

    def setUp(self) -> None:
        """Have all workers accept."""
        super().setUp()
        self.workers = self.open()
        self.finished: dict[int, int] = {}
        self.rss: dict[int, int | None] = {}
        self.jitters = [3, 0, -3]
        self.lines()

    def recycling(self, max_requests: tuple[int, int] | None = None, max_rss: int | None = None) -> Recycling:
        """Returns the object that replaces workers."""

        def jitter(least: int, most: int) -> int:
            self.assertEqual(least, -most)
            return self.jitters.pop(0) if self.jitters and most else 0

        return Recycling(
            self.pool,
            max_requests,
            max_rss,
            lambda worker: self.finished.get(worker.number, 0),
            self.rss.get,
            jitter,
        )

    def test_replaces_at_its_own_number_of_requests(self) -> None:
        """Each worker has its own limit of requests; when it reaches that, another one replaces it."""
        recycling = self.recycling((100, 5))
        for finished, number in ((96, None), (97, 3), (99, None), (100, 2), (102, None), (103, 1)):
            self.finished = {1: finished, 2: finished, 3: finished}
            for worker in self.pool.serving():
                if worker not in self.workers:
                    self.finished[worker.number] = 0
            recycling.look()
            self.assertEqual([worker.number for worker in self.coming()], [number] if number else [])
            if number:
                self.assertIn(f"has served {finished} requests: another one takes its place", self.lines()[0])
                self.arrive()
                self.lines()

    def test_only_one_worker_is_replaced_at_a_time(self) -> None:
        """Only one worker is replaced at a time, however many have reached their limit."""
        self.finished = dict.fromkeys((1, 2, 3), 100)
        recycling = self.recycling((10, 0))
        recycling.look()
        recycling.look()
        self.assertEqual([worker.number for worker in self.coming()], [1])
        self.finished[1] = 0
        self.arrive()
        recycling.look()
        self.assertEqual([worker.number for worker in self.coming()], [2])

    def test_no_worker_is_replaced_while_another_is_missing(self) -> None:
        """While a worker that died is missing, no other is replaced."""
        self.finished = dict.fromkeys((1, 2), 100)
        recycling = self.recycling((10, 0))
        self.workers[2].end()
        recycling.look()
        self.assertEqual(self.coming(), [])

    def test_replaces_by_memory(self) -> None:
        """A worker whose process holds too much memory is replaced, if its memory is known."""
        self.rss = {self.workers[0].pid: None, self.workers[1].pid: 300 * MIB - 1, self.workers[2].pid: 300 * MIB}
        recycling = self.recycling(None, 300 * MIB)
        recycling.look()
        self.assertEqual(self.coming(), [])  # it has only just begun
        self.clock.advance(SETTLES)
        recycling.look()
        self.assertEqual([worker.number for worker in self.coming()], [3])
        self.assertIn("holds 300 MiB", self.lines()[0])

    def test_workers_that_are_always_too_large_take_turns(self) -> None:
        """If each worker is too large at once, they are replaced in turns, the oldest first."""
        recycling = self.recycling(None, MIB)
        numbers = []
        for _ in range(4):
            self.clock.advance(SETTLES)
            self.rss.update({worker.pid: 2 * MIB for worker in self.pool.serving()})
            recycling.look()
            numbers += [worker.number for worker in self.coming()]
            self.arrive()
        self.assertEqual(numbers, [1, 2, 3, 1])

    def test_without_limits_replaces_none(self) -> None:
        """Without limits no worker is replaced."""
        self.finished, self.rss = {1: 10**9}, {self.workers[0].pid: 1 << 40}
        self.recycling().look()
        self.assertEqual(self.coming(), [])

    def test_retries_later_if_replacement_cannot_start(self) -> None:
        """If the new worker cannot start, the next attempt waits: each one imports the application."""
        self.finished = {1: 100}
        recycling = self.recycling((10, 0))
        recycling.look()
        self.next().end(1)
        self.assertEqual(self.lines()[1:], [f"worker 1, process {self.workers[0].pid}, goes on: exit status 1"])
        for _ in range(PAUSE - 1):
            recycling.look()
            self.assertEqual(self.coming(), [])
        recycling.look()
        self.assertEqual(len(self.coming()), 1)

    def test_a_worker_that_a_deploy_replaces_does_not_go_on(self) -> None:
        """The log does not say that a worker goes on which a deploy replaces."""
        self.finished = {1: 100}
        recycling = self.recycling((10, 0))
        recycling.look()
        self.pool.replace(self.slot(1), NEW)
        self.assertNotIn("goes on", str(self.lines()))
        self.arrive()
        self.arrive()
        self.assertIs(self.slot(1).release, NEW)

    def test_replaces_none_while_stopping(self) -> None:
        """No worker is replaced during a drain."""
        fleet_drain = FleetDrain(self.clock, self.pool, self.sockets, lambda state: None, lambda ending: None)
        self.finished = {1: 100}
        recycling = self.recycling((10, 0))
        fleet_drain.begin(False)
        recycling.look()
        self.assertEqual(self.coming(), [])

    def test_a_stop_logs_nothing_about_a_worker_about_to_be_replaced(self) -> None:
        """A stop logs nothing about a worker that was about to be replaced."""
        fleet_drain = FleetDrain(self.clock, self.pool, self.sockets, lambda state: None, lambda ending: None)
        self.finished = {1: 100}
        self.recycling((10, 0)).look()
        self.lines()
        fleet_drain.begin(False)
        self.assertNotIn("goes on", str(self.lines()))
