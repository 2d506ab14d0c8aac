"""Starting a thread where the system may refuse it.

`threading.Thread.start` raises a bare RuntimeError at a limit on processes (`ulimit -u`, a container's pids limit),
and a MemoryError where there is no memory for a stack.  A thread object whose start has failed looks like one that
runs to the code that keeps it; so it is returned only when it runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

#: What the system raises when it refuses a thread.
REFUSALS = (RuntimeError, MemoryError)


class NoThread(Exception):
    """The system refuses another thread.  Its text is one line for the operator.

    :param what: the thread that cannot be started.
    :param error: what the system says.
    """

    def __init__(self, what: str, error: BaseException) -> None:
        super().__init__(
            f"{what} cannot be started: {error}; raise the limit on processes and threads"
            " (ulimit -u, a container's pids limit) or on memory"
        )


def start_thread(target: Callable[[], object], name: str, what: str = "a thread") -> threading.Thread:
    """Start a daemon thread.

    :param target: runs in the thread.
    :param name: of the thread.
    :param what: names the thread in the error.
    :returns: the thread, which runs.
    :raises NoThread: the system refuses it.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except REFUSALS as error:
        raise NoThread(what, error) from error
    return thread
