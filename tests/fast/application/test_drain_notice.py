"""Coroutines that wait for the beginning of a drain."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from types import SimpleNamespace
from typing import Any, cast
from unittest import TestCase

from graceful.application import drain_notice, hooks
from graceful.application.current import set_current
from graceful.application.drain_notice import drain_begins


class NoticeTests(TestCase):
    """A loop in another thread, and this thread as the reactor's."""

    def setUp(self) -> None:
        """Let no server go down."""
        self.addCleanup(hooks.gone, self)

    def test_all_that_wait_are_woken(self) -> None:
        """Every coroutine that waits goes on when a server begins to stop, and nothing is left behind."""
        waiting = threading.Event()

        async def main() -> int:
            tasks = [asyncio.ensure_future(drain_begins()) for _ in range(100)]
            cancelled = asyncio.ensure_future(drain_begins())
            await asyncio.sleep(0)
            cancelled.cancel()
            waiting.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 5)
            return len(tasks)

        done: list[int] = []
        thread = threading.Thread(target=lambda: done.append(asyncio.run(main())))
        thread.start()
        self.assertTrue(waiting.wait(5))
        hooks.going_down(self)
        drain_notice.wake_all()
        thread.join(5)
        self.assertEqual(done, [100])
        self.assertEqual(drain_notice._waiting, {})

    def test_a_drain_that_has_begun_is_not_waited_for(self) -> None:
        """A coroutine that comes late returns at once."""
        hooks.going_down(self)
        asyncio.run(asyncio.wait_for(drain_begins(), 5))
        self.assertEqual(drain_notice._waiting, {})

    def test_a_coroutine_of_an_exchange_waits_for_its_own_server(self) -> None:
        """The drain of another server in the process wakes it, and it waits on."""
        site = SimpleNamespace(going_down=False)
        exchange = SimpleNamespace(released=False, connection=SimpleNamespace(site=site))

        async def main() -> list[bool]:
            set_current(cast(Any, exchange))
            task = asyncio.ensure_future(drain_begins())
            await asyncio.sleep(0)
            hooks.going_down(self)
            told = []
            for mine in (False, True):
                site.going_down = mine
                drain_notice.wake_all()
                for _ in range(5):  # turns of the loop: it is woken, looks, and returns
                    await asyncio.sleep(0)
                told.append(task.done())
            task.cancel()
            return told

        self.assertEqual(contextvars.Context().run(asyncio.run, main()), [False, True])
        self.assertEqual(drain_notice._waiting, {})
