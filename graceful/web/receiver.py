"""The half of a connection that takes requests in, for as long as there is room for them.

What a client sends must cost bounded memory, whatever it sends and however slowly it is answered.  So only a few
requests wait behind the one that is being answered, and nothing more is read meanwhile; how their bodies are taken in
is the base class's matter.  Everything here is done by the reactor thread.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from graceful.web.body_stream import BodyStream
from graceful.web.exchange import QUEUED, Exchange
from graceful.web.received_bodies import ReceivedBodies, ReceivingCarrier
from graceful.web.request_parser import Place, RequestParser

if TYPE_CHECKING:
    from graceful.web.site import Site

#: Requests that may wait behind the current one on a connection; reading stops there.
PIPELINE: Final = 8
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Receiver(ReceivedBodies):
    """Takes requests in, and gives each to its connection's write token when it is complete."""

    __slots__ = ("_expects", "_upgrade")

    def __init__(self, connection: ReceivingCarrier, site: Site) -> None:
        ReceivedBodies.__init__(self, connection, site)
        self.parser = RequestParser(self, site.settings.max_body)
        self._expects = False  # the client waits for 100 Continue
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
        return (
            len(self._write_token.waiting) >= PIPELINE
            or self._full_of_body()
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
        return (
            self._upgrade is None
            and self._body_is_settled()
            and not any(isinstance(one.body, BodyStream) for one in self._write_token.waiting)
        )

    def stalled(self) -> bool:
        """Whether the server is behind, not the client."""
        return self._expects or not self._connection.reading or self._waits_for_server()

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

    def go_on(self, exchange: Exchange, place: Place, file: int) -> None:
        """Go on with a request whose head, and a part of its body, another process has received.

        :param file: the descriptor of the file that the part is in, which is owned from now on; -1: in memory.
        """
        self._go_on_with_file(exchange, file)
        self.parser.go_on(exchange, place)

    # -- room, once more ------------------------------------------------------------------------------------

    def _no_room(self) -> bool:
        return self.full() or self._disk_is_behind()

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

    def complete(self, exchange: Exchange) -> None:
        """A request is whole, or refused."""
        self._expects = False  # it did not wait
        if self._stream is not None:
            self._end_stream(exchange)
            return
        if self._spool is not None and self._end_spool(exchange):
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
