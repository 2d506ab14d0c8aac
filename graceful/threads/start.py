"""Starts a thread, and says what to do if the system refuses it.

`threading.Thread.start` raises a bare RuntimeError at a limit on processes (`ulimit -u`, a container's pids limit),
and a MemoryError if there is no memory for a stack.  A thread object whose start has failed looks like a running one;
so the caller gets the object only when its thread runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

#: The exceptions of `Thread.start` when the system refuses a thread.
REFUSALS = (RuntimeError, MemoryError)


class NoThread(Exception):
    """The system refuses another thread.  Its text is one line for the operator.

    :param what: names the thread that cannot be started.
    :param error: the refusal.
    """

    def __init__(self, what: str, error: BaseException) -> None:
        super().__init__(
            f"{what} cannot be started: {error}; raise the limit on processes and threads"
            " (ulimit -u, a container's pids limit) or on memory"
        )


def start_thread(target: Callable[[], object], name: str, what: str = "a thread") -> threading.Thread:
    """Start a daemon thread.

    :param target: the function to run in the thread.
    :param name: the thread's name.
    :param what: names the thread in the error.
    :returns: the running thread.
    :raises NoThread: the system refuses it.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except REFUSALS as error:
        raise NoThread(what, error) from error
    return thread
