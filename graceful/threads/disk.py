"""A few threads for what can block and is no application's code: opening files, fetching their blocks from a disk.

They are kept apart from the application's, all of which may be stuck, and there are only as many as a disk is good
for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from graceful.threads.pool import Pool
from graceful.threads.start import NoThread

#: Threads: a disk that hangs blocks as many files at a time.
SIZE: Final = 4
#: Calls that may wait for a thread; more than there are connections.
WAITING: Final = 100_000

Done = Callable[[BaseException | None], None]


class DiskThreads:
    """Threads that start with the first thing there is to do.  Reactor thread.

    :param call: calls a function in the reactor thread, from any thread.
    """

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call
        self._pool: Pool[tuple[Callable[[], object], Done]] | None = None

    def do(self, what: Callable[[], object], done: Done) -> None:
        """Have something done.

        :param what: called in a thread.
        :param done: called in the reactor thread afterwards, with what was raised or None.
        """
        if self._pool is None:
            pool = Pool(SIZE, WAITING, self._run)
            try:
                pool.start()
            except NoThread as error:
                self._call(done, OSError(str(error)))
                return
            self._pool = pool
        if not self._pool.offer((what, done)):
            self._call(done, OSError("too many files wait for the disk"))

    def _run(self, job: tuple[Callable[[], Any], Done]) -> None:
        what, done = job
        try:
            what()
        except BaseException as error:
            self._call(done, error)
        else:
            self._call(done, None)

    def stop(self, timeout: float) -> None:
        """End the threads; those that wait for a disk are left to it.

        :param timeout: how long to wait for them, seconds.
        """
        if self._pool is not None:
            self._pool.stop(timeout)
            self._pool = None
