"""The application's threads: no job is lost or sleeps, and none of them can hold the process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from time import monotonic

from twisted.trial.unittest import SynchronousTestCase

from graceful.threads.pool import Pool
from graceful.threads.stacks import native_id

LONG = 5.0
"""Seconds after which a test gives up."""


class Gate:
    """A job that says when it has begun, and goes on when it is let."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        self.go_on.wait(LONG)


class Case(SynchronousTestCase):
    """Pools, whose threads end with the test."""

    def pool(self, size: int, queue: int = 1 << 30) -> Pool[Callable[[], object]]:
        """A pool that calls its jobs."""
        pool: Pool[Callable[[], object]] = Pool(size, queue, lambda job: job() and None)
        pool.start()
        self.addCleanup(pool.stop, LONG)
        return pool

    def gates(self, pool: Pool[Callable[[], object]], count: int) -> list[Gate]:
        """Keep so many threads busy, until the test ends at the latest."""
        gates = [Gate() for _ in range(count)]
        for gate in gates:
            self.addCleanup(gate.go_on.set)
            self.assertTrue(pool.offer(gate))
        for gate in gates:
            self.assertTrue(gate.begun.wait(LONG))
        return gates

    def at_rest(self, pool: Pool[Callable[[], object]]) -> None:
        """Wait until all threads are idle."""
        until = monotonic() + LONG
        while len(pool._idle) < pool.size:
            self.assertLess(monotonic(), until)
            threading.Event().wait(0.001)


class JobTests(Case):
    """Jobs get done."""

    def test_jobs_are_done_in_order(self) -> None:
        """Every job is done, in the order in which they came if there is one thread."""
        pool = self.pool(1)
        done: list[int] = []
        last = threading.Event()
        for number in range(1000):
            pool.offer(lambda number=number: done.append(number))
        pool.offer(last.set)
        self.assertTrue(last.wait(LONG))
        self.assertEqual(done, list(range(1000)))

    def test_side_by_side(self) -> None:
        """As many jobs run at a time as there are threads, and one more waits for the first that is done."""
        pool = self.pool(4)
        gates = self.gates(pool, 4)
        more = Gate()
        more.go_on.set()
        pool.offer(more)
        self.assertFalse(more.begun.is_set())
        self.assertEqual((pool.queued, set(pool.working.values())), (1, set(gates)))
        gates[2].go_on.set()
        self.assertTrue(more.begun.wait(LONG))
        self.assertEqual(pool.queued, 0)

    def test_knows_which_thread_works_on_what(self) -> None:
        """It is known which thread works on what, for as long as it does."""
        pool = self.pool(2)
        seen: list[tuple[int, bool]] = []
        done = threading.Event()

        def look() -> None:
            me = threading.get_ident()
            seen.append((me, pool.working[me] is look))
            done.set()

        pool.offer(look)
        self.assertTrue(done.wait(LONG))
        self.assertEqual(seen, [(seen[0][0], True)])
        self.assertIn(seen[0][0], [thread.ident for thread in pool.threads])
        self.at_rest(pool)
        self.assertEqual(pool.working, {})

    def test_a_thread_that_has_run_out_of_jobs_says_so_before_it_waits(self) -> None:
        """It takes the jobs that have come meanwhile, with no thread to wake, and may fail to no harm."""
        looked: list[list[int]] = []
        done: list[int] = []
        last = threading.Event()

        def look() -> None:
            looked.append(done.copy())
            if done == [1]:
                pool.offer(2)
            elif done == [1, 2]:
                last.set()
                raise ZeroDivisionError

        pool: Pool[int] = Pool(1, 10, done.append, on_idle=look)
        pool.start()
        self.addCleanup(pool.stop, LONG)
        self.at_rest(pool)
        pool.offer(1)
        self.assertTrue(last.wait(LONG))
        self.at_rest(pool)
        self.assertEqual(looked, [[], [1], [1, 2]])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_failed_job_does_not_end_the_thread(self) -> None:
        """A job that fails, however badly, is logged, and its thread goes on."""
        pool = self.pool(1)

        class Bad(BaseException):
            """Nothing that anybody would expect."""

        def fail(error: type[BaseException]) -> None:
            raise error

        for error in (ZeroDivisionError, Bad, SystemExit):
            pool.offer(lambda error=error: fail(error))
        done = threading.Event()
        pool.offer(done.set)
        self.assertTrue(done.wait(LONG))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError, Bad, SystemExit)), 3)
        self.at_rest(pool)
        self.assertEqual(pool.working, {})

    def test_a_failed_job_is_given_up(self) -> None:
        """What ends a job that has failed is called in the job's thread, and may fail as well."""
        given_up: list[int] = []
        done = threading.Event()

        def fail(job: int) -> None:
            raise ZeroDivisionError

        def give_up(job: int) -> None:
            given_up.append(job)
            if job == 2:
                done.set()
            raise ArithmeticError

        pool: Pool[int] = Pool(1, 10, fail, give_up)
        pool.start()
        self.addCleanup(pool.stop, LONG)
        pool.offer(1)
        pool.offer(2)
        self.assertTrue(done.wait(LONG))
        self.at_rest(pool)
        self.assertEqual(given_up, [1, 2])
        self.flushLoggedErrors()

    def test_a_waiting_thread_keeps_nothing_of_its_last_job(self) -> None:
        """A thread that waits keeps nothing of its last job alive."""
        pool = self.pool(1)
        gone = threading.Event()

        class Job:
            def __call__(self) -> None:
                """Do nothing."""

            def __del__(self) -> None:
                gone.set()

        pool.offer(Job())
        self.assertTrue(gone.wait(LONG))


class FullTests(Case):
    """How many may wait."""

    def test_refuses_when_the_queue_is_full(self) -> None:
        """With all threads busy so many jobs may wait, and one more is refused until one is done."""
        for queue in (0, 1, 3):
            pool = self.pool(2, queue)
            gates = self.gates(pool, 2)
            for _ in range(queue):
                self.assertTrue(pool.offer(lambda: None))
            self.assertFalse(pool.offer(lambda: None))
            self.assertEqual(pool.queued, queue)
            for gate in gates:
                gate.go_on.set()
            self.at_rest(pool)
            self.assertTrue(pool.offer(lambda: None))

    def test_without_a_queue_each_idle_thread_takes_a_job(self) -> None:
        """Without a queue each idle thread takes a job, also of jobs that come all at once."""
        for _ in range(100):
            pool = self.pool(3, 0)
            self.at_rest(pool)
            gates = [Gate() for _ in range(3)]
            pool.hold()
            self.assertEqual([pool.offer(gate) for gate in gates], [True] * 3)
            self.assertFalse(pool.offer(lambda: None))
            pool.kick()
            for gate in gates:
                self.assertTrue(gate.begun.wait(LONG))
                gate.go_on.set()
            self.at_rest(pool)
            pool.stop(LONG)


class LostTests(Case):
    """Threads that do not come back."""

    def test_lost_thread_is_replaced(self) -> None:
        """Another one works in the place of one that is lost; if that comes back, it ends."""
        pool = self.pool(1, 0)
        (stuck,) = self.gates(pool, 1)
        (lost,) = pool.working
        self.assertFalse(pool.offer(lambda: None))
        self.assertTrue(pool.replace(lost))
        (other,) = self.gates(pool, 1)
        self.assertFalse(pool.offer(lambda: None), "it has no more room than before")
        thread = next(thread for thread in pool.threads if thread.ident == lost)
        self.assertEqual(native_id(lost), thread.native_id)
        stuck.go_on.set()
        thread.join(LONG)
        self.assertFalse(thread.is_alive())
        self.assertEqual((len(pool.threads), native_id(lost)), (1, 0))
        other.go_on.set()
        self.at_rest(pool)
        self.gates(pool, 1)

    def test_no_more_threads_are_replaced_than_the_pool_has(self) -> None:
        """No more are replaced than the pool has threads."""
        pool = self.pool(1)
        self.gates(pool, 1)
        (first,) = pool.working
        self.assertTrue(pool.replace(first))
        self.gates(pool, 1)
        (second,) = set(pool.working) - {first}
        self.assertFalse(pool.replace(second))


class WakeTests(Case):
    """Threads that lie down, and jobs that come in that moment."""

    def test_threads_are_woken_at_the_end_of_a_batch(self) -> None:
        """In a batch no thread is woken before its end; then as many are as there is work for."""
        pool = self.pool(3)
        self.at_rest(pool)
        gates = [Gate() for _ in range(3)]
        pool.hold()
        for gate in gates:
            self.addCleanup(gate.go_on.set)
            pool.offer(gate)
        self.assertEqual((len(pool._idle), [gate.begun.is_set() for gate in gates]), (3, [False] * 3))
        pool.kick()
        for gate in gates:
            self.assertTrue(gate.begun.wait(LONG))

    def test_batch_of_nothing(self) -> None:
        """A batch without a job wakes no thread."""
        pool = self.pool(2)
        self.at_rest(pool)
        pool.hold()
        pool.kick()
        self.assertEqual(len(pool._idle), 2)

    def test_busy_thread_in_a_batch(self) -> None:
        """A thread that is awake anyway takes a job in the middle of a batch."""
        pool = self.pool(1)
        (gate,) = self.gates(pool, 1)
        pool.hold()
        done = threading.Event()
        pool.offer(done.set)
        gate.go_on.set()
        self.assertTrue(done.wait(LONG))
        pool.kick()

    def offer_and_wait(self, pool: Pool[Callable[[], object]], times: int, at_once: int, *, batch: bool) -> bool:
        """Offer some jobs, wait until they are done, and so on; whether all were done in time.

        Nothing else is offered meanwhile, so that a job that is left lying is not found by chance.
        """
        for _ in range(times):
            done = threading.Semaphore(0)
            if batch:
                pool.hold()
            for _ in range(at_once):
                pool.offer(done.release)
            if batch:
                pool.kick()
            for _ in range(at_once):
                if not done.acquire(timeout=LONG):
                    return False
        return True

    def test_no_job_is_left_while_a_thread_sleeps(self) -> None:
        """However threads lie down and jobs arrive, singly or in batches, no job is left lying."""
        interval = sys.getswitchinterval()
        self.addCleanup(sys.setswitchinterval, interval)
        for size in (1, 2, 5, 20):
            for seconds in (interval, 1e-6):
                sys.setswitchinterval(seconds)
                pool = self.pool(size)
                for at_once in (1, 3, 10):
                    for batch in (False, True):
                        self.assertTrue(self.offer_and_wait(pool, 50, at_once, batch=batch), (size, at_once, batch))
                pool.stop(LONG)

    def test_nothing_sleeps_among_many(self) -> None:
        """No job is left, either, when several threads offer at the same time, one of them in batches."""
        for size in (1, 2, 5):
            pool = self.pool(size)
            results: list[bool] = []

            def offer(batch: bool, pool: Pool[Callable[[], object]] = pool, results: list[bool] = results) -> None:
                results.append(self.offer_and_wait(pool, 200, 2, batch=batch))

            threads = [threading.Thread(target=offer, args=(number == 0,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(2 * LONG)
            self.assertEqual(results, [True] * 4)
            pool.stop(LONG)

    def test_lies_down_just_then(self) -> None:
        """A job that comes between a thread's last look and its lying down is not left lying."""
        pool: Pool[Callable[[], object]] = Pool(1, 10, lambda job: job() and None)
        done = threading.Event()
        late: list[Callable[[], object]] = [done.set]

        class Idle(list[threading.Lock]):
            """In which lying down takes so long that a job comes before."""

            def append(self, lock: threading.Lock) -> None:
                if late:
                    pool.offer(late.pop())
                super().append(lock)

        pool._idle = Idle()
        pool.start()
        self.addCleanup(pool.stop, LONG)
        self.assertTrue(done.wait(LONG))

    def test_chosen_just_then(self) -> None:
        """A thread that is chosen to be woken while it wants to get up again by itself does get up, once."""
        pool: Pool[Callable[[], object]] = Pool(1, 10, lambda job: job() and None)
        done: list[int] = []
        both = threading.Event()

        def job() -> None:
            done.append(1)
            if len(done) == 2:
                both.set()

        late: list[Callable[[], object]] = [job, job]

        class Idle(list[threading.Lock]):
            """In which jobs come right after lying down, and the thread is chosen for the first of them."""

            def append(self, lock: threading.Lock) -> None:
                super().append(lock)
                while late:
                    pool.offer(late.pop())

        pool._idle = Idle()
        pool.start()
        self.addCleanup(pool.stop, LONG)
        self.assertTrue(both.wait(LONG))

    def test_chosen_and_busy(self) -> None:
        """After that the other threads can be woken, also while this one has much to do."""
        pool: Pool[Callable[[], object]] = Pool(2, 10, lambda job: job() and None)
        first, second = Gate(), Gate()
        second.go_on.set()

        class Idle(list[threading.Lock]):
            """In which the second thread finds a job when it has lain down, and is chosen when it gets up for it."""

            def append(self, lock: threading.Lock) -> None:
                super().append(lock)
                if len(self) == 2 and not first.begun.is_set():
                    pool.backlog.append(first)

            def remove(self, lock: threading.Lock) -> None:
                pool.offer(second)
                super().remove(lock)

        pool._idle = Idle()
        pool.start()
        self.addCleanup(pool.stop, LONG)
        self.addCleanup(first.go_on.set)
        self.assertTrue(first.begun.wait(LONG))
        self.assertTrue(second.begun.wait(LONG))


class StopTests(Case):
    """The end of the threads."""

    def test_idle_threads_end_at_once(self) -> None:
        """Idle threads end at once, however many."""
        pool = self.pool(20)
        self.at_rest(pool)
        self.assertEqual(pool.stop(LONG), [])
        self.assertFalse(any(thread.is_alive() for thread in pool.threads))

    def test_threads_that_have_just_begun_end_at_once(self) -> None:
        """Threads that have only just begun end at once, too."""
        for _ in range(20):
            self.assertEqual(self.pool(5).stop(LONG), [])

    def test_busy_thread_finishes_the_jobs(self) -> None:
        """A busy thread ends with its job, and those behind it are done before."""
        pool = self.pool(1)
        (gate,) = self.gates(pool, 1)
        done = threading.Event()
        pool.offer(done.set)
        threading.Timer(0.01, gate.go_on.set).start()
        self.assertEqual(pool.stop(LONG), [])
        self.assertTrue(done.is_set())

    def test_stuck_threads_are_named(self) -> None:
        """Threads that do not end are named after one time-out for all of them, and they are daemons."""
        pool = self.pool(12)
        self.gates(pool, 10)
        before = monotonic()
        stuck = pool.stop(0.1)
        self.assertLess(monotonic() - before, 0.5)
        self.assertEqual(len(stuck), 10)
        self.assertTrue(all(thread.daemon for thread in pool.threads))

    def test_lies_down_just_then(self) -> None:
        """A thread that lies down when all others have been woken for the stop ends by itself."""
        pool: Pool[Callable[[], object]] = Pool(1, 10, lambda job: job() and None)

        class Idle(list[threading.Lock]):
            """In which lying down takes so long that the stop comes before."""

            def append(self, lock: threading.Lock) -> None:
                pool._stopping = True
                super().append(lock)

        pool._idle = Idle()
        pool.start()
        pool.threads[0].join(LONG)
        self.assertFalse(pool.threads[0].is_alive())

    def test_second_stop_does_no_harm(self) -> None:
        """Stopping again does no harm."""
        pool = self.pool(3)
        for _ in range(2):
            self.assertEqual(pool.stop(LONG), [])
