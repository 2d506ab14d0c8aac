"""The access log: one line for each exchange, written by a thread of its own, and no line lost in a drain.

A line costs as much as a tenth of a small request, and a disk may take seconds for it, or refuse it.  So neither a
thread that holds a request nor the reactor thread may write one.  Yet the lines of the last exchanges before an exit
prove that no request was interrupted, and must not be lost.

So the server only appends a finished exchange to a deque (:attr:`AccessLog.record` is the deque's own `append`: one C
call, atomic, from any thread).  Under load, a thread of the application that has run out of requests makes the lines:
then no request waits for that, and all that it reads is still in the processor's cache, which halves the price.  The
log's own thread makes those that are left, and writes all with one `write(2)` to a descriptor opened with O_APPEND:
so an instance and its successor can share the file.  It looks four times a second, and under load more often.

:mod:`graceful.logs.access_lines` defines the content of a line, :mod:`graceful.logs.access_forms` the other forms.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from graceful.logs.access_forms import Render
from graceful.logs.access_lines import CombinedLines, Finished
from graceful.threads.start import start_thread

log = Logger(namespace="graceful")


#: The path that means standard output.
STANDARD_OUTPUT: Final = "-"

#: Seconds between two batches while there is little to write.
IDLE_INTERVAL: Final = 0.25

#: Seconds to the next batch after one of at least `BUSY_LINES`: waiting exchanges cost the garbage collector time.
BUSY_INTERVAL: Final = 0.02

#: Lines in a batch; with this many or more, the log is busy.
BUSY_LINES: Final = 100

#: Lines that a thread makes in one go, since no other thread runs meanwhile; the log's own makes more if far more
#: wait.  Fewer do not pay: clients get their answers in bursts, and each break in one wakes them once more.
PIECE_LINES: Final = 100

#: Seconds between two pieces of a batch.  To let go of the interpreter's lock for a moment is not enough: this thread
#: would be back before another one has woken up.
PIECE_INTERVAL: Final = 0.0005

#: Lines that are kept while they cannot be written; they take about 20 MB.
KEPT_LINES: Final = 100_000

#: Exchanges, and lines, that may wait while a write does not return, as into a pipe that no process reads.
_GATHERED: Final = 100_000


class AccessLog:
    """An access log in a file, or on standard output.

    The constructor opens the file.  :meth:`start` starts the thread that writes, and must come after every fork.

    :param path: the file to append to, which is created if it does not exist; `-` is standard output.
    :param clock: returns monotonic seconds, by the clock of the exchanges' times.
    :param wall: returns seconds since the epoch.
    :param write: as `os.write`.
    :param kept_lines: how many lines are kept while they cannot be written.
    :param render: makes the line of an exchange; one thread at a time.
    :raises OSError: the file cannot be opened.

    :ivar record: takes a :class:`Finished` exchange; any thread, never waits, never raises.
    """

    def __init__(
        self,
        path: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        write: Callable[[int, bytes], int] = os.write,
        kept_lines: int = KEPT_LINES,
        render: Render | None = None,
    ) -> None:
        self._render = render if render is not None else CombinedLines()
        self.path = path
        self._clock = clock
        self._wall = wall
        self._write = write
        self._kept_limit = kept_lines
        # Any thread appends; the thread that has the lock takes from the front, and appends the lines that it makes.
        self._records: deque[Finished] = deque(maxlen=_GATHERED)
        self.record: Callable[[Finished], None] = self._records.append
        self._making = threading.Lock()
        # Only the writer takes from the front.
        self._lines: deque[str] = deque(maxlen=_GATHERED)
        # Seconds from the monotonic time to that since the epoch: the writer follows it, any thread reads it.
        self._offset = wall() - clock()
        # Set by any thread, read by the writer.
        self._wake = threading.Event()
        self._flushes: deque[threading.Event] = deque()
        self._reopen = self._stop = False
        # The fields below belong to the writer; other threads may read `_kept_lines`.
        self._writer: threading.Thread | None = None
        self._descriptor = self._open()
        self._kept: deque[tuple[bytes, int]] = deque()
        self._kept_lines = 0
        self._written = 0
        self._troubled = False
        self._dropped = 0

    def _open(self) -> int:
        if self.path == STANDARD_OUTPUT:
            return 1
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o640)

    # -- any thread -----------------------------------------------------------------------------------------

    def make_lines(self) -> None:
        """Make lines if enough exchanges wait for theirs, and no other thread makes some just now.  Never waits."""
        if len(self._records) >= PIECE_LINES and self._making.acquire(False):
            try:
                self._make_lines(PIECE_LINES)
            finally:
                self._making.release()

    def _make_lines(self, most: int) -> None:
        """Make the lines of the first exchanges.  If one cannot be made, the server's log says so.

        :param most: how many, or all that there are.
        """
        records, lines, render, offset = self._records, self._lines, self._render, self._offset
        for _ in range(min(most, len(records))):
            exchange = records.popleft()
            try:
                lines.append(render(exchange, exchange.started + offset))
            except Exception:
                log.failure("{exchange} has no line in the access log", exchange=exchange)

    def start(self) -> None:
        """Start the writer thread.

        :raises NoThread: the system refuses it.
        """
        self._writer = start_thread(self._run, "access log", "the thread of the access log")

    def flush(self, timeout: float = 2.0) -> bool:
        """Write everything that was recorded before this call, at the end of a drain.  Blocks.

        :param timeout: seconds to wait at most.
        :returns: whether it is all written.
        """
        if self._writer is None:
            self.write_pending()
        else:
            done = threading.Event()
            self._flushes.append(done)
            self._wake.set()
            if not done.wait(timeout):
                return False
        return not self._kept_lines

    def reopen(self) -> None:
        """Have the writer open the path again, after logrotate has moved the file; returns at once.

        Lines that are not written yet go to the new file.  If it cannot be opened, the old one stays in use.
        """
        self._reopen = True
        self._wake.set()

    def close(self, timeout: float = 2.0) -> bool:
        """Write what is recorded, and close the file.  Nothing may be recorded afterwards.  Blocks.

        :param timeout: seconds to wait at most for a write that does not return.
        :returns: whether everything is written.
        """
        self._stop = True
        self._wake.set()
        if self._writer is None:
            self._finish()
        else:
            self._writer.join(timeout)
            if self._writer.is_alive():
                return False
        return not self._kept_lines

    # -- the writer -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        interval = IDLE_INTERVAL
        while not self._stop:
            self._wake.wait(interval)
            self._wake.clear()
            lines = self._try_to_write()
            interval = BUSY_INTERVAL if lines >= BUSY_LINES else IDLE_INTERVAL
        self._finish()

    def _try_to_write(self) -> int:
        """Write what is recorded.  It may fail, but the thread must not end: nothing would be written any more.

        :returns: the number of lines taken; 0 if it has failed.
        """
        try:
            return self.write_pending()
        except Exception:
            log.failure("a batch of the access log is lost")
            return 0

    def write_pending(self) -> int:
        """Write what is recorded; before that, open the path again if :meth:`reopen` was called.

        Called in the writer thread; in other threads only while there is no writer thread.

        :returns: the number of lines taken.
        """
        flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
        try:
            self._offset = self._wall() - self._clock()
            if self._reopen:
                self._reopen = False
                self._open_anew()
            self._send()
            self._make_all()
            lines = self._lines
            count = len(lines)
            if count:
                self._keep([lines.popleft() for _ in range(count)])
                self._send()
            return count
        finally:
            for done in flushes:
                done.set()

    def _make_all(self) -> None:
        """Make the lines of what is recorded by now, with pauses."""
        left = len(self._records)
        if _GATHERED in (left, len(self._lines)):
            log.error("access log {path} took too long to write: lines are lost", path=self.path)
        while left > 0:
            piece = max(PIECE_LINES, left // 8)
            with self._making:
                self._make_lines(piece)
            left -= piece
            if left > 0:
                self._wake.wait(PIECE_INTERVAL)  # not at all if a caller waits for the lines

    def _keep(self, batch: list[str]) -> None:
        room = max(0, self._kept_limit - self._kept_lines)
        if self._troubled and len(batch) > room:
            if not self._dropped:
                log.error(
                    "access log {path}: {limit} lines wait to be written, from now on lines are dropped",
                    path=self.path,
                    limit=self._kept_limit,
                )
            self._dropped += len(batch) - room
            del batch[room:]
            if not batch:
                return
        self._kept.append(("".join(batch).encode(), len(batch)))
        self._kept_lines += len(batch)

    def _send(self) -> None:
        kept = self._kept
        while kept:
            data, lines = kept[0]
            try:
                self._written += self._write(self._descriptor, data[self._written :])
            except OSError as error:
                if not self._troubled:
                    self._troubled = True
                    log.error(
                        "access log {path} cannot be written ({reason}): up to {limit} lines are kept",
                        path=self.path,
                        reason=error.strerror or str(error),
                        limit=self._kept_limit,
                    )
                return
            if self._written >= len(data):
                kept.popleft()
                self._kept_lines -= lines
                self._written = 0
        if self._troubled:
            self._troubled = False
            log.info(
                "access log {path} is written again, {dropped} lines were dropped",
                path=self.path,
                dropped=self._dropped,
            )
            self._dropped = 0

    def _open_anew(self) -> None:
        if self.path == STANDARD_OUTPUT:
            return
        try:
            descriptor = self._open()
        except OSError as error:
            log.error(
                "access log {path} cannot be reopened ({reason}): it goes on in the old file",
                path=self.path,
                reason=error.strerror or str(error),
            )
            return
        os.close(self._descriptor)
        self._descriptor = descriptor
        if self._written:
            # A full disk took only a part of a line: the new file gets the line from its beginning.
            self._written = self._kept[0][0].rfind(b"\n", 0, self._written) + 1

    def _finish(self) -> None:
        left = -1
        while len(self._records) != left:  # as long as it gets on
            left = len(self._records)
            self._try_to_write()
        if self._kept_lines or self._dropped:
            log.error(
                "access log {path}: {lost} lines could not be written and are lost",
                path=self.path,
                lost=self._kept_lines + self._dropped,
            )
        if self.path != STANDARD_OUTPUT:
            os.close(self._descriptor)
