"""Raises an exception in another thread, but only while that thread is in the application's code.

`PyThreadState_SetAsyncExc` raises an exception in another thread "at the next bytecode", whatever that thread then
does: it may hold a connection's write token, or have begun another request.  So the exception may only be raised
while the thread is in the application's code, and an exception that comes too late must not be raised at all.

The thread tells where it is by one attribute of the exchange, `in_application`, without a lock.  A takedown sets the
exchange's `takedown`, an :class:`AsyncExc`.  Each side first writes its own attribute and then reads the other's, so
that at least one of them sees the other:

    thread, leaving the application           the takedown, holding the AsyncExc's lock
    1. in_application = False                 1. exchange.takedown = the AsyncExc  (when the takedown begins)
    2. takedown?  then take its lock, and     2. in_application?  then
       clear what has not been raised yet     3. have the exception raised

If the takedown sees the thread in the application, the thread has not yet read `takedown`.  When it does, it waits
for the lock until the exception is set, and then clears it.  CPython raises an exception that another thread has set
only at calls, at backward jumps and at the beginning of functions.  The thread's two steps are none of these, so the
exception cannot be raised between them.

Entering a `with` block is one of those calls in CPython 3.14 (and in no version before or after it): an exception
that is raised there leaves the lock locked.  So the thread clears once before it takes the lock, by the first call
after its two steps.  In CPython 3.10 the beginning of an exception's handler is one, too: what is raised there is an
exception of the handler, and only the next handler gets it.  So the runner has two of them.
`tests/fast/threads/test_checkpoints.py` reads these claims from the bytecode of the interpreter that runs it, and has
exceptions raised at the worst moments.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

#: Sets the exception to raise in a thread; with :data:`NOTHING`, clears it.  It does not release the GIL.
set_exception: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc
set_exception.argtypes = (ctypes.c_ulong, ctypes.py_object)
set_exception.restype = ctypes.c_int
NOTHING: Final[Any] = ctypes.py_object()

#: Seconds that `Hook.cancel` waits for a running hook: an application's hook may hang, its caller must not.
HOOK_LIMIT: Final = 5.0


class RunsApplication(Protocol):
    """An exchange whose thread runs the application, as a takedown sees it.

    :ivar in_application: the exchange's thread is in the application's code.
    """

    in_application: bool


class AsyncExc:
    """Raises the exception of a takedown in the thread of one exchange.

    :param thread: the `threading.get_ident()` of the thread that works for the exchange.
    :ivar lock: held while the exception is set, and while it is cleared.
    """

    __slots__ = ("lock", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.lock = threading.Lock()

    def inject(self, exchange: RunsApplication, exception: type[BaseException], asleep: bool = False) -> bool:
        """Have an exception raised in the exchange's thread.  In any other thread; does not wait.

        :param asleep: the thread has not run since it was looked at before.
        :returns: False if the thread is not in the application's code, or is just leaving it.
        """
        if not self.lock.acquire(blocking=False):
            return False
        try:
            return exchange.in_application and set_exception(self.thread, exception) == 1
        finally:
            self.lock.release()


def clear_pending(async_exc: AsyncExc) -> None:
    """Clear an exception that has not been raised yet.  In its target thread, once that has left the application.

    The call of this function may itself raise the exception.  So it is called only where that does no harm; elsewhere
    the caller repeats these lines in place.
    """
    set_exception(async_exc.thread, NOTHING)  # before the lock, which could be left locked: see above
    with async_exc.lock:
        set_exception(async_exc.thread, NOTHING)


class Hook:
    """A function that the takedown of an exchange calls; a context manager that cancels it.

    :param all_hooks: the hooks of the exchange, to which this one is added.
    :ivar function: the function; None once it was called or cancelled.
    """

    __slots__ = ("_all", "_lock", "function")

    def __init__(self, function: Callable[[], object], all_hooks: list[Hook]) -> None:
        self.function: Callable[[], object] | None = function
        self._lock = threading.Lock()
        self._all = all_hooks
        all_hooks.append(self)

    def run(self) -> None:
        """Call the function, if it was neither called nor cancelled."""
        if self.function is None:
            return
        with self._lock:
            function, self.function = self.function, None
            if function is not None:
                function()

    def cancel(self) -> None:
        """Never call the function; if it runs right now, wait until it returns, for at most `HOOK_LIMIT` seconds.

        Afterwards the thing that the function would have ended may be used for another request.
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
