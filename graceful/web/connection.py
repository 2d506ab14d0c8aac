"""One client connection: its socket, its receiver and its write token.

The reactor thread reads, times and closes; how answers are sent is the base class's matter.  Servers lose requests
when they close a connection that seems unused, so closing has its rules here:

* after the last byte of the last answer only the sending side is shut down, and what the client still sends is
  read and thrown away until it closes too.  A `close` with unread bytes would be a reset, and a reset may
  destroy the tail of the answer at the client (RFC 9112 §9.6);
* an idle connection is looked at once more before it is closed: unread bytes are a request, and are served;
* an end of input after a request is only half a close: its answer is still sent.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred

from graceful.web.exchange import Exchange
from graceful.web.received_bodies import READ
from graceful.web.receiver import Receiver
from graceful.web.sending_half import SendingHalf

if TYPE_CHECKING:
    from graceful.web.after_upgrade import AfterUpgrade
    from graceful.web.hub import Hub
    from graceful.web.request_parser import RequestParser
    from graceful.web.site import Site

Address = tuple[str, int]
_RESET: Final = struct.pack("ii", 1, 0)


def accept_connection(site: Site, hub: Hub, sock: socket.socket, peer: Any, server: Address) -> Connection:
    """Make an accepted socket a connection, and begin to read from it.  Reactor thread.

    :param peer: what `accept` said of the client.
    :param server: the listener's own address, host and port.
    :raises OSError: the kernel cannot watch one more descriptor; the connection is closed.
    """
    connection = Connection(site, hub, sock, address_of(peer), server)
    begin_to_read(hub, connection)
    return connection


def address_of(name: Any) -> Address | None:
    """Returns the host and port of a socket's name, as `accept` and `getsockname` say it; None of a Unix socket."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None


def server_of(sock: socket.socket) -> Address:
    """Returns the host and port by which a socket's clients know the server; `localhost` and 80 of a Unix socket."""
    return address_of(sock.getsockname()) or ("localhost", 80)


def begin_to_read(hub: Hub, connection: Connection) -> None:
    """Begin to read from a new connection.  Reactor thread.

    :raises OSError: the kernel cannot watch one more descriptor; the connection is closed.
    """
    try:
        hub.add(connection)
    except OSError:
        connection.close()
        raise


class Connection(SendingHalf):
    """A connection on a plain TCP or Unix socket.

    :ivar peer: the client's address as text; empty on a Unix socket.
    :ivar receiver: the half that reads HTTP, with its `parser`.  Reactor thread.
    :ivar parser: gets what comes: the receiver's, or that of the protocol which goes on.  Reactor thread.
    :ivar register: lists it, and the exchanges on it.
    :ivar reading: whether what comes is read.  Changed by the reactor thread.
    :ivar read_size: bytes read at once.  Reactor thread.
    :ivar leaving: it is on its way to another process, and nothing is done to it meanwhile.  Reactor thread.
    :ivar listener: the listener's own address, host and port; a proxy may have told another one for `server`.
    :ivar facts: what is known of the client's TLS, as mod_ssl of Apache names it; None on a plain connection.
    :ivar memo: where the code that answers keeps what is the same for all exchanges of the connection.
    """

    __slots__ = (
        "_gone",
        "_reset",
        "listener",
        "opened",
        "parser",
        "receiver",
        "register",
    )

    def __init__(self, site: Site, hub: Hub, sock: socket.socket, peer: Address | None, server: Address) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self._begin(site, hub, peer, server, "http")

    def _begin(self, site: Site, hub: Hub, peer: Address | None, server: Address, scheme: str) -> None:
        SendingHalf.__init__(self, site, hub)
        self.peer, self.port = peer if peer is not None else ("", 0)
        self.server = self.listener = server
        self.scheme = scheme
        self.facts: Mapping[str, str] | None = None
        self.trusted = site.trusts(peer)
        self.receiver = Receiver(self, site)
        self.parser: RequestParser | AfterUpgrade = self.receiver.parser
        self.opened = self.active
        self.reading = True
        self.read_size = READ
        self.leaving = False
        self.memo: Any = None
        self._reset = False
        self._gone: tuple[Deferred[None], ...] = ()
        self.register = site.register
        self.register.connections.add(self)

    def when_gone(self) -> Deferred[None]:
        """Return a new Deferred that fires when the connection is closed.  Reactor thread."""
        gone: Deferred[None] = Deferred()
        self._gone += (gone,)
        return gone

    # -- reading: reactor thread --------------------------------------------------------------------------

    def readable(self) -> None:
        """Read what has come, or learn that the client has closed or the connection is broken."""
        if self.site.mover is not None and self.site.mover.takes(self):
            return
        try:
            data = self.sock.recv(self.read_size)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if data:
            self.active = self._hub.now
            parser = self.parser
            if not parser.ignoring:
                parser.feed(data)
                if parser.unparsed:
                    self.receiver.pause()
        elif self.receiver.end_of_input() or self.site.parked(self.write_token.current):
            self.close()
        else:
            self.read(False)

    def read(self, more: bool) -> None:
        """Read on, or leave what comes in the kernel."""
        if self.reading is not more and not (more and self.write_token.eof):
            self.reading = more
            self.active = monotonic()  # the server kept the client waiting
            self.interest()

    def leave_http(self, reader: AfterUpgrade) -> bytes:
        """Give what the client sends from now on to another protocol (RFC 9110 §7.8).  Reactor thread, but not while
        it parses the request.

        :returns: what has come behind the request already.
        """
        parser, self.parser = self.receiver.parser, reader
        data = parser.unparsed
        parser.close()  # it would be a tenth of what an idle WebSocket costs
        self.write_token.attention = False
        self.read(True)
        return data

    def _arm(self) -> None:
        """Tell the epoll what is waited for.  Any thread, under the write token's lock."""
        self._hub.interest(self)

    def more_requests(self) -> bool:
        """Whether requests that have been read wait behind the current exchange.  Any thread."""
        return self.receiver.more_requests()

    def under_way(self) -> list[Exchange]:
        """The exchanges whose requests have not been received to their end."""
        return self.receiver.under_way()

    def refuse(self, status: int) -> Exchange | None:
        """Answer the request under way with this status; None if there is none."""
        return self.receiver.refuse(status)

    def idle(self) -> bool:
        """Whether nothing is owed to the client, and nothing has come that is not answered."""
        return self.write_token.idle() and not self.receiver.more_requests()

    def rest(self) -> None:
        """Give back, while it is idle, what its next request makes again.  Reactor thread."""
        self.memo = None
        self.receiver.parser.rest()

    # -- moving: reactor thread ---------------------------------------------------------------------------

    def take_out(self) -> bool:
        """Read from it no more, and send nothing, since another process may.  False: a thread sends just now."""
        if not self.write_token.seize():
            return False
        self.leaving = True
        self._hub.forget(self)
        return True

    def put_back(self) -> None:
        """Read from it again, and send: it has not moved.

        :raises OSError: the kernel cannot watch it.
        """
        self.leaving = False
        self._hub.add(self)
        pulls = self.pull is not None
        self.writing = self.write_token.let_go(pulls) and not (pulls and self.pull_paused)
        self.interest()
        self.attend()

    def take_up(self, exchange: Exchange, rest: bytes, last: bool) -> None:
        """Go on with an answer that another process has begun.

        :param rest: what the kernel has not taken yet.
        :param last: whether that is its end.
        """
        write_token = self.write_token
        write_token.request_ready(exchange)
        write_token.begun = True
        if rest:
            write_token.leave_to_reactor([rest], last)
            self._want_write()

    # -- ending: reactor thread ---------------------------------------------------------------------------

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function in the reactor thread.  Any thread."""
        self._hub.call(function, *args)

    def abort(self, only: Exchange | None = None) -> None:
        """End the connection so that the client cannot take what it has for the whole.  Any thread.

        :param only: do so only if it is this exchange's turn, and not all of its answer is in the kernel.
        """
        self._hub.call(self.close, True, only)

    def attend(self) -> None:
        """A sender let go of the token while the reactor wanted to close, or to read on."""
        write_token = self.write_token
        if write_token.closed or self.leaving:
            return
        if write_token.closing or (write_token.eof and (write_token.lingering or self.idle())):
            self.close()
        elif write_token.lingering:
            self.receiver.ignore()
        else:
            write_token.attention = False
            if self.parser is self.receiver.parser:  # else another protocol goes on, and waits for no answer
                self.receiver.attend()

    def close(self, reset: bool = False, only: Exchange | None = None) -> bool:
        """Close the descriptor, or have the thread that is sending do so when it lets go.

        :param reset: so that the client sees that it was cut.
        :param only: do so only if it is this exchange's turn, and not all of its answer is in the kernel.  False: no.
        """
        write_token = self.write_token
        closing = write_token.close(only)
        if closing is None:
            return False
        self._reset = self._reset or reset
        if closing:
            self._release(self._reset)
            self.lost()
        elif not write_token.closed:
            self._disturb()
        return True

    def _disturb(self) -> None:
        """Make a sender let go.  The descriptor's number stays ours until it has."""
        self._hub.forget(self)
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _release(self, reset: bool) -> None:
        """Give the descriptor back; no thread uses it any more."""
        if reset and not self.leaving:  # it is the other process's, too
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:
                pass
        self._hub.forget(self)
        self.sock.close()

    def lost(self) -> None:
        """The descriptor is closed: end the exchanges on it."""
        site, write_token = self.site, self.write_token
        self.drained = self.pull = None
        site.budget.remove(self.write_token)
        self.register.connections.discard(self)
        self.abandon(self.receiver.drop())
        current = write_token.current
        if current is not None:
            current.abandon()
            if current.released:
                site.finished(current)
            else:
                site.disconnected(current)
        site.connection_gone()
        for gone in self._gone:
            gone.callback(None)
        write_token.forget()  # the exchange refers to the connection: the collector would have to find both

    def abandon(self, under_way: Sequence[Exchange] = ()) -> None:
        """End the exchanges that wait for their turn, which they will never have.

        :param under_way: those whose requests are not complete, behind them.
        """
        waiting = self.write_token.waiting
        for exchange in (*waiting, *under_way):
            exchange.abandon()
            exchange.release()
        waiting.clear()

    def half_close(self) -> None:
        """Close an idle connection; what has come meanwhile is still a request."""
        self.readable()
        if self.write_token.closed or self.receiver.more_requests() or not self.write_token.linger():
            return
        self._shut()
        self.parser.ignoring = True
        self.active = monotonic()


def open_connections(site: Site) -> Iterator[Connection]:
    """The open client connections of a site.  Reactor thread."""
    for connection in site.register.connections:
        assert isinstance(connection, Connection)
        yield connection


def spared_exchanges(site: Site) -> set[Exchange]:
    """The downloads, and the requests that wait behind them on their connections.  Reactor thread."""
    spared: set[Exchange] = set()
    for connection in open_connections(site):
        current = connection.write_token.current
        if current is not None and current.download:
            spared.update((current, *connection.write_token.waiting, *connection.under_way()))
    return spared
