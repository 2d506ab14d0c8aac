"""The half of a connection that sends: at once what the kernel takes, and by the reactor the rest.

The holder of the write token sends, whichever thread that is.  What the kernel does not take stays in the token, and
the reactor sends it when the client has read on; so a thread is free as soon as its answer is in memory, unless the
client is too far behind.  The reactor also pulls: from a file, as long as the kernel takes more.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from fcntl import ioctl
from termios import TIOCOUTQ
from time import monotonic
from typing import TYPE_CHECKING, Final

from graceful.web.disconnected import Disconnected
from graceful.web.exchange import Exchange
from graceful.web.received_bodies import READ, ReceivingCarrier
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
#: Bytes of a long body that the kernel may hold unsent for one client (TCP_NOTSENT_LOWAT).
UNSENT: Final = 1 << 18
#: Errors by which a system call filter or a file system refuses sendfile(2): the file is read and sent instead.
_NO_SENDFILE: Final = frozenset((errno.EPERM, errno.EINVAL, errno.ENOSYS))


class SendingHalf(ReceivingCarrier):
    """Sends answers on one connection; a connection is one.

    :param site: what is served here, with its limits and its register.
    :param hub: tells when the kernel takes more, and calls functions in the reactor thread.
    :ivar write_token: decides which thread may send.
    :ivar writing: whether the reactor waits to send a rest.  Under the write token's lock.
    :ivar active: when something last came from or went to the client, monotonic seconds.
    :ivar answered: whether it has carried an answer: if not, it is fresh, else idle between two.
    :ivar drained: called when the client has taken all there was, for a producer that waits.  Reactor thread.
    :ivar pull: sends a piece of a file each time the kernel takes more, while the reactor holds the token; True:
        there is more.  Reactor thread.
    :ivar pull_paused: what it would send is not there yet, which is not the client's fault.  Reactor thread.
    """

    __slots__ = (
        "_bounded",
        "_hub",
        "answered",
        "pull",
        "pull_paused",
    )

    def __init__(self, site: Site, hub: Hub) -> None:
        self.site = site
        self._hub = hub
        self.write_token: WriteToken[Exchange] = WriteToken()
        self.active = monotonic()
        self.answered = self.writing = False
        self.drained: Callable[[], None] | None = None
        self.pull: Callable[[], bool] | None = None
        self.pull_paused = False
        self._bounded = False  # whether its send buffer has been bounded; belongs to the holder of the token

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
                exchange.unsaid(head)
                raise Disconnected
            if write_token.append(exchange, [head, data], last):
                self._wait(last)
                return
        try:
            rest = self.transmit(head, data)
        except OSError:
            exchange.unsaid(head)
            write_token.release()
            self._hub.call(self.close)
            raise Disconnected from None
        except Exception:  # whatever it is: a token that stayed here would hold every later sender for ever
            write_token.release()
            self._hub.call(self.close)
            raise
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
        """Hold a thread back while the client is too far behind; the threads of event loops never wait."""
        budget = self.site.budget
        if self._hub.in_loop_thread():
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
            self._push_held()
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
        drained = self.drained  # another thread may reset it
        if drained is not None:
            drained()
        self._follow(following)

    def _push_held(self) -> None:
        """Give the kernel what a connection of another kind has taken of the rest, and still holds.

        :raises BlockingIOError: it takes no more now.
        """

    def stalls(self) -> bool:
        """Whether something is there for the client to take, and only the client is waited for.  Reactor thread."""
        return bool(self.write_token.held) or (self.pull is not None and not self.pull_paused)

    def _pull_again(self) -> None:
        """There is more: the epoll calls, after the other connections have had a turn."""

    def push_file(self, fd: int, offset: int, count: int) -> int:
        """Give a part of a file to the kernel (sendfile(2)); returns how many bytes it took, 0 at the end.

        :raises OSError: nothing was, or the connection is broken.
        """
        try:
            return os.sendfile(self.fd, fd, offset, count)
        except OSError as error:
            if error.errno not in _NO_SENDFILE:
                raise
        return self.sock.send(os.pread(fd, min(count, READ), offset))

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

    def pull_on(self, pull: Callable[[], bool]) -> None:
        """Have the reactor send what is left of a body, behind the rest; as :meth:`begin_pull`."""
        self.pull = pull
        self.write_token.leave_to_reactor([], False)
        self._want_write()

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
        except Exception:
            pass  # the client was faster, or it is worse: reading will tell

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

    # -- sending besides answers: an interim one, and what is asked of the kernel ---------------------------

    def send_interim(self, data: bytes, exchange: Exchange | None = None) -> bool:
        """Send an interim answer (RFC 9110 §15.2).  Any thread that answers the exchange, or the reactor thread.

        :param exchange: the exchange whose turn it is, and whose answer has not begun; None if nothing is answered.
        :returns: False if that is not so.
        """
        write_token = self.write_token
        if not write_token.acquire_for_interim(exchange):
            return False
        try:
            rest = self.transmit(data, b"")
        except OSError:
            write_token.release()
            self._hub.call(self.close)
            return True
        if rest:
            closing = write_token.leave_to_reactor(rest, False)
            self._want_write()
        else:
            closing = write_token.release()
        if closing:
            self._hub.call(self.attend)
        return True

    def unsent(self) -> int:
        """Bytes that the kernel holds and the client's kernel has not confirmed."""
        try:
            return int(struct.unpack("i", ioctl(self.fd, TIOCOUTQ, b"\0\0\0\0"))[0])
        except OSError:
            return 0

    # -- what the connection does with it -----------------------------------------------------------------

    def _arm(self) -> None:
        """Tell the epoll what is waited for.  Any thread, under the write token's lock."""
        raise NotImplementedError

    def attend(self) -> None:
        """A sender let go of the token while the reactor wanted to close, or to read on.  Reactor thread."""
        raise NotImplementedError

    def close(self, reset: bool = False, only: Exchange | None = None) -> bool:
        """Close the connection, or only if it is this exchange's turn.  Reactor thread."""
        raise NotImplementedError
