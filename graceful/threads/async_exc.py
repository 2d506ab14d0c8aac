"""Where an exception may be raised in a thread, and where not.

`PyThreadState_SetAsyncExc` raises an exception in another thread "at the next bytecode", whatever that thread then
does: it may hold a connection's write token, or be in the middle of somebody else's request.  So it may only happen
while the thread is inside the application's code, and one that comes too late must not come at all.

The thread says where it is by one attribute of the exchange, `inside`, and pays no lock for it.  Who takes the
exchange down has an :class:`AsyncExc`, and both keep an order in which one of them always sees the other:

    thread, leaving the application           whoever takes it down, holding the aim's lock
    1. inside = False                         1. exchange.aim = the aim  (when the takedown begins)
    2. aim?  then take its lock, and          2. inside?  then
       clear what has not been raised yet     3. have the exception raised

If the thread is seen inside, its own look at `aim` is still to come, and waits for the lock until the exception was
set; then it is cleared.  In CPython an exception set by another thread is looked for only at calls, backward jumps
and the beginning of functions: the two steps of the thread are none of these, so that none can come in between.
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

HOOK_LIMIT: Final = 5.0


class RunsApplication(Protocol):
    """What a takedown asks of an exchange.

    :ivar inside: the exchange's thread is in the application's code.
    """

    inside: bool


class AsyncExc:
    """The takedown of one exchange, as its thread sees it.

    :param thread: the thread that works for the exchange, as `threading.get_ident()` has it.
    :ivar lock: held while the exception is set, and while it is cleared.
    """

    __slots__ = ("lock", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.lock = threading.Lock()

    def fire(self, exchange: RunsApplication, exception: type[BaseException]) -> bool:
        """Have an exception raised in the exchange's thread.  Any other thread; does not wait.

        False: the thread is not inside the application's code, or is just leaving it.
        """
        if not self.lock.acquire(blocking=False):
            return False
        try:
            return exchange.inside and set_exception(self.thread, exception) == 1
        finally:
            self.lock.release()


def settle(aim: AsyncExc) -> None:
    """Clear what has not been raised yet.  In the thread that is aimed at, when it is no longer inside.

    It may be raised just here, on the way in: so this is called where that does no harm.  Where it would, the two
    lines stand without the call.
    """
    with aim.lock:
        set_exception(aim.thread, NOTHING)


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

        After this, what it would have ended can be somebody else's.
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
