"""The half of a connection that takes requests in, for as long as there is room for them.

What a client sends must cost bounded memory, whatever it sends and however slowly it is answered: only a few
requests wait behind the one that is being answered, a large body goes to a file, and while the one or the other is
behind, nothing more is read.  Everything here is done by the reactor thread.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from twisted.logger import Logger

from graceful.web.body_spool import FULL, HIGH, LOW, MEMORY, Spool
from graceful.web.exchange import QUEUED, Carrier, Exchange
from graceful.web.request_parser import RequestParser

if TYPE_CHECKING:
    from graceful.web.site import Site

log = Logger(namespace="graceful")


#: Requests that may wait behind the current one on a connection; reading stops there.
PIPELINE: Final = 8
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class ReceivingCarrier(Carrier, Protocol):
    """The connection, as its receiver uses it."""

    reading: bool

    def read(self, more: bool) -> None:
        """Read on, or leave what comes in the kernel."""

    def send_interim(self, data: bytes) -> bool:
        """Send an interim answer, if nothing is being answered."""


class Receiver:
    """Takes requests in, and gives each to its connection's write token when it is complete.

    :ivar parser: finds the requests in what the client sends.
    """

    __slots__ = ("_connection", "_expects", "_site", "_spool", "_spooled", "parser")

    def __init__(self, connection: ReceivingCarrier, site: Site) -> None:
        self._connection = connection
        self._site = site
        self.parser = RequestParser(self, site.settings.max_body)
        self._expects = False
        self._spool: Spool | None = None
        # Whole, but for the end of its body, which is still on its way to the disk.
        self._spooled: Exchange | None = None

    # -- bytes --------------------------------------------------------------------------------------------

    def end_of_input(self) -> bool:
        """The client will send nothing more (RFC 9112 §9.6).  True: nothing is owed to it."""
        parser = self.parser
        parser.ignoring = True
        begun, parser.exchange = parser.exchange, None
        if begun is not None:
            # Only this one can never be answered; those before it are.
            begun.abandon()
            self._drop_spool()
            begun.release()
        return self._connection.write_token.end_of_input() and self._spooled is None

    def full(self) -> bool:
        """Whether enough requests wait already, or one whose body is still on its way to the disk."""
        return len(self._connection.write_token.waiting) >= PIPELINE or self._spooled is not None

    def more_requests(self) -> bool:
        """Whether something that has been read is still to be answered behind the current exchange.  Any thread."""
        parser = self.parser
        # In the order in which bytes go through: what moves on meanwhile is met further on.
        return bool(
            parser.unparsed
            or parser.parsing
            or parser.exchange is not None
            or self._spooled is not None
            or self._connection.write_token.waiting
        )

    def stalled(self) -> bool:
        """Whether the server is behind, not the client."""
        return self._expects or not self._connection.reading or (self._spool is not None and self._spool.behind > LOW)

    # -- room ---------------------------------------------------------------------------------------------

    def attend(self) -> None:
        """An answer is done, for which we have asked to be called."""
        if self._expects:
            self._say_continue()
        if self.parser.unparsed or not self._connection.reading:
            self.pause()

    def _no_room(self) -> bool:
        return self.full() or (self._spool is not None and self._spool.behind > HIGH)

    def pause(self) -> None:
        """Read on when an answer is done, or the disk has caught up; which may have been just now."""
        write_token = self._connection.write_token
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

    def expects(self) -> None:
        """The client waits for 100 Continue; it gets it when everything before it is answered."""
        self._expects = True
        self._say_continue()

    def _say_continue(self) -> None:
        self._connection.write_token.attention = True  # before looking: an answer that ends just now will call
        if self._connection.send_interim(CONTINUE):
            self._expects = False
            self._connection.active = monotonic()  # the client has waited for this

    def body(self, exchange: Exchange, data: bytes) -> None:
        """A piece of a body: to memory, or through the spooler to a file."""
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
        if connection.trusted:
            self._site.forwarded(exchange)
        if exchange.received:
            exchange.arrived = monotonic()
        exchange.phase = QUEUED
        if connection.write_token.request_ready(exchange):
            if exchange.error:
                self._site.answer(exchange, exchange.error)
            else:
                self._site.handle(exchange)
        elif self.full():
            self.parser.held = True
            self.pause()

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
        return [exchange for exchange in (self._spooled, self.parser.exchange) if exchange is not None]

    def drop(self) -> list[Exchange]:
        """The connection is closed: let go of everything.  Returns the exchanges that were under way."""
        lost = self.under_way()
        self._spooled = None
        self._drop_spool()
        self.parser.close()
        return lost

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

    def _why_not_written(self, error: OSError) -> int:
        log.error("a request body could not be written: {error}", error=error)
        return 507 if error.errno in FULL else 500
