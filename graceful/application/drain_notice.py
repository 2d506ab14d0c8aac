"""Tells coroutines that the server begins to stop, while requests still run.

An event stream that waits for news cannot be asked to look at the clock: it has to be woken.  A coroutine of any
asyncio loop of the process waits here; at the beginning of a drain each loop is woken once, however many wait in it.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Final

from graceful.application.current import current_exchange
from graceful.application.deadlines import draining

_lock: Final = threading.Lock()
#: Those that wait, by their loop.  Under the lock.
_waiting: Final[dict[asyncio.AbstractEventLoop, set[asyncio.Future[None]]]] = {}


async def drain_begins() -> None:
    """Wait until the server begins to stop; return at once if it does already.

    Inside an exchange it is the server that serves it, else any server in this process.  Requests are still served
    then, so an event stream can end itself, and a consumer can stop taking work::

        done, _ = await asyncio.wait([news, stop], return_when=asyncio.FIRST_COMPLETED)
    """
    loop = asyncio.get_running_loop()
    while True:
        future: asyncio.Future[None] = loop.create_future()
        with _lock:
            _waiting.setdefault(loop, set()).add(future)  # before looking: a drain that begins meanwhile wakes us
        try:
            if draining():
                return
            await future
        finally:
            _forget(loop, future)
        if current_exchange() is None:
            return  # even if that server is gone by now


def _forget(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    with _lock:
        waiting = _waiting.get(loop)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del _waiting[loop]


def wake_all() -> None:
    """The server begins to stop: wake every coroutine that waits for it.  Any thread."""
    with _lock:
        found = {loop: list(futures) for loop, futures in _waiting.items()}
    for loop, futures in found.items():
        with suppress(RuntimeError):  # a loop that is closed
            loop.call_soon_threadsafe(_release, futures)


def _release(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
