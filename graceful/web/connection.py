"""One client connection: its socket, its receiver and its write token.

The reactor thread reads, times and closes.  The holder of the write token sends.  Servers lose requests when they
close a connection that seems unused, so closing has its rules here:

* after the last byte of the last answer only the sending side is shut down, and what the client still sends is
  read and thrown away until it closes too.  A `close` with unread bytes would be a reset, and a reset may
  destroy the tail of the answer at the client (RFC 9112 §9.6);
* an idle connection is looked at once more before it is closed: unread bytes are a request, and are served;
* an end of input after a request is only half a close: its answer is still sent.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from fcntl import ioctl
from termios import TIOCOUTQ
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred

from graceful.web.exchange import Disconnected, Exchange
from graceful.web.receiver import Receiver
from graceful.web.send_buffer import bound_send_buffer
from graceful.web.write_token import GONE, REACTOR, SEND, Piece, WriteToken

if TYPE_CHECKING:
    from graceful.web.hub import Hub
    from graceful.web.site import Site

#: Bytes of an answer that may wait in memory without its thread: 1 MiB and its framing, so that most answers free
#: their thread at once.
HELD: Final = (1 << 20) + 65536
#: Bytes that may wait while all slow readers together hold too much, and until which a waiting thread waits.
ROOM: Final = 1 << 18
#: Bytes of a body up to which copying it behind its head is cheaper than a `sendmsg` of both.
JOIN: Final = 16384
#: Bytes read at once.
READ: Final = 65536
#: Bytes of a long body that the kernel may hold unsent for one client (TCP_NOTSENT_LOWAT).
UNSENT: Final = 1 << 18
Address = tuple[str, int]
_RESET: Final = struct.pack("ii", 1, 0)


def accept_connection(site: Site, hub: Hub, sock: socket.socket, peer: Any, server: Address) -> None:
    """Make an accepted socket a connection, and begin to read from it.  Reactor thread.

    :param peer: what `accept` said of the client.
    :param server: the listener's own address, host and port.
    """
    address = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
    hub.add(Connection(site, hub, sock, address, server))


class Connection:
    """A connection on a plain TCP or Unix socket.

    :ivar site: what is served here, with its limits and its register.
    :ivar peer: the client's address as text; empty on a Unix socket.
    :ivar write_token: decides which thread may send.
    :ivar receiver: the half that reads, with its `parser`.  Reactor thread.
    :ivar reading: whether what comes is read.  Changed by the reactor thread.
    :ivar writing: whether the reactor waits to send a rest.  Under the write token's lock.
    :ivar active: when something last came from or went to the client, monotonic seconds.
    :ivar answered: whether it has carried an answer: if not, it is fresh, else idle between two.
    :ivar drained: called when the client has taken all there was, for a producer that waits.  Reactor thread.
    :ivar pull: sends a piece of a file each time the kernel takes more, while the reactor holds the token; True:
        there is more.  Reactor thread.
    :ivar pull_paused: what it would send is not there yet, which is not the client's fault.  Reactor thread.
    :ivar memo: where the code that answers keeps what is the same for all exchanges of the connection.
    """

    __slots__ = (
        "_bounded",
        "_gone",
        "_hub",
        "_register",
        "_reset",
        "active",
        "answered",
        "drained",
        "fd",
        "memo",
        "opened",
        "parser",
        "peer",
        "port",
        "pull",
        "pull_paused",
        "reading",
        "receiver",
        "scheme",
        "server",
        "site",
        "sock",
        "trusted",
        "write_token",
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
        self.write_token: WriteToken[Exchange] = WriteToken()
        self.receiver = Receiver(self, site)
        self.parser = self.receiver.parser
        self.active = self.opened = monotonic()
        self.answered = False
        self.reading, self.writing = True, False
        self.memo: Any = None
        self.drained: Callable[[], None] | None = None
        self.pull: Callable[[], bool] | None = None
        self.pull_paused = False
        self._bounded = False  # whether its send buffer has been bounded; belongs to the holder of the token
        self._reset = False
        self._gone: list[Deferred[None]] = []
        self._register = site.register
        self._register.connections.add(self)

    def when_gone(self) -> Deferred[None]:
        """Return a new Deferred that fires when the connection is closed.  Reactor thread."""
        gone: Deferred[None] = Deferred()
        self._gone.append(gone)
        return gone

    # -- reading: reactor thread --------------------------------------------------------------------------

    def readable(self) -> None:
        """Read what has come, or learn that the client has closed or the connection is broken."""
        try:
            data = self.sock.recv(READ)
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
        else:
            self.read(False)
            if self.receiver.end_of_input() or self.site.parked(self.write_token.current):
                self.close()

    def read(self, more: bool) -> None:
        """Read on, or leave what comes in the kernel."""
        if self.reading is not more and not (more and self.write_token.eof):
            self.reading = more
            self.active = monotonic()  # the server kept the client waiting
            self.interest()

    def idle(self) -> bool:
        """Whether nothing is owed to the client, and nothing has come that is not answered."""
        return self.write_token.idle() and not self.receiver.more_requests()

    def send_interim(self, data: bytes) -> bool:
        """Send an interim answer (RFC 9110 §15.2), if nothing is being answered.  False: not now."""
        write_token = self.write_token
        if not write_token.acquire_for_interim():
            return False
        try:
            rest = self.transmit(data, b"")
        except OSError:
            write_token.release()
            self._hub.call(self.close)
            return True
        if rest:
            write_token.leave_to_reactor(rest, False)
            self._want_write()
        else:
            write_token.release()
        return True

    # -- sending: the holder of the token -----------------------------------------------------------------

    def transmit(self, head: bytes, data: bytes) -> list[Piece]:
        """Give bytes to the kernel, holding the token.  Returns what it did not take.

        :raises OSError: the connection is broken.
        """
        try:
            if len(data) > JOIN:
                if not self._bounded:
                    self._bounded = True
                    bound_send_buffer(self.sock)
                count = self.sock.sendmsg((head, data))
            else:
                head += data
                data = b""
                count = self.sock.send(head) if head else 0
                if count == len(head):
                    return []
        except BlockingIOError:
            count = 0
        if count < len(head):
            return [memoryview(head)[count:], data] if data else [memoryview(head)[count:]]
        count -= len(head)
        return [memoryview(data)[count:]] if count < len(data) else []

    def send(self, exchange: Exchange, head: bytes, data: bytes, last: bool) -> None:
        """Send a piece of an answer; the thread waits when the client is far behind.

        :param last: this ends the answer.
        :raises Disconnected: the client will not read it.
        """
        write_token = self.write_token
        while True:
            acquired = write_token.acquire(exchange)
            if acquired is SEND:
                break
            if acquired is GONE:
                raise Disconnected
            if write_token.append(exchange, [head, data], last):
                self._wait(last)
                return
        try:
            rest = self.transmit(head, data)
        except OSError:
            write_token.release()
            self._hub.call(self.close)
            raise Disconnected from None
        if rest:
            closing = write_token.leave_to_reactor(rest, last)
            self._want_write()
            if closing:
                self._hub.call(self.attend)
            self._wait(last)
            return
        if last:
            self.answered = True
            if exchange.keep:
                self.active = exchange.ended
                exchange._flushed = True
            else:
                self._shut()
        following = write_token.done(exchange, last)
        if following is not False:
            self._follow(following)

    def _wait(self, last: bool) -> None:
        """Hold a thread back while the client is too far behind; the reactor itself never waits."""
        budget = self.site.budget
        if self._hub.in_reactor_thread():
            return
        above = HELD if budget.room() else ROOM
        if not self.write_token.wait(above, ROOM) and not last:
            raise Disconnected

    def _follow(self, following: Exchange | bool) -> None:
        if isinstance(following, Exchange):
            self.site.dispatch(following)
            if self.write_token.attention:
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
        write_token = self.write_token
        try:
            while (piece := write_token.first_piece()) is not None:
                count = self.push(piece)
                self.active = monotonic()
                write_token.piece_taken(count)
                if count < len(piece):
                    return
            if self.pull is not None:
                if self.pull():
                    self._pull_again()
                    return
                self.pull = None
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        through, ended, following = write_token.rest_flushed()
        if not through:
            return
        if ended is not None and not ended.keep:
            self._shut()
        with write_token.lock:
            if write_token.holder is not REACTOR:  # else a thread has left another rest already
                self.writing = False
                self._arm()
                self.site.budget.remove(self.write_token)
        if ended is not None:
            self.answered = True
            if ended.keep:
                ended._flushed = True
                if ended._released:
                    self.site.finished(ended)
        if self.drained is not None:
            self.drained()
        self._follow(following)

    def _pull_again(self) -> None:
        """There is more: the epoll calls, after the other connections have had a turn."""

    def push_file(self, fd: int, offset: int, count: int) -> int:
        """Give a part of a file to the kernel (sendfile(2)); returns how many bytes it took, 0 at the end.

        :raises OSError: nothing was, or the connection is broken.
        """
        return os.sendfile(self.fd, fd, offset, count)

    def begin_pull(self, exchange: Exchange, head: bytes, pull: Callable[[], bool]) -> None:
        """Have the reactor hold the token, send a head, and then what `pull` sends.  Reactor thread.

        `pull` returns False when it is done, and has then told the write token that the answer ends.

        :raises Disconnected: the client will not read it.
        """
        write_token = self.write_token
        acquired = write_token.acquire(exchange)
        if acquired is GONE:
            raise Disconnected
        self.pull = pull
        if acquired is SEND:
            write_token.leave_to_reactor([head], False)
            self._want_write()
        else:
            write_token.append(exchange, [head], False)

    def keep_unsent_low(self, low: bool) -> None:
        """Have the kernel take only so much of a long body as it can soon send (TCP_NOTSENT_LOWAT).

        It would take megabytes for each client, however slow, and what all of them may have together is bounded.
        """
        if self.sock.family != socket.AF_UNIX:
            try:
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT if low else 0)
            except OSError:
                pass  # the client is gone; sending will tell

    def pause_pull(self, paused: bool) -> None:
        """What is to be sent is not there yet; or it is now.  Reactor thread."""
        self.pull_paused = paused
        self.active = monotonic()  # the server kept the client waiting
        with self.write_token.lock:
            if self.write_token.holder is REACTOR:
                self.writing = not paused
                self._arm()

    def push(self, piece: Piece) -> int:
        """Give a piece of the rest to the kernel; returns how much it took.

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
        with self.write_token.lock:
            if self.write_token.holder is REACTOR:
                self.site.budget.add(self.write_token)
                self.writing = True
                self._arm()

    def interest(self) -> None:
        """What is waited for has changed."""
        with self.write_token.lock:
            if not self.write_token.closed:
                self._arm()

    def _arm(self) -> None:
        """Tell the epoll what is waited for.  Any thread, under the write token's lock."""
        self._hub.interest(self)

    # -- ending: reactor thread ---------------------------------------------------------------------------

    def attend(self) -> None:
        """A sender let go of the token while the reactor wanted to close, or to read on."""
        write_token = self.write_token
        if write_token.closed:
            return
        if write_token.closing or (write_token.eof and (write_token.lingering or self.idle())):
            self.close()
        elif write_token.lingering:
            self.receiver.ignore()
        else:
            write_token.attention = False
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
        if reset:
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
        for exchange in (*write_token.waiting, *self.receiver.drop()):
            exchange.abandon()
            exchange.release()
        write_token.waiting.clear()
        current = write_token.current
        if current is not None:
            current.abandon()
            if current.released:
                site.finished(current)
            else:
                site.disconnected(current)
        self._register.connections.discard(self)
        site.connection_gone()
        for gone in self._gone:
            gone.callback(None)

    def half_close(self) -> None:
        """Close an idle connection; what has come meanwhile is still a request."""
        self.readable()
        if self.write_token.closed or self.receiver.more_requests() or not self.write_token.linger():
            return
        self._shut()
        self.parser.ignoring = True
        self.active = monotonic()

    def unsent(self) -> int:
        """Bytes that the kernel holds and the client's kernel has not confirmed."""
        try:
            return int(struct.unpack("i", ioctl(self.fd, TIOCOUTQ, b"\0\0\0\0"))[0])
        except OSError:
            return 0


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
            spared.update((current, *connection.write_token.waiting, *connection.receiver.under_way()))
    return spared
