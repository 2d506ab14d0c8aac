"""Request bodies: taken in before a thread is used, without letting a disk stop the event loop.

A thread that reads a slow upload is a thread lost, so a body is complete before the application sees it.  Small
ones stay in memory.  Larger ones go to a temporary file that has no name any more by the time anything is
written to it, so that nothing is left behind whatever happens.  A disk can be slow or full: one thread of its
own does all the writing, the connection stops reading while more than a bounded amount waits for it, and a
write that fails costs that one upload an answer of 507, and no other request anything.
"""

from __future__ import annotations

import errno
import io
import tempfile
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import IO, Any, Final

from twisted.logger import Logger

from graceful.threads.start import NoThread, start_thread

log = Logger(namespace="graceful")


#: Bytes of a request body that are kept in memory; a larger one goes to a file.
MEMORY: Final = 65536
#: Bytes not yet written to the file at which reading from the client stops.
HIGH: Final = 262144
#: Bytes not yet written at which reading goes on.
LOW: Final = 65536

FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class Spool:
    """One request body on its way to a temporary file.

    :param told: called in the reactor thread when the disk has caught up, and when it has failed.
    :ivar file: the file; the writer thread's until the body is finished, then the exchange's.
    :ivar error: why it could not be written, or None.  Set by the writer thread.
    :ivar accepted: bytes that have come.  The reactor thread's.
    :ivar written: bytes that are in the file.  The writer thread's.
    :ivar dropped: it is not needed any more.  Set by the reactor thread.
    """

    __slots__ = ("accepted", "dropped", "error", "file", "told", "written")

    def __init__(self, told: Callable[[Spool], None]) -> None:
        self.file: IO[bytes] | None = None
        self.error: Exception | None = None
        self.told = told
        self.accepted = self.written = 0
        self.dropped = False

    @property
    def behind(self) -> int:
        """Bytes that wait for the disk."""
        return self.accepted - self.written


class Spooler:
    """The thread that writes bodies to files.

    :param directory: where the files are made; None is the system's temporary directory.
    :param call: calls a function in the reactor thread, from any thread.
    """

    def __init__(self, directory: str | None, call: Callable[..., object]) -> None:
        self._directory = directory
        self._call = call
        self._work: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    # -- the reactor thread

    def write(self, spool: Spool, data: bytes) -> None:
        """Accept a piece."""
        if self._thread is None and not self._start():
            spool.error = OSError("the thread that writes request bodies cannot be started")
            self._call(spool.told, spool)
            return
        spool.accepted += len(data)
        self._work.put((self._write, (spool, data)))

    def _start(self) -> bool:
        """Start the thread; False if the system refuses it, which may be otherwise at the next body."""
        try:
            self._thread = start_thread(self._run, "graceful-spool")
        except NoThread as error:
            log.error("no request body can be written to a file: {error}", error=error)
            return False
        return True

    def go_on(self, file: int, size: int, told: Callable[[Spool], None]) -> Spool:
        """Go on with a body of which another process has written the beginning to a file.

        :param file: the file's descriptor, which is owned from now on.
        :param size: bytes of the body that are in it.
        """
        spool = Spool(told)
        spool.file = io.FileIO(file, "r+b")
        spool.file.seek(size)
        spool.accepted = spool.written = size
        if self._thread is None and not self._start():
            spool.error = OSError("the thread that writes request bodies cannot be started")
            self._call(told, spool)
        return spool

    def finish(self, spool: Spool, told: Callable[[], None]) -> None:
        """Nothing more will come: rewind the file, then call `told` in the reactor thread, also after an error."""
        if self._thread is None:
            self._call(told)
        else:
            self._work.put((self._finish, (spool, told)))

    def drop(self, spool: Spool) -> None:
        """The body is not needed any more: close the file."""
        spool.dropped = True
        self._work.put((self._close, (spool,)))

    def stop(self) -> None:
        """End the thread when it has done what it was given before."""
        if self._thread is not None:
            self._work.put(None)
            self._thread = None

    # -- the writer thread

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            function, arguments = job
            try:
                function(*arguments)
            except Exception:
                log.failure("the writer of request bodies goes on after this")
            del job, function, arguments

    def _write(self, spool: Spool, data: bytes) -> None:
        was = spool.behind
        if not spool.dropped and spool.error is None:
            try:
                if spool.file is None:
                    spool.file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 - it stays open
                rest = memoryview(data)
                while rest:
                    rest = rest[spool.file.write(rest) :]
            except Exception as error:
                spool.error = error
                self._close(spool)
                self._call(spool.told, spool)
        spool.written += len(data)
        if spool.behind <= LOW < was and spool.error is None:
            self._call(spool.told, spool)

    def _finish(self, spool: Spool, told: Callable[[], None]) -> None:
        if spool.file is not None and spool.error is None and not spool.dropped:
            # Unbuffered so far, so that an error came with the write that met it; the application reads lines.
            try:
                spool.file.seek(0)
                spool.file = io.BufferedReader(spool.file)  # type: ignore[type-var]
            except Exception as error:
                spool.error = error
                self._close(spool)
        self._call(told)

    @staticmethod
    def _close(spool: Spool) -> None:
        file, spool.file = spool.file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                pass  # what was in it is not needed
