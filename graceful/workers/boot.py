"""Waiting for the first workers, which start together before the reactor runs.

If an application cannot be imported, start-up fails with one line and leaves nothing behind.  Workers import the
application themselves, so the supervisor waits for them here, blocking, as if it imported the application itself.
"""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

from graceful.workers.reading import read_what_comes
from graceful.workers.worker import WorkerProcess, WorkerState

#: Seconds that a worker which does not serve yet has to end after SIGTERM, before it is killed.
ENDS_IN: Final = 2.0


def wait_until_ready(coming: Callable[[], Sequence[WorkerProcess]]) -> bool:
    """Wait until all workers are ready to accept.  Blocks.

    :param coming: returns the workers that are being started.
    :returns: False if one has ended instead.
    """
    count = len(coming())
    while len(coming()) == count:
        if all(worker.state != WorkerState.STARTING for worker in coming()):
            return True
        read_what_comes(reader for worker in coming() for reader in (worker.channel, worker.child))
    return False


def terminate(workers: Sequence[WorkerProcess]) -> None:
    """End workers that have not begun to accept, since start-up has failed.  Blocks, briefly."""
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    give_up = time.monotonic() + ENDS_IN
    for worker in workers:
        poll = select.poll()
        poll.register(worker.child, select.POLLIN)
        if not poll.poll(1000 * max(0.0, give_up - time.monotonic())):
            worker.send_signal(signal.SIGKILL)
        worker.child.doRead()
