"""Threads for application code that no exchange's thread runs: hooks, reports, `close()` of a streamed answer.

Such callables must not run in the reactor thread, which has all clients to serve.  They cannot wait for a thread of
the pool either: when they are needed most, all of those are stuck.  So they have a few threads of their own, which
start when there is something to call, and end when there has been nothing to call for a while.

A callable that does not return must not keep the others from running.  A callable that takes too long is named in the
log, and another thread may start in the place of its own.  The number of all threads is bounded; beyond it, calls
wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import Any, Final

from twisted.logger import Logger

from graceful.threads.start import NoThread, start_thread

log = Logger(namespace="graceful")


#: Threads at most, not counting those whose calls take too long.
SIZE: Final = 4
#: Threads at most, counting those whose calls take too long.
MOST: Final = 16
#: Seconds after which a call counts as taking too long: it is logged, and another thread may be started.
LIMIT: Final = 10.0
#: Seconds without a call after which a thread ends.
IDLE: Final = 10.0


class _Call:
    """One call.

    :ivar since: when it began to run, monotonic seconds; 0 while it waits.
    :ivar named: the log has named it for taking too long.
    """

    __slots__ = ("arguments", "function", "future", "named", "since")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.future: Future[Any] = Future()
        self.since = 0.0
        self.named = False


class CallbackThreads:
    """Runs application callables in threads of its own.

    :param size: threads at most, not counting those whose calls take too long.
    :param most: threads at most, counting all.
    :param limit: seconds after which a call takes too long.
    """

    def __init__(self, size: int = SIZE, most: int = MOST, limit: float = LIMIT) -> None:
        self._size = size
        self._most = most
        self._limit = limit
        self._changed = threading.Condition()
        # Under the condition's lock:
        self._waiting: deque[_Call] = deque()
        self._running: dict[int, _Call] = {}
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._number = 0
        self._closed = False
        self._refused = False  # the last thread could not be started; logged once, tried again at each look()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a function called soon in another thread.  Any thread; does not wait.

        :returns: a future of the call.  An exception of the function is logged, and the future has it as well.  After
            :meth:`close` no function is called, and the future is cancelled.
        """
        call = _Call(function, arguments)
        with self._changed:
            if self._closed:
                call.future.cancel()
                return call.future
            self._waiting.append(call)
            if self._idle >= len(self._waiting):
                self._changed.notify()
            else:
                self._start_more()
        return call.future

    def look(self) -> None:
        """Log the calls that take too long, and start threads for those that wait.

        The server calls this about every second, in any thread.
        """
        with self._changed:
            overdue = [call for call in self._overdue() if not call.named]
            if self._waiting:
                self._start_more()
        for call in overdue:
            call.named = True
            log.warn("{function!r} has not returned in {limit:g} s", function=call.function, limit=self._limit)

    def close(self, timeout: float = 0.0) -> None:
        """Call nothing more, and end the threads.  Blocks.

        A thread that does not end does not keep the process from ending, since all are daemons.

        :param timeout: seconds to wait at most.
        """
        with self._changed:
            self._closed = True
            for call in self._waiting:
                call.future.cancel()
            self._waiting.clear()
            self._changed.notify_all()
            threads = list(self._threads)
        until = monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, until - monotonic()))

    def _overdue(self) -> list[_Call]:
        """Returns the running calls that take too long.  Lock held."""
        before = monotonic() - self._limit
        return [call for call in self._running.values() if call.since < before]

    def _start_more(self) -> None:
        """Start another thread, if the bounds permit one.  Lock held."""
        if len(self._threads) >= self._most or len(self._threads) - len(self._overdue()) >= self._size:
            return
        self._number += 1
        try:
            thread = start_thread(self._work, f"graceful-aside-{self._number}")
        except NoThread as error:
            if not self._refused:
                log.error("a callable of the application waits for a thread: {error}", error=error)
            self._refused = True
            return
        self._refused = False
        self._threads.add(thread)

    def _next(self) -> _Call | None:
        """Wait for the next call.  In a callback thread.

        :returns: None if there was none for a while, or if no more will come; then the thread ends.
        """
        me = threading.get_ident()
        with self._changed:
            self._running.pop(me, None)
            self._idle += 1
            try:
                self._changed.wait_for(lambda: self._waiting or self._closed, IDLE)
            finally:
                self._idle -= 1
            if not self._waiting:
                self._threads.discard(threading.current_thread())
                return None
            call = self._waiting.popleft()
            call.since = monotonic()
            self._running[me] = call
            return call

    def _work(self) -> None:
        while (call := self._next()) is not None:
            if not call.future.set_running_or_notify_cancel():
                continue
            try:
                result = call.function(*call.arguments)
            except BaseException as error:
                log.failure("{function!r} failed", function=call.function)
                call.future.set_exception(error)
                del error
            else:
                call.future.set_result(result)
                del result
            del call
