"""The write token of a connection, which decides which thread may send: a model without I/O.

Worker threads send their answers themselves; that is where the speed is.  It is also where the danger is:

* While a thread is in `send(2)`, the reactor may see the connection break.  If it closed the descriptor then,
  the number would be given to the next connection, and one client's bytes would reach another.
* The client may have read the whole answer, and its next request may be parsed, before the thread that
  answered has recorded that it is done.  Treated carelessly, that request is never answered.
* What the socket does not take at once is left to the reactor.  From then on the thread must not send past it.

So every connection has one write token and one small lock.  The token is free, or held by a *sender* that is
inside `send(2)`, or by the reactor for as long as it has a rest to send.  Four rules:

1. Only the holder sends.  Only the reactor thread closes the descriptor, and only when no sender holds.
2. A reactor that wants to close while a sender holds sets `closing`; the sender, when it lets go, is told to call
   for *attention*, and the reactor comes back.
3. "My answer is done", "the next request is here", "nothing more will come" and "is this connection idle?" are
   answered under the same lock.
4. The lock is never held across a system call that can block.

Every method is one atomic step, made to be interleaved with all the others by a test.  The three that every
request needs take the lock by hand: `with` costs three times as much.
"""

from __future__ import annotations

import threading
from collections import deque
from enum import IntEnum
from typing import Any, Final, Generic, Protocol, TypeVar

Piece = bytes | memoryview


class Answered(Protocol):
    """What the token asks of an exchange.

    :ivar keep: whether the connection may carry another exchange after this one.
    """

    keep: bool


E = TypeVar("E", bound=Answered)


class TokenHolder(IntEnum):
    """The party that may write on the connection now."""

    NOBODY = 0
    SENDER = 1
    REACTOR = 2


class Acquired(IntEnum):
    """The result of :meth:`WriteToken.acquire`."""

    GONE = 0
    SEND = 1
    QUEUE = 2


NOBODY: Final = TokenHolder.NOBODY
SENDER: Final = TokenHolder.SENDER
REACTOR: Final = TokenHolder.REACTOR

#: What all connections that have nothing to send share, since an empty deque has 700 bytes, and those behind whose
#: exchange nothing waits.  Nothing is put into them.
_NO_REST: Final[deque[Piece]] = deque()
_NONE_WAITS: Final[list[Any]] = []
GONE: Final = Acquired.GONE
SEND: Final = Acquired.SEND
QUEUE: Final = Acquired.QUEUE


class WriteToken(Generic[E]):
    """The order of writing on one connection.

    All fields belong to the lock, except where a method says that it may be called by the reactor thread only,
    which may also read them without it.

    :ivar holder: which party holds the write token.
    :ivar current: the exchange whose answer is being made or sent; None when the connection is idle.
    :ivar waiting: exchanges whose requests are complete, in order, behind the current one.
    :ivar rest: what a sender could not send; the reactor's while it holds the token.
    :ivar held: bytes in `rest`.
    :ivar begun: something of the current answer has been sent, or is about to be, or waits behind the rest.
    :ivar last: the rest holds the end of the current answer.
    :ivar lingering: the last byte of the last answer is in the kernel, and the sending side is shut down.
    :ivar eof: the client will send nothing more.
    :ivar closing: the reactor wants to close, and waits for the sender to let go, or has closed.
    :ivar closed: the descriptor is closed, or just about to be by the reactor; never without `closing`.
    :ivar attention: set by the reactor when it wants to hear of the next change of turn.
    """

    __slots__ = (
        "attention",
        "begun",
        "closed",
        "closing",
        "current",
        "eof",
        "held",
        "holder",
        "last",
        "lingering",
        "lock",
        "rest",
        "room",
        "waiting",
    )

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.room: threading.Condition | None = None
        self.holder = NOBODY
        self.current: E | None = None
        self.waiting: list[E] = _NONE_WAITS  # replaced by the first that has to wait
        self.rest = _NO_REST
        self.held = 0
        self.begun = self.last = self.lingering = self.eof = False
        self.closing = self.closed = self.attention = False

    # -- order ------------------------------------------------------------------------------------------

    def request_ready(self, exchange: E) -> bool:
        """A request is complete.  True: it is its turn, start it.  Reactor thread."""
        lock = self.lock
        lock.acquire()
        try:
            if self.current is None and not self.closing:
                self.current = exchange
                return True
            if self.waiting:
                self.waiting.append(exchange)
            else:
                self.waiting = [exchange]
            return False
        finally:
            lock.release()

    def _next(self, exchange: E) -> E | bool:
        """The answer of the current exchange is in the kernel to its end.  Lock held."""
        if not exchange.keep:
            self.lingering = True
            return self.attention or self.eof
        self.begun = False
        if self.waiting:
            self.current = self.waiting.pop(0)
            return self.current
        self.current = None
        return self.attention or self.eof

    # -- a sender: any thread ---------------------------------------------------------------------------

    def acquire(self, exchange: E) -> Acquired:
        """Ask for the token to send a piece of an answer.

        :returns: `SEND`: the caller holds it until it calls :meth:`done` or :meth:`leave_to_reactor`.  `QUEUE`: the
            reactor is still sending a rest, so :meth:`append` to that.  `GONE`: the client will not read this answer.
        """
        lock = self.lock
        lock.acquire()
        try:
            if exchange is not self.current or self.closing or self.lingering:
                return GONE
            if self.holder:
                return QUEUE
            self.holder = SENDER
            self.begun = True
            return SEND
        finally:
            lock.release()

    def done(self, exchange: E, last: bool) -> E | bool:
        """The sender's piece is in the kernel; it lets go.

        :returns: the exchange to start now, or True when the reactor wants to be called, or False.
        """
        lock = self.lock
        lock.acquire()
        try:
            self.holder = NOBODY
            if last and not self.closing:
                following = self._next(exchange)
                if following is not False:
                    return following
            return self.attention
        finally:
            lock.release()

    def release(self) -> bool:
        """Let go of the token; no answer has ended.

        True when the reactor wants to be called: it meant to close meanwhile.
        """
        with self.lock:
            self.holder = NOBODY
            return self.closing

    def leave_to_reactor(self, rest: list[Piece], last: bool) -> bool:
        """The kernel did not take it all; the token goes to the reactor, with the rest.

        True when the reactor wants to be called: it meant to close meanwhile, and the rest is dropped.
        """
        with self.lock:
            if self.closing:
                self.holder = NOBODY
                return True
            self.holder = REACTOR
            self._append(rest, last)
            return False

    def append(self, exchange: E, pieces: list[Piece], last: bool) -> bool:
        """Put pieces behind what the reactor is sending.  False: it is through meanwhile, acquire again."""
        with self.lock:
            if self.holder is not REACTOR or exchange is not self.current:
                return False
            self.begun = True
            self._append(pieces, last)
            return True

    def _append(self, pieces: list[Piece], last: bool) -> None:
        for piece in pieces:
            if piece:
                if self.rest is _NO_REST:
                    self.rest = deque()
                self.rest.append(piece)
                self.held += len(piece)
        self.last = last

    def wait(self, above: int, until: int) -> bool:
        """Let a thread wait while more than `above` bytes are held, until no more than `until` are.

        The wait ends when the connection is closed, as it is in a takedown.  False: the client will not read it.
        """
        with self.lock:
            if self.held > above:
                if self.room is None:
                    self.room = threading.Condition(self.lock)
                while self.held > until:  # a close leaves nothing held
                    self.room.wait()
            return not self.closed

    # -- the reactor ------------------------------------------------------------------------------------

    def acquire_for_interim(self, exchange: E | None = None) -> bool:
        """Take the token for an interim answer (100 Continue).

        :param exchange: the exchange whose turn it is, and whose answer has not begun; None for an idle connection.
        """
        with self.lock:
            if self.current is not exchange or self.begun or self.holder or self.closing or self.lingering:
                return False
            self.holder = SENDER
            return True

    def seize(self) -> bool:
        """Have nothing sent until :meth:`let_go`, or a close.  False: a sender sends just now."""
        with self.lock:
            if self.holder is SENDER or self.closing or self.lingering:
                return False
            if self.holder is NOBODY:
                self.holder, self.last = REACTOR, False
            return True

    def let_go(self, pulls: bool) -> bool:
        """Undo :meth:`seize`.  Returns whether there is something to send.

        :param pulls: more is to be sent than the rest.
        """
        with self.lock:
            if self.rest or self.last or pulls:
                return True
            self.holder = NOBODY
            return False

    def first_piece(self) -> Piece | None:
        """What the reactor has to send next."""
        with self.lock:
            return self.rest[0] if self.rest else None

    def piece_taken(self, count: int) -> None:
        """The kernel took `count` bytes of the first piece."""
        with self.lock:
            piece = self.rest[0]
            if count < len(piece):
                self.rest[0] = memoryview(piece)[count:]
            else:
                self.rest.popleft()
            self.held -= count
            if self.room is not None:
                self.room.notify_all()

    def rest_flushed(self) -> tuple[bool, E | None, E | bool]:
        """The reactor sent the whole rest, and lets go if really nothing was added meanwhile.

        :returns: whether it let go; the exchange whose answer has ended with this, if one has; and, if so, what
            :meth:`done` returns.
        """
        with self.lock:
            if self.rest or self.holder is not REACTOR:
                return False, None, False
            self.holder = NOBODY
            self.rest = _NO_REST
            if not self.last:
                return True, None, self.attention
            ended = self.current
            assert ended is not None
            return True, ended, self._next(ended)

    def end_of_input(self) -> bool:
        """The client will send nothing more.  True: close now; False: an answer is still owed."""
        with self.lock:
            self.eof = True
            return self.lingering or self.current is None

    def forget(self) -> None:
        """The descriptor is closed, and the current exchange has been told, or is over."""
        with self.lock:
            self.current = None

    def idle(self) -> bool:
        """Nothing is being answered, and nothing is left to send."""
        with self.lock:
            return self.current is None and self.holder is NOBODY

    def linger(self) -> bool:
        """Stop answering an idle connection, to shut its sending side down.  False: a request came first."""
        with self.lock:
            if self.current is not None or self.holder or self.closing:
                return False
            self.lingering = True
            return True

    def replace(self, exchange: E, by: E) -> bool:
        """Put another exchange in the place of one that does not come to an end, to answer instead of it.

        A thread that still works for the old one gets `GONE`.  False: a piece of its answer is in the kernel or on
        its way, so that the connection can only be closed.
        """
        with self.lock:
            if exchange is not self.current or self.begun or self.closing:
                return False
            self.current = by
            return True

    def close(self, only: E | None = None) -> bool | None:
        """Ask to close.  True, once: no thread sends, close the descriptor.

        False: a sender holds the token.  Its letting go returns True; then ask again.  What is `current` and
        `waiting` afterwards will get no answer, or no more of it.

        :param only: close only if it is this exchange's turn, and not all of it is in the kernel.  None: it is not.
        """
        with self.lock:
            if only is not None and (only is not self.current or self.lingering):
                return None
            if self.closed:
                return False
            if self.holder is SENDER:
                self.closing = self.attention = True
                return False
            self.closed = self.closing = True
            self.holder = NOBODY
            self.rest = _NO_REST
            self.held = 0
            if self.room is not None:
                self.room.notify_all()
            return True
