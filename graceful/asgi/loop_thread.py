"""An asyncio loop in a thread of its own.

An application may block its event loop, however often it is told not to.  If that loop were the server's, nothing
would be accepted, no drain would go on and no status be answered meanwhile.  So the application's loop has a thread
to itself, and the server's reactor only leaves calls for it.

Waking a loop costs a system call on each side, so it is woken once for a batch: while the hub works through a batch
of reads, the calls collect.  And while the loop works through those, the reactor gives way
(:mod:`graceful.asgi.give_way`).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from twisted.logger import Logger

from graceful.application.deadlines import Takedown
from graceful.asgi.give_way import GiveWay
from graceful.threads.async_exc import NOTHING, set_exception
from graceful.threads.start import NoThread, start_thread

log = Logger(namespace="graceful")

#: Seconds that tasks of the application's own have at the end, once they are cancelled.
CANCELLED: Final = 0.5


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Returns a new loop: uvloop's, if that is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class LoopThread:
    """Runs an asyncio loop, and calls functions in it; a `graceful.web.hub.Batch`.

    :param make_loop: makes the loop.
    :param clock: returns monotonic seconds.
    :ivar loop: the loop; there is none before it runs, since most servers never need one.
    :ivar ident: the thread as `threading.get_ident()` numbers it; 0 before it runs.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        make_loop: Callable[[], asyncio.AbstractEventLoop] = new_event_loop,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.ident = 0
        self._make_loop = make_loop
        self._clock = clock
        self._thread: threading.Thread | None = None
        # Any thread; single operations are atomic.
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = self._holding = self._stopping = False
        self._asked: float | None = None  # when the heartbeat that is not answered yet was asked for
        self._interrupted = False
        self._give_way = GiveWay()

    def start(self) -> None:
        """Make the loop, and start the thread.  Called after the fork, since threads do not survive one.

        :raises NoThread: the system refuses it.
        """
        self.loop = self._make_loop()
        try:
            self._thread = thread = start_thread(self._run, "graceful-asyncio", "the thread of the asyncio loop")
        except NoThread:
            self.loop.close()
            raise
        self.ident = thread.ident or 0

    # -- any thread ---------------------------------------------------------------------------------------

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the loop's thread, after those of earlier calls.  Does not wait."""
        self._calls.append((function, arguments))
        if not self._holding and not self._woken:
            self._wake()

    def hold(self) -> None:
        """Begin a batch: do not wake the loop before :meth:`kick`.  Reactor thread."""
        self._holding = True

    def kick(self) -> None:
        """End the batch: wake the loop if there are calls, and give way to it if there are many.  Reactor thread."""
        self._holding = False
        calls = self._calls
        if not calls:
            return
        wait = self._give_way.left(len(calls))
        if not self._woken:
            self._wake()
        if wait:
            self._give_way.wait()

    def _wake(self) -> None:
        self._woken = True
        try:
            self.loop.call_soon_threadsafe(self._run_calls)
        except RuntimeError:
            pass  # the loop is closed: the process ends

    def blocked(self) -> float:
        """Returns for how many seconds the loop has not come round; 0.0 if it does.

        Each call asks the loop for a sign of life, so the answer is as fresh as the call before.  One thread.
        """
        asked, now = self._asked, self._clock()
        if asked is not None:
            self._wake()  # the exception of a takedown may have met the loop before it looked at its calls
            return now - asked
        self._asked = now
        self.call(self._beat)
        return 0.0

    def stop(self, timeout: float) -> bool:
        """End the loop and its thread.  Blocks.

        :param timeout: seconds to wait at most; a thread that does not end cannot hold the process.
        :returns: whether the thread has ended.
        """
        thread, self._stopping = self._thread, True
        if thread is None:
            return True
        self.call(self.loop.stop)
        thread.join(timeout)
        return not thread.is_alive()

    # -- the loop's thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopping:
            try:
                self.loop.run_forever()
            except BaseException:
                # `sys.exit` in a task, or an exception of a takedown that came late: the other tasks go on.
                log.failure("the asyncio loop goes on after this")
        try:
            self.loop.run_until_complete(self._end_tasks())
            self.loop.close()
        except Exception:
            log.failure("the asyncio loop could not be closed")

    async def _end_tasks(self) -> None:
        """Cancel the tasks that no exchange has, as `asyncio.run` does, but do not wait for them for ever."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CANCELLED)
        await self.loop.shutdown_asyncgens()

    def _run_calls(self) -> None:
        self._woken = False  # before looking: a call that comes now wakes the loop again
        calls = self._calls
        for _ in range(len(calls)):
            # Not `popleft()`: an exception of a takedown is raised after a call, and would lose what that returns.
            function, arguments = calls[0]
            del calls[0]
            try:
                function(*arguments)
            except (Exception, Takedown):
                log.failure("{function!r} failed in the asyncio loop", function=function)
        self.loop.call_soon(self._give_way.come_round)  # behind the first steps of the tasks that have begun

    def _beat(self) -> None:
        if self._interrupted:
            # The exception of a takedown that has not been raised yet must not meet other tasks.
            self._interrupted = False
            set_exception(self.ident, NOTHING)
        self._asked = None

    def interrupted(self) -> None:
        """Clear an exception that was set for this thread, when the loop comes round.  Any thread."""
        self._interrupted = True
