"""The part of a receiver that takes in request bodies, in bounded memory.

A body may be larger than memory, and come faster than a disk or an application takes it.  A short one stays in
memory; a long one goes through the spooler to a file, or, if the application wants it so, to the application while it
arrives.  While either is behind, nothing more is read from the client.  Reactor thread only.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from graceful.web.body_spool import FULL, HIGH, LOW, MEMORY, Spool
from graceful.web.body_stream import BodyStream
from graceful.web.carrier import Carrier
from graceful.web.exchange import QUEUED, Exchange
from graceful.web.request_parser import RequestParser
from graceful.web.request_rules import Sink

if TYPE_CHECKING:
    from graceful.web.site import Site
    from graceful.web.write_token import WriteToken

log = Logger(namespace="graceful")


#: Bytes read at once.
READ: Final = 65536
#: The same of a body that the application reads while it arrives: each piece costs a wake-up of two threads.
READ_OF_BODY: Final = 262_144


class ReceivingCarrier(Carrier[Exchange]):
    """The connection, as its receiver uses it."""

    __slots__ = ("leaving", "read_size")

    read_size: int
    leaving: bool

    def read(self, more: bool) -> None:
        """Read on, or leave what comes in the kernel."""
        raise NotImplementedError


class ReceivedBodies(Sink):
    """Takes in the bodies of one connection's requests.

    :ivar parser: finds the requests in what the client sends.
    """

    _connection: ReceivingCarrier
    __deletable__ = ("_connection",)  # for mypyc, whose attributes cannot be deleted unless it is said
    __slots__ = ("_connection", "_site", "_spool", "_spooled", "_stream", "_write_token", "parser")

    parser: RequestParser

    def __init__(self, connection: ReceivingCarrier, site: Site) -> None:
        self._connection = connection
        self._write_token: WriteToken[Exchange] = connection.write_token
        self._site = site
        self._spool: Spool | None = None
        # The body under way, if the application reads it while it arrives.
        self._stream: BodyStream | None = None
        # Whole, but for the end of its body, which is still on its way to the disk.
        self._spooled: Exchange | None = None

    # -- what the receiver does with it ---------------------------------------------------------------------

    def pause(self) -> None:
        """Read on when there is room, which may have come just now."""
        raise NotImplementedError

    def complete(self, exchange: Exchange) -> None:
        """A request is whole, or refused."""
        raise NotImplementedError

    # -- room -----------------------------------------------------------------------------------------------

    def _full_of_body(self) -> bool:
        """Whether the end of a body is on its way to the disk, or the application has more than it takes."""
        return self._spooled is not None or (self._stream is not None and self._stream.full())

    def _body_is_settled(self) -> bool:
        """Whether nothing of a body is on its way to the disk or to the application, or could not be written."""
        spool = self._spool
        return (
            self._spooled is None
            and self._stream is None
            and (spool is None or (spool.error is None and not spool.behind))
        )

    def _disk_is_behind(self) -> bool:
        """Whether the disk has so much to write that no more is read."""
        return self._spool is not None and self._spool.behind > HIGH

    def _waits_for_server(self) -> bool:
        """Whether disk or application are behind, not the client."""
        return (self._spool is not None and self._spool.behind > LOW) or (
            self._stream is not None and self._stream.expecting
        )

    # -- pieces ---------------------------------------------------------------------------------------------

    def body(self, exchange: Exchange, data: bytes) -> None:
        """A piece of a body: to memory, through the spooler to a file, or to the application."""
        stream = self._stream
        if stream is not None:
            exchange.arrived = monotonic()  # a limit counts from the last piece
            stream.put(data)
            if stream.full():
                self.pause()
            return
        spool = self._spool
        if spool is None:
            pieces = exchange.body
            if pieces is None:
                exchange.body = [data]
                return
            assert isinstance(pieces, list)
            if exchange.received <= MEMORY:
                pieces.append(data)
                return
            spool = self._spool = Spool(self._caught_up)
            data = b"".join(pieces) + data
            exchange.body = None
        self._site.spooler.write(spool, data)
        if spool.behind > HIGH:
            self.pause()

    # -- to the application, while it arrives ---------------------------------------------------------------

    def _begin_stream(self, exchange: Exchange) -> None:
        """Give a request to the application before its body has come."""
        connection = self._connection
        connection.read_size = READ_OF_BODY
        self._stream = exchange.body = BodyStream(lambda: connection.call(self._stream_has_room))
        exchange.phase = QUEUED
        self._write_token.attention = True  # its answer may end before its body
        if self._write_token.request_ready(exchange):
            self._site.dispatch(exchange)

    def _stream_has_room(self) -> None:
        """The application has read what has come."""
        if not self._write_token.closed:
            self.pause()

    def _break_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._connection.read_size = READ
            stream.break_off()

    def _end_stream(self, exchange: Exchange) -> None:
        """The body is whole, or what comes is none."""
        if not exchange.error:
            stream, self._stream = self._stream, None
            assert stream is not None
            self._connection.read_size = READ
            exchange.arrived = monotonic()
            stream.end()
            return
        self._break_stream()
        substitute = exchange.substitute()
        substitute.error, substitute.keep = exchange.error, False
        if self._write_token.replace(exchange, substitute):
            self._site.replaced(substitute)
            self._site.disconnected(exchange)
            self._site.answer(substitute, substitute.error)

    # -- to a file --------------------------------------------------------------------------------------------

    def file_so_far(self) -> int:
        """The descriptor of the file that the body under way is in; -1 if it is in none."""
        file = self._spool.file if self._spool is not None else None
        return file.fileno() if file is not None else -1

    def _go_on_with_file(self, exchange: Exchange, file: int) -> None:
        """Go on with a body whose beginning another process has received.

        :param file: the descriptor of the file that it is in; -1: it is in memory.
        """
        if file >= 0:
            self._spool = self._site.spooler.go_on(file, exchange.received, self._caught_up)

    def _end_spool(self, exchange: Exchange) -> bool:
        """The body is whole, or what comes is none.  Returns whether the disk is still to write it."""
        spool = self._spool
        assert spool is not None
        if exchange.error:
            self._drop_spool()
            return False
        self._spooled = exchange
        self.parser.held = True
        self._site.spooler.finish(spool, lambda: self._written(spool, exchange))
        return True

    def _drop_spool(self) -> None:
        spool, self._spool = self._spool, None
        if spool is not None:
            self._site.spooler.drop(spool)

    def _caught_up(self, spool: Spool) -> None:
        """The disk has caught up with the client, or has failed; if the body is whole, `_written` follows."""
        if self._spool is spool and self._spooled is None:
            if spool.error is not None:
                self._drop_spool()
                self.parser.refuse(self._why_not_written(spool.error))
            self.pause()

    def _written(self, spool: Spool, exchange: Exchange) -> None:
        """The whole body is in its file, or never will be."""
        if self._spool is not spool:
            return  # dropped meanwhile, and the file with it
        self._spool = self._spooled = None
        if spool.error is None:
            exchange.body = spool.file
        else:
            self.parser.ignoring = True
            exchange.error, exchange.keep = self._why_not_written(spool.error), False
        self.complete(exchange)
        self.pause()

    def _why_not_written(self, error: Exception) -> int:
        log.error("a request body could not be written: {error}", error=error)
        return 507 if getattr(error, "errno", None) in FULL else 500
