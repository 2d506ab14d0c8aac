"""Request bodies: taken in before a thread is used, without letting a disk stop the event loop.

A thread that reads a slow upload is a thread lost, so a body is complete before the application sees it.  Small
ones stay in memory.  Larger ones go to a temporary file that has no name any more by the time anything is
written to it, so that nothing is left behind whatever happens.  A disk can be slow or full: one thread of its
own does all the writing, the connection stops reading while more than a bounded amount waits for it, and a
write that fails costs that one upload an answer of 507 and nobody else anything.
"""

from __future__ import annotations

import errno
import tempfile
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import IO, Final

MEMORY: Final = 65536
HIGH: Final = 262144
LOW: Final = 65536

FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class Spool:
    """One request body on its way to a temporary file.

    :ivar file: the file; belongs to the writer thread until `told` has been called, then to the exchange.
    :ivar behind: bytes accepted and not yet written; added by the reactor thread, both only look otherwise.
    :ivar error: why it could not be written, or None.
    """

    __slots__ = ("accepted", "closed", "error", "file", "told", "written")

    def __init__(self, told: Callable[[Spool], None]) -> None:
        self.file: IO[bytes] | None = None
        self.error: OSError | None = None
        self.told = told
        self.accepted = self.written = 0
        self.closed = False

    @property
    def behind(self) -> int:
        """Bytes that wait for the disk.  `accepted` is the reactor's field, `written` the writer thread's."""
        return self.accepted - self.written


class Spooler:
    """The thread that writes bodies to files.

    :param directory: where the files are made; None is the system's temporary directory.
    :param call: calls a function in the reactor thread, from any thread.
    """

    def __init__(self, directory: str | None, call: Callable[..., object]) -> None:
        self._directory = directory
        self._call = call
        self._work: SimpleQueue[tuple[Spool, bytes | None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def write(self, spool: Spool, data: bytes) -> None:
        """Accept a piece.  Reactor thread; `told` is called there when enough of it is written."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="graceful-spool", daemon=True)
            self._thread.start()
        spool.accepted += len(data)
        self._work.put((spool, data))

    def finish(self, spool: Spool) -> None:
        """Nothing more will come: rewind the file, then call `told` in the reactor thread."""
        self._work.put((spool, None))

    def drop(self, spool: Spool) -> None:
        """Nobody wants it any more.  Any thread."""
        spool.closed = True
        self._work.put((spool, None))

    def stop(self) -> None:
        """End the thread when it has done what it was given before."""
        if self._thread is not None:
            self._work.put(None)
            self._thread = None

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            spool, data = job
            try:
                self._write(spool, data)
            except OSError as error:
                spool.error = error
                self._close(spool)
                self._call(spool.told, spool)

    def _write(self, spool: Spool, data: bytes | None) -> None:
        if spool.closed:
            self._close(spool)
        elif spool.error is not None:
            spool.written = spool.accepted
        elif data is None:
            if spool.file is not None:
                spool.file.seek(0)
            self._call(spool.told, spool)
        else:
            if spool.file is None:
                spool.file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - outlives this call
            spool.file.write(data)
            was = spool.behind
            spool.written += len(data)
            if spool.behind <= LOW < was:
                self._call(spool.told, spool)

    @staticmethod
    def _close(spool: Spool) -> None:
        if spool.file is not None:
            try:
                spool.file.close()
            except OSError:
                pass  # its last buffered bytes did not fit either
