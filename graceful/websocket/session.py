"""A WebSocket from the end of its HTTP request to the end of its connection.

It is an exchange like any other, which the register lists until its connection is closed and the application has let
go of it; it holds no thread.  Two parties work on it.  The reactor thread reads, keeps the time, answers pings and
ends it.  The application, in a thread of its own, sends (:mod:`graceful.websocket.outgoing`).

Memory is bounded both ways.  What the application has not taken yet stops the reading once it is more than
:data:`INBOX` bytes; so does a client that does not take its own answers.  And an application that asks for
:attr:`Session.room` before it sends has no more than :data:`UNSENT` bytes and one message on their way.

Between the parties no message and no end is lost: each side first writes down what it has done, and then looks at
what the other has written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.logger import Logger
from zope.interface import implementer

from graceful.web.after_upgrade import AfterUpgrade
from graceful.web.exchange import Exchange
from graceful.web.interfaces import IAnswerer
from graceful.websocket.framing import BROKEN, RESTART, SLICE, Framing, Message
from graceful.websocket.outgoing import Outgoing

if TYPE_CHECKING:
    from graceful.web.connection import Connection

log = Logger(namespace="graceful")


#: Bytes of messages that may wait for the application before the client is made to wait.
INBOX: Final = 1 << 16
#: What a message costs beside its bytes: as many empty ones as fit into a packet would else take a megabyte.
EACH: Final = 128
#: Bytes that may be on their way to a client that does not take them.
UNSENT: Final = 1 << 18
#: Seconds that a client has to say that it closes, too.
CLOSE_WITHIN: Final = 5.0
#: What a client is told whose WebSocket is taken down: the fault is the server's, and it is not about to restart.
TAKEN_DOWN: Final = 1011


class Application(Protocol):
    """The side of a WebSocket that has the messages.  Called in the reactor thread; must not wait."""

    def received(self, message: Message) -> None:
        """The client has sent a message."""

    def writable(self) -> None:
        """The client has taken what was sent."""

    def closed(self, code: int, reason: str) -> None:
        """The WebSocket is closed or about to be: nothing more comes.  Called once."""


class Times(Protocol):
    """What all WebSockets of a server have in common.

    :ivar call: calls a function in the reactor thread, from any thread.
    :ivar max_message: bytes of the longest message that is taken.
    :ivar ping_interval: seconds of silence after which a client is asked whether it is there; 0: never.
    :ivar ping_timeout: seconds within which it must answer; 0: it need not.
    :ivar compresses: whether messages are compressed where the client offers it.
    :ivar seconds: returns monotonic seconds.
    """

    call: Callable[..., object]
    max_message: int
    ping_interval: float
    ping_timeout: float
    compresses: bool
    seconds: Callable[[], float]

    def opened(self, session: Session) -> None:
        """A WebSocket is open.  Reactor thread."""


@implementer(IAnswerer)
class Session(AfterUpgrade):
    """One WebSocket.

    :param answered: the exchange that has become, or may become, a WebSocket.
    :param application: gets its messages.
    :param times: limits and time.
    :ivar send: sends a message, which was made a frame of (:meth:`graceful.websocket.outgoing.Outgoing.send`).
    """

    __slots__ = (
        "_answered",
        "_application",
        "_close_at",
        "_closed",
        "_framing",
        "_given",
        "_heard",
        "_outgoing",
        "_over",
        "_paused",
        "_pinged",
        "_resuming",
        "_taken",
        "_times",
        "_unfed",
        "_until",
        "send",
    )

    def __init__(self, answered: Exchange, application: Application, times: Times) -> None:
        super().__init__()
        self._answered = answered
        self._application = application
        self._times = times
        self._framing: Framing | None = None  # until it is open
        self._outgoing = outgoing = Outgoing(answered, times.seconds)
        self.send = outgoing.send
        # The reactor thread's:
        self._unfed = b""  # read, but not parsed yet
        self._paused = False  # nothing is read, since one of the two does not take what it gets
        self._given = 0  # what the messages given to the application have cost, in all
        self._closed = self._over = False  # the application knows that it ends; the last bytes are on their way
        self._heard = self._pinged = 0.0
        self._until = 0.0  # when a client has had its time to close; 0.0 unless the server closes
        self._close_at: float | None = None  # when a drain closes it, monotonic seconds; None: not asked to
        # The application's thread's:
        self._taken = 0  # what the messages that it has taken have cost, in all
        self._resuming = False  # it has asked for more; reset by the reactor thread

    @property
    def _connection(self) -> Connection:
        return self._answered.connection  # type: ignore[return-value]

    # -- the application: its thread ------------------------------------------------------------------------

    def accept(self, head: bytes, extensions: Sequence[Any] = ()) -> None:
        """Open the WebSocket.

        :param head: of the answer, 101.
        :param extensions: what was agreed on.
        :raises Disconnected: the client has left.
        """
        answered = self._answered
        answered.leave_http()
        answered.connection.send(answered, head, b"", False)
        self._times.call(self._open, Framing(self._times.max_message, extensions))

    @property
    def room(self) -> bool:
        """Whether the client takes what it gets: if not, wait for `writable` before more is sent."""
        return self._answered.connection.write_token.held <= UNSENT

    def taken(self, message: Message) -> None:
        """The application has taken a message out of its queue."""
        self._taken += len(message) + EACH
        if self._paused and not self._resuming and self._given - self._taken <= INBOX // 2:
            self._resuming = True
            self._times.call(self._resume)

    def close(self, code: int, reason: str = "") -> None:
        """Say that the server closes, behind what was sent.

        :raises ValueError: the code is none that may be sent.
        """
        self._times.call(self.end, code, reason)

    # -- receiving: reactor thread --------------------------------------------------------------------------

    def _open(self, framing: Framing) -> None:
        """The head that opens it is sent: read frames from now on."""
        connection = self._connection
        if self._over or connection.write_token.closing:
            return  # the sender that still holds the token is to find `attention` set, and to have it closed
        if connection.write_token.eof:  # a request may end so, but not a WebSocket
            connection.close()
            return
        self._framing = framing
        self._heard = self._times.seconds()
        data = connection.leave_http(self)
        connection.drained = self._drained
        self._times.opened(self)
        if data:
            self._take(data)

    def feed(self, data: bytes) -> None:
        """The client has sent bytes."""
        self._heard = self._times.seconds()
        self._answered.received += len(data)
        if self._unfed:
            self._take(self._unfed + data)
            return
        framing = self._framing
        assert framing is not None
        message = framing.whole(data)
        if message is None:
            self._take(data)
            return
        self._give(message)
        if self._full():
            self._pause()

    def _take(self, data: bytes) -> None:
        self._unfed = b""
        size = len(data)
        if size <= SLICE:
            self._parse(data)
        else:
            view = memoryview(data)
            for position in range(0, size, SLICE):
                self._parse(view[position : position + SLICE])
                if self._over:
                    return
                if self._full() and position + SLICE < size:
                    self._unfed = data[position + SLICE :]
                    break
        if not self._over and self._full():
            self._pause()

    def _parse(self, data: bytes | memoryview) -> None:
        framing = self._framing
        assert framing is not None
        messages = framing.receive(data)
        if not framing.over and (out := framing.to_send()):
            self._outgoing.queue(out, framing.closing, False)  # before an answer of the application's
        for message in messages:
            self._give(message)
        if framing.over:
            self._finish(*framing.ended_with)

    def _give(self, message: Message) -> None:
        """Give a message to the application, unless that knows that no more comes."""
        if not self._closed:
            self._given += len(message) + EACH
            self._application.received(message)

    def _full(self) -> bool:
        """Whether the application, or the client, does not take what it gets."""
        if not self._closed and self._given - self._taken > INBOX:
            return True
        return self._answered.connection.write_token.held > UNSENT

    def _pause(self) -> None:
        """Read no more, unless there is room meanwhile."""
        self._paused = True
        self._connection.read(False)
        if not self._full():  # taken after we looked, and before it could see that we pause
            self._resume()

    def _resume(self) -> None:
        """There is room again."""
        self._resuming = False
        if not self._paused or self._over or self._full():
            return
        self._paused = False
        self._connection.read(True)
        if self._unfed:
            self._take(self._unfed)

    def _drained(self) -> None:
        """The client has taken all that was sent."""
        self._resume()
        if not self._closed:
            self._application.writable()

    # -- its end: reactor thread ----------------------------------------------------------------------------

    def end(self, code: int, reason: str = "") -> None:
        """Say that the server closes; the client has :data:`CLOSE_WITHIN` seconds to say so, too."""
        framing = self._framing
        if framing is None or self._over or framing.closing:
            return
        framing.close(code, reason)
        self._until = self._times.seconds() + CLOSE_WITHIN
        self._outgoing.queue(framing.to_send(), True, False)
        self._tell(code, reason)
        self._resume()  # to hear the client's answer

    def _finish(self, code: int, reason: str) -> None:
        """Both sides have said that they close, or nothing more can be said: send the last bytes."""
        assert self._framing is not None
        self._over = self.ignoring = True
        self._unfed = b""
        self._outgoing.queue(self._framing.to_send(), True, True)
        self._tell(code, reason)
        self._connection.read(True)  # to its end

    def _tell(self, code: int, reason: str) -> None:
        if not self._closed:
            self._closed = True
            self._application.closed(code, reason)

    def close_in_drain(self, at: float) -> None:
        """Close it later, since the server stops.

        :param at: monotonic seconds.
        """
        self._close_at = at

    def look(self, now: float) -> None:
        """Do what is due: close it in a drain, ask a silent client whether it is there, give up one that is gone.

        :param now: monotonic seconds.
        """
        framing, times = self._framing, self._times
        if framing is None or self._over:
            return
        if framing.closing:
            if now >= self._until:
                self._finish(BROKEN, "")
        elif self._close_at is not None and now >= self._close_at:
            self.end(RESTART, "service restart")
        elif self._pinged > self._heard:
            if times.ping_timeout and now - self._pinged >= times.ping_timeout and not self._paused:
                log.info("{exchange}: its client does not answer pings, and is cut", exchange=self._answered)
                framing.close(1011, "keepalive ping timeout")
                self._finish(BROKEN, "")
        elif times.ping_interval and now - self._heard >= times.ping_interval and not self._paused:
            self._pinged = now
            framing.ping()
            self._outgoing.queue(framing.to_send(), False, False)

    def take_down(self) -> bool:
        """Tell the client 1011, and end the connection behind that without waiting for the client's close.

        :returns: False if that cannot be said: it is not open, has ended, or its client does not take what it gets.
        """
        framing = self._framing
        if framing is None or self._over or self._answered.connection.write_token.held:
            return False
        framing.close(TAKEN_DOWN, "taken down")
        self._finish(TAKEN_DOWN, "taken down")
        return True

    def cut(self) -> None:
        """Close the connection at once."""
        self._connection.close(reset=True, only=self._answered)

    # -- IAnswerer -------------------------------------------------------------------------------------------

    def disconnected(self, exchange: Exchange) -> None:
        """The client has left, or its connection was cut."""
        self._over = self.ignoring = True
        self._unfed = b""
        self._outgoing.drop()
        self._tell(BROKEN, "")

    def parked(self, exchange: Exchange) -> bool:
        """Whether a client that sends nothing more has left: it has not said that it closes."""
        return self._framing is not None and not self._over

    def works_for(self, exchange: Exchange) -> bool:
        """Whether the application still has it, or its client is still to close."""
        return not exchange.released or not self._over
