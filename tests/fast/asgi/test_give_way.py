"""The reactor gives way to a loop that is busy, and only to one that comes round."""

from __future__ import annotations

import asyncio
import threading
from unittest import TestCase
from unittest.mock import patch

from graceful.asgi import give_way
from graceful.asgi.give_way import CROWD, GiveWay
from graceful.asgi.loop_thread import LoopThread
from tests.fast.asgi.doubles import LONG


class ModelTests(TestCase):
    """Without a loop."""

    def setUp(self) -> None:
        """Let no wait end by time alone, unless a test says so."""
        self.longest(LONG)
        self.give_way = GiveWay()

    def longest(self, seconds: float) -> None:
        """Set how long the reactor waits at most."""
        patched = patch.object(give_way, "LONGEST", seconds)
        patched.start()
        self.addCleanup(patched.stop)

    def test_an_idle_loop_with_few_calls_is_not_waited_for(self) -> None:
        """A single request is read, left to the loop, and the reactor reads on."""
        self.assertFalse(self.give_way.left(CROWD - 1))

    def test_a_crowd_of_calls_is_waited_for(self) -> None:
        """Also if the loop was idle."""
        self.assertTrue(self.give_way.left(CROWD))

    def test_a_loop_that_is_busy_is_waited_for(self) -> None:
        """A single call more, before it has come round, and no more behind that."""
        self.give_way.left(1)
        self.assertTrue(self.give_way.left(1))
        self.give_way.come_round()
        self.assertFalse(self.give_way.left(1))

    def test_the_wait_ends_when_the_loop_has_come_round(self) -> None:
        """The other thread ends it, each time."""
        for _ in range(50):
            self.assertTrue(self.give_way.left(CROWD))
            loop = threading.Thread(target=self.give_way.come_round)
            loop.start()
            self.give_way.wait()
            loop.join()
            self.assertFalse(self.give_way.left(0))
            self.give_way.come_round()

    def test_a_loop_that_came_round_before_the_wait_is_not_waited_for(self) -> None:
        """What the loop has written down is seen."""
        self.give_way.left(CROWD)
        self.give_way.come_round()
        self.give_way.wait()
        self.assertFalse(self.give_way.left(1))

    def test_a_blocked_loop_is_waited_for_only_once(self) -> None:
        """From then on the reactor goes on at once, until the loop has come round."""
        self.longest(0.0)
        self.give_way.left(CROWD)
        self.give_way.wait()
        self.assertFalse(self.give_way.left(CROWD))
        self.give_way.come_round()
        self.assertTrue(self.give_way.left(CROWD))


class ThreadTests(TestCase):
    """With a real loop."""

    def test_what_a_batch_has_begun_runs_before_the_reactor_goes_on(self) -> None:
        """The first steps of a batch's tasks are done when `kick` returns, though nothing waits for them."""
        thread = LoopThread(asyncio.new_event_loop)
        thread.start()
        self.addCleanup(thread.stop, LONG)
        done: list[int] = []
        tasks = []

        async def answer(number: int) -> None:
            done.append(number)

        def begin(number: int) -> None:
            tasks.append(thread.loop.create_task(answer(number)))

        with patch.object(give_way, "LONGEST", LONG):
            thread.hold()
            for number in range(CROWD):
                thread.call(begin, number)
            thread.kick()
        self.assertEqual(done, list(range(CROWD)))
