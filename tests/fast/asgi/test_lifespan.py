"""The lifespan of an ASGI application: it starts, it cannot start, it has none, it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.asgi.lifespan import NOTICE, Lifespan, LifespanFailed
from tests.fast.asgi.doubles import Message, Receive, Send, TurnedLoop


class LifespanTests(SynchronousTestCase):
    """Applications with a lifespan, and without."""

    def setUp(self) -> None:
        """Have a loop."""
        self.loop = TurnedLoop()
        self.addCleanup(self._close)
        self.seen: list[str] = []

    def _close(self) -> None:
        for task in asyncio.all_tasks(self.loop.loop):
            task.cancel()
        self.loop.turn()
        self.loop.loop.close()

    def start(self, application: Callable[..., Any]) -> Lifespan:
        """Start an application."""
        lifespan = Lifespan(application, self.loop.call)
        lifespan.start()
        self.loop.turn()
        return lifespan

    async def whole(self, scope: Message, receive: Receive, send: Send) -> None:
        """Note each event, and answer it."""
        while True:
            event = await receive()
            self.seen.append(event["type"])
            if event["type"] == "lifespan.startup":
                scope["state"]["db"] = 5
                await send({"type": "lifespan.startup.complete", "shutdown_notice": self.wants_notice})
            elif event["type"] == "lifespan.shutdown":
                await send({"type": "lifespan.shutdown.complete"})
                return

    wants_notice = False

    def test_a_lifespan_begins_and_ends(self) -> None:
        """The state is kept, and the end is waited for."""
        lifespan = self.start(self.whole)
        self.assertIsNone(lifespan.started.result(0))
        self.assertEqual((lifespan.ready, lifespan.state), (True, {"db": 5}))
        ended = lifespan.shutdown()
        self.assertFalse(ended.done())
        self.loop.turn()
        self.assertTrue(ended.done())
        self.assertEqual(self.seen, ["lifespan.startup", "lifespan.shutdown"])

    def test_a_notice_comes_to_those_that_ask_for_it(self) -> None:
        """An application that has asked for it is told of the stop; others would take it for their shutdown."""
        for asks in (True, False):
            self.seen.clear()
            self.wants_notice = asks
            lifespan = self.start(self.whole)
            lifespan.notice()
            self.loop.turn()
            lifespan.shutdown()
            self.loop.turn()
            self.assertEqual(NOTICE in self.seen, asks)

    def test_an_application_without_a_lifespan_is_served(self) -> None:
        """An application that raises has no lifespan: it is ready, and has no state; there is nothing to end."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            raise ValueError(scope["type"])

        lifespan = self.start(application)
        self.assertEqual((lifespan.ready, lifespan.state), (True, None))
        ended = lifespan.shutdown()
        self.loop.turn()
        self.assertTrue(ended.done())
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_an_application_that_fails_early_is_logged(self) -> None:
        """One that raises behind its start-up event is served without a lifespan, as ASGI says, and logged."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await receive()
            raise ValueError("broken")

        self.assertTrue(self.start(application).ready)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_a_request_that_is_cancelled_leaves_the_start_up_alone(self) -> None:
        """A request that waits for the start-up and is taken down does not end it for the others."""
        gate = asyncio.Event()

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await receive()
            await gate.wait()
            await send({"type": "lifespan.startup.complete"})
            await receive()

        lifespan = self.start(application)
        one, other = (self.loop.loop.create_task(lifespan.until_ready()) for _ in range(2))
        self.loop.turn()
        one.cancel()
        self.loop.turn()
        self.assertTrue(one.cancelled())
        gate.set()
        self.loop.turn()
        self.assertTrue(lifespan.ready)
        self.assertIsNone(other.result())

    def test_an_application_that_cannot_start_says_why(self) -> None:
        """`lifespan.startup.failed` is one line for the operator: the last of what it says, as of a traceback."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "Traceback\n  ...\nOSError: no database\n"})

        lifespan = self.start(application)
        self.assertFalse(lifespan.ready)
        error = self.assertRaises(LifespanFailed, lifespan.started.result, 0)
        self.assertEqual(str(error), "the application's start-up failed: OSError: no database")

    def test_a_shutdown_that_fails_is_over(self) -> None:
        """A shutdown that fails is logged, and not waited for."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            raise ValueError("at the end")

        lifespan = self.start(application)
        ended = lifespan.shutdown()
        self.loop.turn()
        self.assertTrue(ended.done())
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
