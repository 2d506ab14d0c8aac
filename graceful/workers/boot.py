"""The first workers: started together, before the reactor runs, so that nothing has to be undone if one cannot.

A start-up fails, in one line and with nothing left, if an application cannot be imported.  With workers it is they
who import it; so the supervisor waits for them here, blocking, as it would import it itself.
"""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

from graceful.workers.worker import WorkerProcess, WorkerState

#: Seconds that a worker which does not serve yet has to end when it is told to; then it is killed.
ENDS_IN: Final = 2.0


def wait_until_ready(coming: Callable[[], Sequence[WorkerProcess]]) -> bool:
    """Wait until all would accept.  Blocks.

    :param coming: those that are being started.
    :returns: whether none has ended.
    """
    count = len(coming())
    while len(coming()) == count:
        if all(worker.state != WorkerState.STARTING for worker in coming()):
            return True
        readers = {
            reader.fileno(): reader
            for worker in coming()
            for reader in (worker.channel, worker.child)
            if reader.fileno() >= 0
        }
        poll = select.poll()
        for descriptor in readers:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll():
            if readers[descriptor].fileno() == descriptor:  # one event may have ended what the next is about
                readers[descriptor].doRead()
    return False


def terminate(workers: Sequence[WorkerProcess]) -> None:
    """End those that have not begun to accept.  Blocks, briefly: start-up has failed."""
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    give_up = time.monotonic() + ENDS_IN
    for worker in workers:
        poll = select.poll()
        poll.register(worker.child, select.POLLIN)
        if not poll.poll(1000 * max(0.0, give_up - time.monotonic())):
            worker.send_signal(signal.SIGKILL)
        worker.child.doRead()
