"""Where an exception may be raised in a thread, and where not.

`PyThreadState_SetAsyncExc` raises an exception in another thread "at the next bytecode", whatever that thread then
does: it may hold a connection's write token, or have begun another request.  So it may only be raised while the
thread is in the application's code, and one that comes too late must not be raised at all.

The thread says where it is by one attribute of the exchange, `in_application`, and pays no lock for it.  A takedown
sets the exchange's `takedown`, an :class:`AsyncExc`.  Each side writes first and then looks at what the other has
written, so that one of them always sees the other:

    thread, leaving the application           the takedown, holding the AsyncExc's lock
    1. in_application = False                 1. exchange.takedown = the AsyncExc  (when the takedown begins)
    2. takedown?  then take its lock, and     2. in_application?  then
       clear what has not been raised yet     3. have the exception raised

If the takedown sees the thread in the application, the thread's own look at `takedown` is still to come.  It waits
for the lock until the exception has been set, and then clears it.  CPython looks for an exception that another
thread has set only at calls, backward jumps and the beginning of functions: the two steps of the thread are none of
these, so none can be raised between them.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

#: Set the exception to raise in a thread, or, with :data:`NOTHING`, clear it.  It keeps the interpreter's lock.
set_exception: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc
set_exception.argtypes = (ctypes.c_ulong, ctypes.py_object)
set_exception.restype = ctypes.c_int
NOTHING: Final[Any] = ctypes.py_object()

#: Seconds that `Hook.cancel` waits for a call under way: an application's hook may hang, its thread must not.
HOOK_LIMIT: Final = 5.0


class RunsApplication(Protocol):
    """What a takedown asks of an exchange.

    :ivar in_application: the exchange's thread is in the application's code.
    """

    in_application: bool


class AsyncExc:
    """The takedown of one exchange, as its thread sees it.

    :param thread: the thread that works for the exchange, as `threading.get_ident()` has it.
    :ivar lock: held while the exception is set, and while it is cleared.
    """

    __slots__ = ("lock", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.lock = threading.Lock()

    def inject(self, exchange: RunsApplication, exception: type[BaseException]) -> bool:
        """Have an exception raised in the exchange's thread.  Any other thread; does not wait.

        :returns: False if the thread is not in the application's code, or is just leaving it.
        """
        if not self.lock.acquire(blocking=False):
            return False
        try:
            return exchange.in_application and set_exception(self.thread, exception) == 1
        finally:
            self.lock.release()


def clear_pending(async_exc: AsyncExc) -> None:
    """Clear an exception that has not been raised yet.  In its target thread, after that has left the application.

    The call itself may raise the exception, so it is made only where that does no harm.  Where it would do harm, the
    caller repeats these two lines in place.
    """
    with async_exc.lock:
        set_exception(async_exc.thread, NOTHING)


class Hook:
    """Something to call at the takedown of an exchange; a context manager that cancels it.

    :ivar function: what to call; None once it was called or cancelled.
    """

    __slots__ = ("_all", "_lock", "function")

    def __init__(self, function: Callable[[], object], all_hooks: list[Hook]) -> None:
        self.function: Callable[[], object] | None = function
        self._lock = threading.Lock()
        self._all = all_hooks
        all_hooks.append(self)

    def run(self) -> None:
        """Call it, if it was neither called nor cancelled."""
        if self.function is None:
            return
        with self._lock:
            function, self.function = self.function, None
            if function is not None:
                function()

    def cancel(self) -> None:
        """Never call it; if it is being called right now, wait until it returns, for a few seconds at most.

        After this, what it would have ended may be used for another request.
        """
        self.function = None
        if self in self._all:
            self._all.remove(self)
        if self._lock.acquire(timeout=HOOK_LIMIT):
            self._lock.release()

    def __enter__(self) -> Hook:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.cancel()
