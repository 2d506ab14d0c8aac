"""What the event loop sends by itself, whoever has found out what it shall be.

It is asked from threads, and does its work in the reactor's; in between the client may leave, or the deadline come,
and then what was opened for it has to be given back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.downloads.file_sender import FileSender
from graceful.downloads.files import OpenFile
from graceful.downloads.headers import Answer, upstream_fields
from graceful.downloads.targets import RefusedPath
from graceful.threads.disk import DiskThreads
from graceful.web.exchange import DOWNLOADING, Exchange

if TYPE_CHECKING:
    from graceful.downloads.relay import Relay
    from graceful.downloads.upstream import Upstream

log = Logger(namespace="graceful")


Go = Callable[[], object]


class Sender:
    """Sends files and URLs.

    :param call: calls a function in the reactor thread, from any thread.
    :param clock: monotonic time.
    :param crew: threads for what blocks.
    :param upstream: makes what asks upstream servers, when it is first needed.
    :param silence: how long an upstream may say nothing, seconds.
    """

    def __init__(
        self,
        call: Callable[..., object],
        clock: IReactorTime,
        disk: DiskThreads,
        upstream: Callable[[], Upstream],
        silence: float,
    ) -> None:
        self._call = call
        self._clock = clock
        self.disk = disk
        self._make_upstream = upstream
        self._upstream: Upstream | None = None
        self._silence = silence
        self._relays: set[Relay] = set()

    # -- any thread ---------------------------------------------------------------------------------------

    def soon(self, exchange: Exchange, begin: Go, drop: Go | None = None) -> None:
        """Have an answer begun in the reactor thread.

        :param drop: called there instead if the client has left by then, or the deadline has come.
        """
        self._call(self.if_wanted, exchange, begin, drop)

    def file_soon(self, exchange: Exchange, file: OpenFile, first: int, end: int) -> Go:
        """Prepare an answer that is started with its length; returned is what has the event loop send it.

        :param file: closed when it is over.
        :param first: the first byte to send.
        :param end: the one behind the last.
        """
        exchange.download = True
        exchange.phase = DOWNLOADING
        transfer = FileSender(exchange, file, first, end, self.disk)
        return lambda: self.soon(exchange, transfer.begin, file.close)

    def url_soon(self, exchange: Exchange, url: str, answer: Answer) -> Go:
        """Likewise, with what an upstream has at a URL, and an answer that is not started."""
        exchange.download = True
        exchange.phase = DOWNLOADING
        return lambda: self.soon(exchange, lambda: self._relay(exchange, url, answer))

    def say_refused(self, exchange: Exchange, path: str, refused: RefusedPath) -> None:
        """Tell the log why nothing is sent for a path."""
        log.warn("{exchange}: {path!r} is not sent: {why}", exchange=exchange, path=path, why=refused)

    # -- reactor thread -----------------------------------------------------------------------------------

    def if_wanted(self, exchange: Exchange, begin: Go, drop: Go | None) -> None:
        """Begin, unless nobody waits for it any more."""
        connection = exchange.connection
        if connection.write_token.current is exchange and not connection.write_token.closed:
            begin()
            return
        if drop is not None:
            drop()
        exchange.abandon()
        exchange.release()

    def _relay(self, exchange: Exchange, url: str, answer: Answer) -> None:
        # Not at import time: Twisted's endpoints take systemd's sockets out of the environment.
        from graceful.downloads.relay import Relay

        if self._upstream is None:
            self._upstream = self._make_upstream()
        fields = upstream_fields(exchange, answer)
        relay = Relay(exchange, url, answer, fields, self._upstream, self._clock, self._silence, self._relays.discard)
        self._relays.add(relay)
        relay.begin()

    def tick(self, now: float) -> None:
        """Look at what has had its time.

        :param now: the clock's seconds.
        """
        for relay in list(self._relays):
            relay.tick(now)

    def stop(self) -> None:
        """Nothing is in flight any more: give everything back."""
        if self._upstream is not None:
            self._upstream.stop()
        self.disk.stop(0)
