"""Pools of applications: `graceful.threads.pool_set`."""

from __future__ import annotations

import threading
from typing import Any

from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase

from graceful.threads.pool import Pool
from graceful.threads.pool_set import PoolSet
from graceful.threads.stacks import native_id


class PoolSetTests(SynchronousTestCase):
    """Two applications, of which one has a `ThreadPool` of Twisted's."""

    def setUp(self) -> None:
        """Make pools whose jobs are events: each waits until it is set."""
        self.begun = threading.Semaphore(0)
        self.pools: PoolSet[threading.Event] = PoolSet(2, lambda size: Pool(size, 5, self.run_job))
        self.own = ThreadPool(0, 1)
        self.addCleanup(self.pools.stop, 5.0)

    def run_job(self, job: threading.Event) -> None:
        """Wait for a job's event."""
        self.begun.release()
        job.wait()

    def begin(self, threadpool: Any) -> threading.Event:
        """Have a thread of a pool wait for an event, which is returned."""
        job = threading.Event()
        self.addCleanup(job.set)
        self.assertTrue(self.pools.find(threadpool).offer(job))
        self.begun.acquire()
        return job

    def test_one_thread_pool_stands_for_one_pool(self) -> None:
        """The settings size the pool of None, and a `ThreadPool` its own."""
        self.assertEqual(self.pools.counts(), (0, 2, 0))
        self.assertIs(self.pools.find(None), self.pools.find(None))
        self.assertIsNot(self.pools.find(None), self.pools.find(self.own))
        self.assertEqual(self.pools.counts(), (0, 3, 0))

    def test_work_of_all_pools_is_described_together(self) -> None:
        """Who works on what, what waits, and the names and numbers of the threads."""
        jobs = [self.begin(None), self.begin(self.own)]
        waiting = threading.Event()
        waiting.set()
        self.pools.find(self.own).offer(waiting)
        working = self.pools.working()
        self.assertEqual(set(working), set(jobs))
        self.assertEqual(self.pools.queued(), [waiting])
        self.assertEqual(self.pools.counts(), (2, 3, 1))
        for thread in working.values():
            self.assertIn(thread, self.pools.thread_names())
            self.assertNotEqual(native_id(thread), 0)
        self.assertEqual(native_id(0), 0)

    def test_a_thread_is_replaced_in_its_own_pool(self) -> None:
        """A pool of one, whose thread does not return, serves on; an unknown thread is not replaced."""
        job = self.begin(self.own)
        self.assertTrue(self.pools.replace(self.pools.working()[job]))
        self.begin(self.own)
        self.assertFalse(self.pools.replace(0))

    def test_no_pool_wakes_a_thread_within_a_batch(self) -> None:
        """What is offered in a batch waits for its end, in each pool."""
        for threadpool in (None, self.own):
            self.begin(threadpool).set()
        while self.pools.working():
            pass
        self.pools.hold()
        jobs = [threading.Event(), threading.Event()]
        for threadpool, job in zip((None, self.own), jobs, strict=True):
            job.set()
            self.pools.find(threadpool).offer(job)
        self.assertFalse(self.begun.acquire(timeout=0.05))
        self.pools.kick()
        for _ in jobs:
            self.begun.acquire()
