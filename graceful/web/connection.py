"""One client connection: the thin shell around the intake and the turn, with a socket.

Reading, timing and closing are the reactor thread's.  Sending is whoever's turn it is.  What happens to a
connection that nobody needs any more is where servers lose requests, so closing has its rules here:

* after the last byte of the last answer only the sending side is shut down, and what the client still sends is
  read and thrown away until it closes too.  A `close` with unread bytes would be a reset, and a reset may
  destroy the tail of the answer at the client (RFC 9112 §9.6);
* an idle connection is looked at once more before it is closed: unread bytes are a request, and are served;
* an end of input after a request is only half a close: its answer is still sent.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from fcntl import ioctl
from termios import TIOCOUTQ
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred

from graceful.web.body import FULL, HIGH, LOW, MEMORY, Spool
from graceful.web.exchange import QUEUED, Disconnected, Exchange
from graceful.web.intake import Intake
from graceful.web.turn import GONE, SEND, Piece, Turn

if TYPE_CHECKING:
    from graceful.web.hub import Hub
    from graceful.web.site import Site

PIPELINE: Final = 8
HELD: Final = (1 << 20) + 65536
ROOM: Final = 1 << 18
JOIN: Final = 16384
READ: Final = 65536
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
Address = tuple[str, int]
_RESET: Final = struct.pack("ii", 1, 0)


class Connection:
    """A connection on a plain TCP or Unix socket.

    :ivar site: what is served here, with its limits and its register.
    :ivar peer: the client's address as text; empty on a Unix socket.
    :ivar turn: whose turn it is to write.
    :ivar intake: what has been received.  Reactor thread.
    :ivar active: when something last came from or went to the client, monotonic seconds.
    :ivar answered: whether it has carried an answer: if not, it is fresh, else idle between two.
    :ivar drained: called when the client has taken all there was, for a producer that waits.  Reactor thread.
    :ivar memo: a place for whoever answers to keep what is the same for all exchanges of the connection.
    """

    __slots__ = (
        "_expects",
        "_gone",
        "_hub",
        "_spool",
        "active",
        "answered",
        "drained",
        "fd",
        "intake",
        "memo",
        "opened",
        "peer",
        "port",
        "reading",
        "scheme",
        "server",
        "site",
        "sock",
        "trusted",
        "turn",
        "writing",
    )

    def __init__(self, site: Site, hub: Hub, sock: socket.socket, peer: Address | None, server: Address) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self._begin(site, hub, peer, server, "http")

    def _begin(self, site: Site, hub: Hub, peer: Address | None, server: Address, scheme: str) -> None:
        self.site = site
        self._hub = hub
        self.peer, self.port = peer if peer is not None else ("", 0)
        self.server = server
        self.scheme = scheme
        self.trusted = site.trusts(peer)
        self.turn = Turn()
        self.intake = Intake(self, site.settings.max_body)
        self.active = self.opened = monotonic()
        self.answered = False
        self.reading, self.writing = True, False
        self.memo: Any = None
        self.drained: Callable[[], None] | None = None
        self._expects = False
        self._spool: Spool | None = None
        self._gone: list[Deferred[None]] = []
        site.register.connections.add(self)

    def when_gone(self) -> Deferred[None]:
        """Return a new Deferred that fires when the connection is closed.  Reactor thread."""
        gone: Deferred[None] = Deferred()
        self._gone.append(gone)
        return gone

    # -- reading: reactor thread --------------------------------------------------------------------------

    def readable(self) -> None:
        """There is something to read, or to learn."""
        try:
            data = self.sock.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if data:
            self.received(data)
        else:
            self.reading = False
            self.end_of_input()

    def received(self, data: bytes) -> None:
        """Bytes have come."""
        self.active = self._hub.now
        intake = self.intake
        if intake.deaf:
            return
        intake.feed(data)
        if intake.stash:
            self._pause()

    def end_of_input(self) -> None:
        """The client will send nothing more; its answers are still sent (RFC 9112 §9.6)."""
        self.intake.deaf = True
        self._interest()
        if self.turn.end_of_input() or self.intake.exchange is not None:
            self.close()

    def full(self) -> bool:
        """Whether enough requests wait already (or one whose body is still on its way to the disk)."""
        return len(self.turn.waiting) >= PIPELINE or (self._spool is not None and not self.intake.head_done)

    def _pause(self) -> None:
        """Stop reading until an answer is done; and look again, since it may have been done just now."""
        self.turn.attention = True
        if self.full() or self._too_far_ahead():
            if self.reading:
                self.reading = False
                self._interest()
        else:
            self._resume()

    def _too_far_ahead(self) -> bool:
        return self._spool is not None and self._spool.behind > HIGH

    def _resume(self) -> None:
        if self.full() or self._too_far_ahead():
            return
        if not self.reading and not self.turn.eof:
            self.reading = True
            self._interest()
        self.intake.resume()
        if self.intake.stash:
            self._pause()

    def more_requests(self) -> bool:
        """Whether something that has been read is still to be answered behind the current exchange."""
        return bool(self.turn.waiting) or self.intake.exchange is not None or bool(self.intake.stash)

    # -- what the intake makes of it: reactor thread ------------------------------------------------------

    def began(self) -> Exchange:
        """The first byte of a request has come."""
        exchange = Exchange(self)
        self.site.register.add(exchange)
        return exchange

    def expects(self) -> None:
        """The client waits for 100 Continue; it gets it when everything before it is answered."""
        self._expects = True
        self._say_continue()

    def _say_continue(self) -> None:
        turn = self.turn
        turn.attention = True  # before looking, so that an answer that ends just now calls for attention
        if not turn.interject():
            return
        self._expects = False
        rest = self.transmit(CONTINUE, b"")
        if rest:
            turn.left(rest, False)
            self._want_write()
        else:
            turn.release()

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
            spool = self._spool = Spool(self._spooled)
            data = b"".join(pieces) + data
            exchange.body = None
        self.site.spooler.write(spool, data)
        if spool.behind > HIGH:
            self._pause()

    def complete(self, exchange: Exchange) -> None:
        """A request is whole, or refused."""
        spool = self._spool
        if spool is not None:
            if exchange.error:
                self.site.spooler.drop(spool)
                self._spool = None
            else:
                spool.told = lambda spool: self._spooled(spool, exchange)
                self.site.spooler.finish(spool)
                return
        if self.trusted:
            self.site.forwarded(exchange)
        exchange.phase = QUEUED
        if self.turn.arrive(exchange):
            self.site.dispatch(exchange)

    def _spooled(self, spool: Spool, exchange: Exchange | None = None) -> None:
        """The spooler has caught up, or has failed, or (with an exchange) is through."""
        if self._spool is not spool:
            return
        if spool.error is not None:
            self._spool = None
            status = 507 if spool.error.errno in FULL else 500
            self.site.log.error("a request body could not be written: {error}", error=spool.error)
            if exchange is None:
                self.intake.refuse(status)
            else:
                self.intake.deaf = True
                exchange.error, exchange.keep = status, False
                self.complete(exchange)
        elif exchange is not None:
            self._spool = None
            exchange.body = spool.file
            self.complete(exchange)
        self._resume()

    # -- sending: whoever's turn it is --------------------------------------------------------------------

    def transmit(self, head: bytes, data: bytes) -> list[Piece]:
        """Give bytes to the kernel, holding the token.  Returned is what it did not take.

        :raises OSError: the connection is broken.
        """
        try:
            if len(data) > JOIN:
                count = self.sock.sendmsg((head, data))
            else:
                head += data
                count = self.sock.send(head)
                if count == len(head):
                    return []
                data = b""
        except BlockingIOError:
            count = 0
        if count < len(head):
            return [memoryview(head)[count:], data] if data else [memoryview(head)[count:]]
        count -= len(head)
        return [memoryview(data)[count:]] if count < len(data) else []

    def send(self, exchange: Exchange, head: bytes, data: bytes, last: bool) -> None:
        """Send a piece of an answer; the thread waits when the client is far behind.

        :param last: this ends the answer.
        :raises Disconnected: nobody will read it.
        """
        turn = self.turn
        while True:
            claim = turn.claim(exchange)
            if claim is SEND:
                break
            if claim is GONE:
                raise Disconnected
            if turn.append(exchange, [head, data], last):
                self._wait(exchange, last)
                return
        try:
            rest = self.transmit(head, data)
        except OSError:
            turn.release()
            self._hub.call(self.close)
            raise Disconnected from None
        if rest:
            attention = turn.left(rest, last)
            self._want_write()
            if attention:
                self._hub.call(self.attend)
            self._wait(exchange, last)
            return
        if last:
            self.answered = True
            if exchange.keep:
                self.active = exchange.ended
                exchange.flushed = True
            else:
                self._shut()
        following = turn.done(exchange, last)
        if following is not False:
            self._follow(following)

    def _wait(self, exchange: Exchange, last: bool) -> None:
        """Hold a thread back while the client is too far behind; the reactor itself never waits."""
        budget = self.site.budget
        if self._hub.in_reactor_thread():
            return
        above = HELD if budget.room() else ROOM
        if not self.turn.wait(exchange, above, ROOM) and not last:
            raise Disconnected

    def _follow(self, following: Exchange | bool) -> None:
        if isinstance(following, Exchange):
            self.site.dispatch(following)
            if self.turn.attention:
                self._hub.call(self.attend)
        elif following:
            self._hub.call(self.attend)

    def cut(self, exchange: Exchange) -> None:
        """End an answer short: what has been said goes out, then the connection ends."""
        exchange.keep = False
        try:
            self.send(exchange, b"", b"", True)
        except Disconnected:
            pass

    def abort(self) -> None:
        """End the connection so that the client cannot take what it has for the whole.  Any thread."""
        self._hub.call(self.close, True)

    def writable(self) -> None:
        """The kernel takes more of the rest.  Reactor thread."""
        turn = self.turn
        try:
            while (piece := turn.first()) is not None:
                count = self.push(piece)
                self.active = self._hub.now
                if not turn.sent(count) and count < len(piece):
                    return
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        ended = turn.current if turn.last else None
        if ended is not None and not ended.keep:
            self._shut()
        through, following = turn.flushed()
        if not through:
            return
        self.writing = False
        self._interest()
        self.site.budget.remove(self)
        if ended is not None:
            self.answered = True
            if ended.keep:
                ended.flushed = True
                if ended.through:
                    self.site.finished(ended)
        if self.drained is not None:
            self.drained()
        self._follow(following)

    def push(self, piece: Piece) -> int:
        """Give a piece of the rest to the kernel; returned is how much of it was taken.

        :raises OSError: nothing was, or the connection is broken.
        """
        return self.sock.send(piece)

    def _shut(self) -> None:
        """After the last byte: nothing more will be sent; what comes is read to its end."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client was faster; reading will tell

    # -- interest -----------------------------------------------------------------------------------------

    def _want_write(self) -> None:
        """Have the reactor send the rest.  Any thread; the epoll is told without waking the reactor."""
        self.active = monotonic()
        self.site.budget.add(self)
        with self.turn.lock:
            if not self.turn.closed:
                self.writing = True
                self._hub.interest(self)

    def _interest(self) -> None:
        with self.turn.lock:
            if not self.turn.closed:
                self._hub.interest(self)

    # -- ending: reactor thread ---------------------------------------------------------------------------

    def attend(self) -> None:
        """Somebody let go of the token while the reactor wanted something of this connection."""
        turn = self.turn
        if turn.closed:
            return
        if turn.closing or (turn.eof and (turn.lingering or turn.idle())):
            self.close()
            return
        if turn.lingering:
            if not self.reading and not turn.eof:
                self.reading = True
                self._interest()
            return
        turn.attention = False
        if self._expects:
            self._say_continue()
        if self.intake.stash or not self.reading:
            self._resume()

    def close(self, reset: bool = False) -> None:
        """Close the descriptor, or have it closed by whoever is sending right now.

        :param reset: so that the client sees that it was cut.
        """
        turn = self.turn
        if not turn.close():
            if not turn.closed:
                self._disturb()
            return
        self._release(reset)
        self.lost()

    def _disturb(self) -> None:
        """Make a sender let go.  The descriptor's number stays ours until it has."""
        self._hub.forget(self)
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _release(self, reset: bool) -> None:
        """Give the descriptor back; nobody uses it any more."""
        if reset:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:
                pass
        self._hub.forget(self)
        self.sock.close()

    def lost(self) -> None:
        """The descriptor is closed: nobody gets an answer any more."""
        site = self.site
        if self._spool is not None:
            site.spooler.drop(self._spool)
            self._spool = None
        site.budget.remove(self)
        turn = self.turn
        receiving, current = self.intake.exchange, turn.current
        for exchange in (*turn.waiting, *((receiving,) if receiving is not None else ())):
            exchange.through = exchange.flushed = True
            site.finished(exchange)
        turn.waiting.clear()
        if current is not None:
            current.flushed = True
            if current.through:
                site.finished(current)
            else:
                site.disconnected(current)
        self.intake.exchange = None
        self.intake.close()
        site.register.connections.discard(self)
        site.connection_gone()
        for gone in self._gone:
            gone.callback(None)

    def half_close(self) -> None:
        """Close an idle connection; what has come meanwhile is still a request."""
        self.readable()
        if self.turn.closed or self.intake.exchange is not None or not self.turn.linger():
            return
        self._shut()
        self.intake.deaf = True
        self.active = monotonic()
        if self.turn.eof:
            self.close()

    def take_down(self) -> Exchange | None:
        """The deadline has come.  End what is left here: 503 if no head went out, else a visible cut.

        Returned is the exchange that was interrupted, if one was.
        """
        turn = self.turn
        current, receiving = turn.current, self.intake.exchange
        if current is None:
            if receiving is None:
                self.close()
            else:
                self.intake.refuse(503)
            return receiving
        if turn.lingering:
            if self.unsent() == 0:
                return None
            self.close()
            return current
        substitute = Exchange(self)
        substitute.id, substitute.method, substitute.target = current.id, current.method, current.target
        substitute.keep = False
        if turn.oust(current, substitute):
            current.status = 503
            self.site.answer(substitute, 503)
        else:
            framed = current.chunked or current.length >= 0
            self.close(reset=not framed)
        current.flushed = True
        return current

    def unsent(self) -> int:
        """Bytes that the kernel holds and the client's kernel has not confirmed."""
        try:
            return int(struct.unpack("i", ioctl(self.fd, TIOCOUTQ, b"\0\0\0\0"))[0])
        except OSError:
            return 0

    def stalled(self) -> bool:
        """Whether it is we who do not read."""
        return not self.reading or (self._spool is not None and self._spool.behind > LOW)
