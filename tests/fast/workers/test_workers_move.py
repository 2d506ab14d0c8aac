"""Connections that move between workers: who takes them, and what becomes of them when that one fails."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from graceful.process.origin import Origin
from graceful.workers.fleet_arrivals import FleetArrivals
from graceful.workers.fleet_drain import FleetDrain
from graceful.workers.worker_pool import SAME_SIGNAL
from tests.fast.workers.workforce import NEW, WorkerProcess, Workforce


class MovingWorkforce(Workforce):
    """Three workers that accept, and whose connections can move."""

    def setUp(self) -> None:
        """Have them accept."""
        super().setUp()
        self.first, self.second, self.third = self.open()
        for worker in (self.first, self.second, self.third):
            worker.moves = True


class MoveTests(MovingWorkforce):
    """The connections of a worker that leaves, and the worker that takes them."""

    def replace(self, number: int, release: Origin | None = None, moves: bool = True) -> WorkerProcess:
        """Replace the worker of a slot.  Returns the new one, which has been told to accept."""
        self.pool.replace(self.slot(number), release)
        worker = self.next()
        worker.says("ready", moves=moves)
        worker.says("accepts")
        return worker

    def test_connections_move_to_the_worker_that_takes_the_place(self) -> None:
        """The former worker is told so before it is told that another one accepts: its answers keep connections."""
        worker = self.replace(1)
        self.assertEqual(
            [one if isinstance(one, str) else one[0] for one in self.first.told()], ["give", "succeeded"]
        )
        self.assertEqual(worker.told("take"), [("take", {"pid": self.first.pid})])

    def test_a_release_that_cannot_move_connections_is_told_nothing(self) -> None:
        """Neither the former worker, nor the new one."""
        worker = self.replace(1, NEW, moves=False)
        self.first.moves = False
        self.assertEqual((self.first.told("give"), worker.told("take")), ([], []))
        self.second.moves = False
        worker = self.replace(2)
        self.assertEqual((self.second.told("give"), worker.told("take")), ([], []))

    def test_another_worker_takes_what_a_dead_one_has_left(self) -> None:
        """At once, if one of the same release accepts; else as soon as one does."""
        first, second = self.replace(1, NEW), self.replace(2, NEW)
        second.told()
        first.end()
        self.assertEqual(self.first.told("give"), ["give", "give"])
        self.assertEqual(second.told("take"), [("take", {"pid": self.first.pid})])
        second.end()
        self.assertEqual(self.first.told("give"), [])  # the third one runs old code
        self.clock.advance(1)
        worker = next(one for one in self.coming() if one.number == 1)
        worker.says("ready", moves=True)
        worker.says("accepts")
        taken = [said["pid"] for _, said in worker.told("take")]
        self.assertEqual(sorted(taken), [self.first.pid, self.second.pid])

    def test_what_is_left_follows_the_next_replacement(self) -> None:
        """A worker that leaves does not take connections any more: its successor takes all that is left."""
        middle = self.replace(1)
        last = self.replace(1)
        self.assertEqual([said["pid"] for _, said in last.told("take")], [middle.pid, self.first.pid])

    def test_without_descriptors_connections_stay(self) -> None:
        """It is logged, and the replacement goes on."""

        def none() -> None:
            raise OSError(24, "Too many open files")

        self.first.link = none  # type: ignore[method-assign]
        worker = self.replace(1)
        self.assertEqual(worker.told("take"), [])
        self.assertIn(f"the connections of worker 1, process {self.first.pid}, stay there", "".join(self.lines()))

    def test_a_worker_that_another_process_stops_moves_nothing(self) -> None:
        """It was told to stop, and not that another one takes its place."""
        self.first.says("closing")
        self.clock.advance(SAME_SIGNAL)
        self.clock.advance(0)
        worker = self.next()
        worker.says("ready", moves=True)
        worker.says("accepts")
        self.assertEqual((self.first.told("give"), worker.told("take")), ([], []))


class ArrivalsTests(MovingWorkforce):
    """Links from a predecessor's processes, passed on."""

    def links(self, count: int) -> list[Any]:
        """Returns links that record whether they were closed."""
        self.closed: list[int] = []
        return [
            SimpleNamespace(giver=SimpleNamespace(pid=number), close=partial(self.closed.append, number))
            for number in range(count)
        ]

    def test_each_worker_gets_its_share(self) -> None:
        """One link after the other; one whose worker is gone goes to another, and to none if there is none."""
        arrivals = FleetArrivals(self.pool, lambda function, *args: function(*args))
        arrivals.take(self.links(4))
        taken = [[said["pid"] for _, said in one.told("take")] for one in (self.first, self.second, self.third)]
        self.assertEqual((arrivals.count, taken), (3, [[0, 3], [1], [2]]))
        self.first.end()
        self.third.end()
        arrivals.take(self.links(2))
        self.assertEqual(len(self.second.told("take")), 2)
        self.second.end()
        arrivals.take(self.links(2))
        self.assertEqual(self.closed, [0, 1])
        ended: list[bool] = []
        arrivals.take_from(cast(Any, None), 1, lambda: True, lambda: ended.append(True))
        self.assertEqual(ended, [True])


class SuccessionTests(MovingWorkforce):
    """An instance that takes over from this one."""

    def setUp(self) -> None:
        """Have what drains."""
        super().setUp()
        self.fleet_drain = FleetDrain(self.clock, self.pool, self.sockets, lambda state: None, lambda ending: None)

    def givers(self, count: int) -> list[int]:
        """Returns which workers have the links for that many processes."""
        return [cast(Any, link).giver.number for link in self.fleet_drain.links(count)]

    def test_each_process_of_the_new_instance_gets_its_share(self) -> None:
        """And each worker of this one gives all that it has."""
        self.assertEqual(self.givers(1), [1, 2, 3])
        self.assertEqual(self.givers(3), [1, 2, 3])
        self.assertEqual(self.givers(5), [1, 2, 3, 1, 2])

    def test_workers_that_leave_already_give_what_they_have_left(self) -> None:
        """Those whose connections were to move to a sibling, which leaves, too."""
        self.pool.replace(self.slot(1))
        self.first.told()
        worker = self.next()
        worker.says("ready", moves=True)
        worker.says("accepts")
        self.second.moves = False
        links = self.fleet_drain.links(1)
        self.assertEqual([cast(Any, link).giver for link in links], [worker, self.third, self.first])

    def test_workers_of_another_version_have_no_links(self) -> None:
        """Then nothing moves."""
        for one in (self.first, self.second, self.third):
            one.moves = False
        self.assertEqual(self.givers(2), [])

    def test_connections_to_any_socket_of_a_served_address_move(self) -> None:
        """A single process takes over only one of the sockets that the workers have at an address."""
        handed = [one.bound for one in self.sockets.kept if one.key in (1, 9)]
        self.fleet_drain.succeeded(handed, 99)
        said = [values for _, values in self.second.channel.said]  # type: ignore[attr-defined]
        self.assertEqual([(one["handed"], one["served"]) for one in said], [([9], [2])])

    def test_the_last_line_says_how_many_have_moved(self) -> None:
        """Those of all workers together."""
        self.fleet_drain.succeeded([one.bound for one in self.sockets.kept], 99)
        for one, moved in zip((self.first, self.second, self.third), (4, 0, 3), strict=True):
            one.end(0, finished=1, picture={"moved": {"in": 7, "out": moved}})
        self.assertEqual(
            self.lines()[-1], "drained in 0.0 s: 3 finished, 0 taken down, 0 abandoned, 7 connections moved"
        )
