"""The half of a connection that takes requests in, for as long as there is room for them.

What a client sends must cost bounded memory, whatever it sends and however slowly it is answered: only a few
requests wait behind the one that is being answered, a large body goes to a file or as fast as it is read to the
application, and while the one or the other is behind, nothing more is read.  Everything here is done by the reactor
thread.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from twisted.logger import Logger

from graceful.web.body_spool import FULL, HIGH, LOW, MEMORY, Spool
from graceful.web.body_stream import BodyStream
from graceful.web.carrier import Carrier
from graceful.web.exchange import QUEUED, Exchange
from graceful.web.request_parser import Place, RequestParser

if TYPE_CHECKING:
    from graceful.web.site import Site

log = Logger(namespace="graceful")


#: Requests that may wait behind the current one on a connection; reading stops there.
PIPELINE: Final = 8
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Bytes read at once.
READ: Final = 65536
#: The same of a body that the application reads while it arrives: each piece costs a wake-up of two threads.
READ_OF_BODY: Final = 262_144


class ReceivingCarrier(Carrier[Exchange], Protocol):
    """The connection, as its receiver uses it."""

    reading: bool
    read_size: int
    leaving: bool

    def read(self, more: bool) -> None:
        """Read on, or leave what comes in the kernel."""

    def send_interim(self, data: bytes, exchange: Exchange | None = None) -> bool:
        """Send an interim answer, if nothing is being answered, or the exchange is and its answer has not begun."""


class Receiver:
    """Takes requests in, and gives each to its connection's write token when it is complete.

    :ivar parser: finds the requests in what the client sends.
    """

    _connection: ReceivingCarrier
    __deletable__ = ("_connection",)  # for mypyc, whose attributes cannot be deleted unless it is said
    __slots__ = (
        "_connection",
        "_expects",
        "_site",
        "_spool",
        "_spooled",
        "_stream",
        "_upgrade",
        "_write_token",
        "parser",
    )

    def __init__(self, connection: ReceivingCarrier, site: Site) -> None:
        self._connection = connection
        self._write_token = connection.write_token
        self._site = site
        self.parser = RequestParser(self, site.settings.max_body)
        self._expects = False
        self._spool: Spool | None = None
        # The body under way, if the application reads it while it arrives.
        self._stream: BodyStream | None = None
        # Whole, but for the end of its body, which is still on its way to the disk.
        self._spooled: Exchange | None = None
        # What follows it may be another protocol's, which its answer decides.
        self._upgrade: Exchange | None = None

    # -- bytes --------------------------------------------------------------------------------------------

    def end_of_input(self) -> bool:
        """The client will send nothing more (RFC 9112 §9.6).  True: nothing is owed to it."""
        parser = self.parser
        parser.ignoring = True
        self._expects = False
        begun = parser.give_up()
        if begun is not None and self._stream is not None:
            begun.error = 400  # if it waits behind others, which are answered
            self._break_stream()
            if self._write_token.current is begun:
                return True
        elif begun is not None:
            # Only this one can never be answered; those before it are.
            self._learn_client(begun)
            begun.abandon()
            self._drop_spool()
            begun.release()
        return self._write_token.end_of_input() and self._spooled is None

    def full(self) -> bool:
        """Whether nothing more can be taken in for now.

        Enough requests wait already, or a body is on its way to the disk or to the application, or a request that may
        become a WebSocket waits for its answer.
        """
        stream = self._stream
        return (
            len(self._write_token.waiting) >= PIPELINE
            or self._spooled is not None
            or (stream is not None and stream.full())
            or (self._upgrade is not None and self._upgrade_is_open())
        )

    def _upgrade_is_open(self) -> bool:
        """Whether the answer is still to come that decides which protocol goes on."""
        write_token = self._write_token
        with write_token.lock:
            is_open = self._upgrade is write_token.current or self._upgrade in write_token.waiting
        if not is_open:
            self._upgrade = None
        return is_open

    def more_requests(self) -> bool:
        """Whether something that has been read is still to be answered behind the current exchange.  Any thread."""
        parser = self.parser
        # In the order in which bytes go through: what moves on meanwhile is met further on.
        return bool(
            parser.unparsed
            or parser.parsing
            or (parser.exchange is not None and parser.exchange is not self._write_token.current)
            or self._spooled is not None
            or self._write_token.waiting
        )

    def settled(self) -> bool:
        """Whether nothing of a body is on its way to the disk or to the application, or could not be written.

        What has asked for a WebSocket is not settled either: the application has it.
        """
        spool = self._spool
        return (
            self._spooled is None
            and self._stream is None
            and self._upgrade is None
            and (spool is None or (spool.error is None and not spool.behind))
            and not any(isinstance(one.body, BodyStream) for one in self._write_token.waiting)
        )

    def stalled(self) -> bool:
        """Whether the server is behind, not the client."""
        return (
            self._expects
            or not self._connection.reading
            or (self._spool is not None and self._spool.behind > LOW)
            or (self._stream is not None and self._stream.expecting)
        )

    # -- room ---------------------------------------------------------------------------------------------

    def attend(self) -> None:
        """An answer is done, for which we have asked to be called."""
        if self._expects:
            self._say_continue()
        if self.parser.unparsed or self._upgrade is not None or not self._connection.reading:
            self.pause()

    # -- on the way to another process ----------------------------------------------------------------------

    @property
    def waits_to_continue(self) -> bool:
        """Whether the client waits for 100 Continue."""
        return self._expects

    def file_so_far(self) -> int:
        """The descriptor of the file that the body under way is in; -1 if it is in none."""
        file = self._spool.file if self._spool is not None else None
        return file.fileno() if file is not None else -1

    def go_on(self, exchange: Exchange, place: Place, file: int) -> None:
        """Go on with a request whose head, and a part of its body, another process has received.

        :param file: the descriptor of the file that the part is in, which is owned from now on; -1: in memory.
        """
        if file >= 0:
            self._spool = self._site.spooler.go_on(file, exchange.received, self._caught_up)
        self.parser.go_on(exchange, place)

    # -- room, once more ------------------------------------------------------------------------------------

    def _no_room(self) -> bool:
        return self.full() or (self._spool is not None and self._spool.behind > HIGH)

    def pause(self) -> None:
        """Read on when an answer is done, or the disk has caught up; which may have been just now."""
        write_token = self._write_token
        if write_token.closed or self._connection.leaving:
            return
        write_token.attention = True
        if write_token.lingering:
            self.ignore()
            return
        while not self._no_room():
            self.parser.held = False
            self._connection.read(True)
            if not self.parser.unparsed:
                return
            self.parser.resume()
            if self._write_token.closed:  # by what answers a request that was in there
                return
        self.parser.held = True
        self._connection.read(False)

    def ignore(self) -> None:
        """The last answer is out: throw away what still comes, to hear that the client has closed as well."""
        self.parser.ignoring = True
        self.parser.unparsed = b""
        self._connection.read(True)

    # -- what the parser finds ----------------------------------------------------------------------------

    def began(self) -> Exchange:
        """The first byte of a request has come."""
        exchange = Exchange(self._connection)
        self._site.register.add(exchange)
        return exchange

    def announced(self, exchange: Exchange) -> None:
        """A head is complete, behind which a body is to come: from now on it is known whose it is."""
        self._learn_client(exchange)
        # A successor may go on with a request only if the application here has not seen it.
        if self._site.streams is not None and self._site.mover is None and self._site.streams(exchange):
            self._begin_stream(exchange)

    def _learn_client(self, exchange: Exchange) -> None:
        """Take over what a trusted proxy says about the client."""
        if self._connection.trusted:
            self._site.forwarded(exchange)

    def expects(self) -> None:
        """The client waits for 100 Continue; it gets it when everything before it is answered.

        If the application reads the body while it arrives, the client gets it when the application begins to read.
        """
        if self._stream is not None:
            if self._stream.expect():
                self._connection.send_interim(CONTINUE, self.parser.exchange)
            return
        self._expects = True
        self._say_continue()

    def _say_continue(self) -> None:
        self._write_token.attention = True  # before looking: an answer that ends just now will call
        if not self._connection.leaving and self._connection.send_interim(CONTINUE):
            self._expects = False
            self._connection.active = monotonic()  # the client has waited for this

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

    def complete(self, exchange: Exchange) -> None:
        """A request is whole, or refused."""
        self._expects = False  # it did not wait
        if self._stream is not None:
            self._end_stream(exchange)
            return
        spool = self._spool
        if spool is not None:
            if exchange.error:
                self._drop_spool()
            else:
                self._spooled = exchange
                self.parser.held = True
                self._site.spooler.finish(spool, lambda: self._written(spool, exchange))
                return
        connection = self._connection
        if connection.trusted and not exchange.received:  # else it was done at the end of the head
            self._site.forwarded(exchange)
        if exchange.received:
            exchange.arrived = monotonic()
        exchange.phase = QUEUED
        if exchange.upgrade:
            self._upgrade = exchange
            self.parser.held = self._write_token.attention = True  # before the answer, whose end calls `attend`
        if self._write_token.request_ready(exchange):
            self._site.dispatch(exchange)
        elif self.full():
            self.parser.held = True
            self.pause()

    def whole(self, exchange: Exchange, body: bytes) -> None:
        """A request is whole, and its body came with its head."""
        exchange.received = len(body)
        exchange.body = [body]
        self._learn_client(exchange)
        self.complete(exchange)

    def refuse(self, status: int) -> Exchange | None:
        """Answer with this status what has not been received to its end; None if there is no such request."""
        spooled, self._spooled = self._spooled, None
        if spooled is not None:
            self.parser.ignoring = True
            spooled.error, spooled.keep = status, False
            self.complete(spooled)
            return spooled
        begun = self.parser.exchange
        if begun is not None:
            self.parser.refuse(status)
        return begun

    def under_way(self) -> list[Exchange]:
        """The exchanges whose requests have not been received to their end."""
        receiving = self.parser.exchange if self._stream is None else None
        return [exchange for exchange in (self._spooled, receiving) if exchange is not None]

    def drop(self) -> list[Exchange]:
        """The connection is closed: let go of everything.  Returns the exchanges that were under way."""
        begun = self.parser.give_up()
        if self._stream is not None:
            self._break_stream()
            begun = None  # it is current, or waits, or is over
        if begun is not None:
            self._learn_client(begun)
        lost = [exchange for exchange in (self._spooled, begun) if exchange is not None]
        self._spooled = None
        self._drop_spool()
        self.parser.close()
        del self._connection  # else the collector would have to find each connection that has ended
        return lost

    # -- a body that the application reads while it arrives -----------------------------------------------

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

    # -- the spooler --------------------------------------------------------------------------------------

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
