"""Threads that wait for the disk: they open files, and read blocks of files into memory.

The reactor thread must not wait for a disk, and the application's threads may all be stuck.  So there are a few
threads for the disk alone; a disk serves more of them no faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from graceful.threads.pool import Pool
from graceful.threads.start import NoThread

#: Threads; when this many calls hang on a disk, all other calls wait.
SIZE: Final = 4
#: Calls that may wait for a thread; more than a server has connections.
WAITING: Final = 100_000

Done = Callable[[BaseException | None], None]


class DiskThreads:
    """Runs calls that may wait for the disk, in threads that start with the first call.  Reactor thread.

    :param call: calls a function in the reactor thread, from any thread.
    """

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call
        self._pool: Pool[tuple[Callable[[], object], Done]] | None = None

    def do(self, what: Callable[[], object], done: Done) -> None:
        """Call a function in a thread.

        :param what: the function; it may wait for the disk.
        :param done: called in the reactor thread afterwards, with the exception that was raised, or with None.
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
        """End the threads; a thread that waits for a disk for longer than `timeout` is left alone.  Blocks.

        :param timeout: seconds to wait for all threads together.
        """
        if self._pool is not None:
            self._pool.stop(timeout)
            self._pool = None
