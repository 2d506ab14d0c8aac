"""Sending a file from the event loop: sendfile(2), a block at a time, and never from a disk.

The kernel copies from its page cache to the socket; no byte comes into this process, and no thread waits for the
client.  Two things could stop everybody else: a block that is not in memory, which is fetched by a thread first; and
one client that takes as fast as we can send, which gets a block a turn like all others.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger
from zope.interface import implementer

from graceful.downloads.files import BLOCK, OpenFile, fetch, in_memory
from graceful.web.exchange import DOWNLOADING, SENDING, Disconnected, Exchange
from graceful.web.interfaces import IAnswerer

if TYPE_CHECKING:
    from graceful.threads.disk import DiskThreads

log = Logger(namespace="graceful")


_OF_THE_DISK: Final = frozenset((errno.EIO, errno.ESTALE))


@implementer(IAnswerer)
class FileSender:
    """One file on its way to one client.  Reactor thread.

    :param exchange: whose answer has been started, with its length, and not begun.
    :param file: closed when it is over, however that comes.
    :param first: the first byte to send.
    :param end: the one behind the last.
    :param crew: fetches what is not in memory.
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
        self._exchange = exchange
        self._connection = exchange.connection
        self._file = file
        self._place = first
        self._end = end
        self._fetched = first  # up to here it has been seen in memory, or put there
        self._disk = disk
        self._in_memory = in_memory
        self._fetching = self._over = False

    def begin(self) -> None:
        """Send the head, then the file, in the turns to come."""
        exchange = self._exchange
        exchange.handler = self
        exchange.phase = DOWNLOADING
        try:
            if self._place == self._end or exchange.bare():
                exchange.finish()
                self._done()
            else:
                self._connection.keep_unsent_low(True)
                self._connection.begin_pull(exchange, exchange.begin(), self._pull)
        except Disconnected:
            self.disconnected(exchange)

    def _pull(self) -> bool:
        """Send a block; False when the whole file is sent, or will never be."""
        if self._fetching:
            return True
        count = min(BLOCK, self._end - self._place)
        if self._place + count > self._fetched:
            if not self._in_memory(self._file.fd, self._place, count):
                self._fetch(count)
                return True
            self._fetched = self._place + count
        try:
            sent = self._connection.push_file(self._file.fd, self._place, count)
        except OSError as error:
            if error.errno in _OF_THE_DISK:
                self._cannot(os.strerror(error.errno))
            raise
        self._connection.active = monotonic()
        self._place += sent
        self._exchange.sent += sent
        if sent and self._place < self._end:
            return True
        if not sent:
            self._cannot("it has become shorter")
        self._complete()
        return False

    # -- what is not in memory ----------------------------------------------------------------------------

    def _fetch(self, count: int) -> None:
        self._fetching = True
        self._connection.pause_pull(True)
        self._disk.do(lambda: fetch(self._file.fd, self._place, count), lambda error: self._got(count, error))

    def _got(self, count: int, error: BaseException | None) -> None:
        self._fetching = False
        if self._over:
            self._file.close()  # not before: its number could have become another file's while a thread read it
            return
        if error is not None:
            self._cannot(str(error))
            self._connection.close()
            return
        self._fetched = self._place + count
        self._connection.pause_pull(False)

    def _cannot(self, why: str) -> None:
        self._exchange.keep = False
        log.error("{exchange}: the file cannot be sent to its end: {why}", exchange=self._exchange, why=why)

    # -- the end ------------------------------------------------------------------------------------------

    def _complete(self) -> None:
        """The last byte that there is went to the kernel: the answer ends with it."""
        exchange = self._exchange
        exchange.ended = monotonic()
        exchange.phase = SENDING
        self._connection.keep_unsent_low(False)
        self._connection.write_token.append(exchange, [], True)
        self._done()

    def _done(self) -> None:
        self._over = True
        if not self._fetching:
            self._file.close()
        self._exchange.release()

    # -- IAnswerer -----------------------------------------------------------------------------------------

    def disconnected(self, exchange: Exchange) -> None:
        """The client is gone, or it was cut."""
        if not self._over:
            exchange.abandon()
            self._done()

    def parked(self, exchange: Exchange) -> bool:
        """There is always something to send, which finds out whether the client is still there."""
        return False
