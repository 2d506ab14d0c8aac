"""Sending a file from the event loop: sendfile(2), a block at a time, and never from a disk.

The kernel copies from its page cache to the socket; no byte comes into this process, and no thread waits for the
client.  Two things could hold up all other clients: a block that is not in memory, so a thread fetches it first; and
a client that reads as fast as we can send, so each client gets one block a turn.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger
from zope.interface import implementer

from graceful.downloads.files import BLOCK, OpenFile, fetch, in_memory
from graceful.downloads.reactor_answer import run_or_fail
from graceful.web.carrying import CarriedAnswer, IMovable
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import DOWNLOADING, SENDING, Exchange
from graceful.web.interfaces import IAnswerer

if TYPE_CHECKING:
    from graceful.threads.disk import DiskThreads

log = Logger(namespace="graceful")


#: What goes on in another process with an answer of this kind.
FILE: Final = "file"
#: Errors of sendfile(2) that the file has caused; all others are the connection's.
_OF_THE_DISK: Final = frozenset((errno.EIO, errno.ESTALE))


@implementer(IAnswerer, IMovable)
class FileSender:
    """One file on its way to one client; a `graceful.downloads.reactor_answer.ReactorAnswer`.

    Made in any thread; all else happens in the reactor's.

    :param exchange: its answer is started, with its length, but not begun.
    :param file: closed at the end, however that comes.
    :param first: offset of the first byte to send.
    :param end: offset behind the last byte.
    :param disk: fetches blocks that are not in memory.
    :param in_memory: whether a block is: descriptor, offset, bytes.
    """

    def __init__(
        self,
        exchange: Exchange,
        file: OpenFile,
        first: int,
        end: int,
        disk: DiskThreads,
        in_memory: Callable[[int, int, int], bool] = in_memory,
    ) -> None:
        self.exchange = exchange
        self._connection = exchange.connection
        self._file = file
        self._offset = first
        self._end = end
        self._fetched = first  # the file is in memory up to this offset
        self._disk = disk
        self._in_memory = in_memory
        self._fetching = self._over = False

    def begin(self) -> None:
        """Send the head, and then the file, a block a turn.  Reactor thread."""
        exchange = self.exchange
        exchange.handler = self
        exchange.phase = DOWNLOADING
        try:
            if self._offset == self._end or exchange.bare():
                exchange.finish()
                self._done()
            else:
                self._connection.keep_unsent_low(True)
                self._connection.begin_pull(exchange, exchange.begin(), self._pull)
        except Disconnected:
            self.disconnected(exchange)

    def resume(self) -> None:
        """Go on with an answer of which another process has sent the head, and the file up to the first byte."""
        self.exchange.handler = self
        self._connection.keep_unsent_low(True)
        self._connection.pull_on(self._pull)

    def drop(self) -> None:
        """Close the file, or have the thread's return close it."""
        self._over = True
        if not self._fetching:
            self._file.close()

    def _pull(self) -> bool:
        """Send a block.

        :returns: False if the whole file is sent, or cannot be sent to its end.
        """
        if self._fetching:
            return True
        count = min(BLOCK, self._end - self._offset)
        if self._offset + count > self._fetched:
            if not self._in_memory(self._file.fd, self._offset, count):
                self._fetch(count)
                return True
            self._fetched = self._offset + count
        try:
            sent = self._connection.push_file(self._file.fd, self._offset, count)
        except OSError as error:
            if error.errno in _OF_THE_DISK:
                self._log_failure(os.strerror(error.errno))
            raise
        self._connection.active = monotonic()
        self._offset += sent
        self.exchange.sent += sent
        if sent and self._offset < self._end:
            return True
        if not sent:
            self._log_failure("it has become shorter")
        self._complete()
        return False

    # -- what is not in memory ----------------------------------------------------------------------------

    def _fetch(self, count: int) -> None:
        self._connection.pause_pull(True)
        self._disk.do(
            lambda: fetch(self._file.fd, self._offset, count),
            partial(run_or_fail, self, self._block_fetched, count),
        )
        self._fetching = True

    def _block_fetched(self, count: int, error: BaseException | None) -> None:
        self._fetching = False
        if self._over:
            self._file.close()  # not earlier: a thread was still reading this descriptor
            return
        if error is not None:
            self._log_failure(str(error))
            self._connection.close()
            return
        self._fetched = self._offset + count
        self._connection.pause_pull(False)

    def _log_failure(self, why: str) -> None:
        self.exchange.keep = False
        log.error("{exchange}: the file cannot be sent to its end: {why}", exchange=self.exchange, why=why)

    # -- the end ------------------------------------------------------------------------------------------

    def _complete(self) -> None:
        """End the answer: the kernel has the last byte."""
        exchange = self.exchange
        exchange.ended = monotonic()
        exchange.phase = SENDING
        self._connection.keep_unsent_low(False)
        self._connection.write_token.append(exchange, [], True)
        self._done()

    def _done(self) -> None:
        self.drop()
        self.exchange.release()

    # -- IMovable -----------------------------------------------------------------------------------------

    def carry(self, exchange: Exchange) -> CarriedAnswer | None:
        """The file, and the place in it."""
        if self._over:
            return None
        file = self._file
        state = {"offset": self._offset, "end": self._end, "size": file.size, "modified": file.modified}
        return CarriedAnswer(FILE, state, [file.fd])

    def hand_on(self, exchange: Exchange) -> bool:
        """Nothing is done to it meanwhile, since the connection is not written to."""
        return True

    def kept(self, exchange: Exchange) -> None:
        """The connection is written to again, which calls for the next block."""

    # -- IAnswerer -----------------------------------------------------------------------------------------

    def disconnected(self, exchange: Exchange) -> None:
        """End: the client has left, or its connection was cut."""
        if not self._over:
            exchange.abandon()
            self._done()

    def parked(self, exchange: Exchange) -> bool:
        """Return False: there is always something to send, and sending shows whether the client is still there."""
        return False

    def works_for(self, exchange: Exchange) -> bool:
        """Whether the file is still being sent."""
        return not self._over
