"""Accepting connections, and ending it without losing one.

Twisted's own `Port` does three things that a server with careful clients cannot use.  Out of file
descriptors, it accepts and closes, though the kernel's queue would have kept the connections until there is
room.  When it stops, it calls `shutdown(2)`, which ends the listening of every process that holds the socket,
a successor included.  And it closes at once: every connection that the kernel had completed and the
server had not accepted yet is reset.

A `Listener` therefore accepts itself.  To close, it lets no new handshake begin where it may, accepts until
the queue is empty, waits a moment for handshakes under way, which it accepts too, and only then closes its
descriptor.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any, Final, Protocol

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IReadDescriptor
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from graceful.sockets.binding import BoundSocket
from graceful.sockets.handshakes import drop_new, half_open, refuse_new, release
from graceful.sockets.reserve import NO_DESCRIPTORS, Reserve, connection_waits

log = Logger(namespace="graceful")


Accepted = Callable[[socket.socket, Any], object]

#: Connections accepted in one go, so that a long queue does not delay what else is ready.
A_TURN: Final = 256

#: Seconds until the next attempt to accept after the system had no room for one more connection.
NO_ROOM_PAUSE: Final = 0.1

#: Seconds that a closing listener waits at most for handshakes under way: the round trip to nearly anywhere.
HANDSHAKES_WAIT: Final = 0.25

#: The same where new clients are refused meanwhile, and not kept waiting: an answer of the kernel's to a SYN that is
#: lost is sent again after a second (RFC 6298 §2.1), and the client's answer to that takes a round trip.
SENT_AGAIN_WAIT: Final = 1.5

#: Seconds between two counts of these handshakes.
HANDSHAKES_LOOK: Final = 0.005

#: Errors that belong to one connection, which is gone from the queue with them; accept(2) says to go on.
_THAT_ONE_IS_GONE: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.EPERM,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
        errno.ECONNRESET,
        errno.EINTR,
    }
)


class _Queue(Enum):
    """How an attempt to accept has left the kernel's queue."""

    EMPTY = auto()
    MAY_HAVE_MORE = auto()
    NO_ROOM = auto()  # EMFILE, ENFILE, ENOBUFS, ENOMEM, or an unknown error: trying again at once would spin


def accepts_from(listening: socket.socket) -> Callable[[], tuple[socket.socket, Any]]:
    """Returns what accepts a connection, as `socket.accept` does.

    That one makes enumerations of the listening socket's family and type each time, by eight calls in Python.
    """
    accept = getattr(listening, "_accept", None)  # what CPython's own `accept` calls
    if accept is None:
        return listening.accept
    family, kind, proto = int(listening.family), int(listening.type), listening.proto

    def accepted() -> tuple[socket.socket, Any]:
        descriptor, peer = accept()
        return socket.socket(family, kind, proto, descriptor), peer

    return accepted


class Readers(Protocol):
    """What calls `doRead` when a socket is ready: the server's hub, or a reactor."""

    def addReader(self, reader: Any) -> object:
        """Watch it, unless that is done already."""

    def removeReader(self, reader: Any) -> object:
        """Watch it no more, if that was done."""


@implementer(IReadDescriptor)
class Listener:
    """One listening socket.  Everything here happens in the reactor thread.

    :ivar name: what log lines call the socket.
    :ivar paused: why nothing is accepted for now, None if it is; a full server says `max-connections`.
    :ivar closed: whether the descriptor is closed.
    :ivar bound: the socket; `shared` changes when a successor gets it, too.
    """

    def __init__(
        self,
        readers: Readers,
        clock: IReactorTime,
        bound: BoundSocket,
        accepted: Accepted,
        *,
        half_open: Callable[[int], int] = half_open,
        silent: bool = False,
        reserve: Reserve | None = None,
    ) -> None:
        """Take over a bound socket; nothing is accepted before `start`.

        :param readers: watches the socket.
        :param clock: times the pauses.
        :param bound: the socket; closed by us from now on.
        :param accepted: called with each new connection's non-blocking socket and its peer's address.
        :param half_open: counts the handshakes under way on a TCP port.
        :param silent: do not say "closed", by which scripts know that a successor may start.
        :param reserve: has descriptors for connections when there are no others left.
        """
        self.name = bound.name
        self.paused: str | None = None
        self.closed = False
        self.bound = bound
        self._readers = readers
        self._clock = clock
        self._accepted = accepted
        self._half_open = half_open
        self._silent = silent
        self._accept: Callable[[], tuple[socket.socket, Any]] = (
            accepts_from(bound.socket) if reserve is None else partial(reserve.accept, bound.socket)
        )
        self._started = False
        self._closing = False
        self._drops_handshakes = False  # in a way that accepted connections inherit
        self._no_room = False  # the last accept found no room; said in the log once, until one succeeds
        self._retry: IDelayedCall | None = None
        self._waiting: list[Deferred[None]] = []

    def start(self) -> None:
        """Begin to accept."""
        self._started = True
        self._watch()

    def pause(self, reason: str) -> None:
        """Leave new connections in the kernel's queue until `resume`.  `accepted` may call this."""
        self.paused = reason
        self._watch()

    def resume(self) -> None:
        """Accept again."""
        self.paused = None
        self._watch()

    def close(self, within: float) -> Deferred[None]:
        """Stop listening without losing a connection that the kernel has completed.

        A pause does not hold here: these connections exist, and leaving them would reset them.

        :param within: seconds for which to go on trying when the system has no room for one more connection.
        :returns: fires when the descriptor is closed, and never with a failure.
        """
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        if self.closed:
            self._tell()
        elif not self._closing:
            self._closing = True
            self._watch()
            Deferred.fromCoroutine(self._close(self._clock.seconds() + within)).addErrback(self._close_anyway)
        return done

    def hand_over(self, pid: int) -> None:
        """Close at once, and leave everything that is in the queue to another process that accepts from it.

        :param pid: that process, for the log.
        """
        if self.closed:
            return
        if not self._silent:
            log.info("socket {name} handed to {pid}", name=self.name, pid=pid)
        self.bound = evolve(self.bound, shared=True, path=None)
        self._finish()

    def rebind(self, known: Sequence[BoundSocket]) -> None:
        """Take note of what has become known about the socket, if it is among these."""
        for one in known:
            if one.socket is self.bound.socket:
                self.bound = one

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 once closed.  For what watches it, as are the following."""
        return self.bound.socket.fileno()

    def logPrefix(self) -> str:
        """Return what we are called in its log."""
        return self.name

    def doRead(self) -> None:
        """Accept the connections in the queue."""
        if self._accept_some() is _Queue.NO_ROOM:
            self._retry = self._clock.callLater(NO_ROOM_PAUSE, self._watch_again)
            self._watch()

    def connectionLost(self, reason: Failure) -> None:
        """Close at once: it stops, or :meth:`doRead` has raised."""
        self._finish()

    def _watch(self) -> None:
        """Have the socket watched, or not, as our state requires."""
        if self.closed:
            return
        if self._started and self.paused is None and self._retry is None and not self._closing:
            self._readers.addReader(self)
        else:
            self._readers.removeReader(self)

    def _watch_again(self) -> None:
        self._retry = None
        self._watch()

    def _accept_some(self) -> _Queue:
        """Accept until the queue is empty, but at most `A_TURN` times."""
        for _ in range(A_TURN):
            if self.paused is not None and not self._closing:
                return _Queue.MAY_HAVE_MORE
            try:
                connection, address = self._accept()
            except BlockingIOError:
                return _Queue.EMPTY
            except OSError as error:
                if error.errno in _THAT_ONE_IS_GONE:
                    continue
                if error.errno in NO_DESCRIPTORS and not connection_waits(self.bound.socket):
                    return _Queue.EMPTY
                self._say_no_room(error)
                return _Queue.NO_ROOM
            if self._no_room:
                self._no_room = False
                log.info("socket {name} accepts again", name=self.name)
            try:
                connection.setblocking(False)
                if self._drops_handshakes:
                    release(connection)
                self._accepted(connection, address)
            except Exception:
                log.failure("socket {name}: a new connection could not be taken", name=self.name)
                connection.close()
        return _Queue.MAY_HAVE_MORE

    def _say_no_room(self, error: OSError) -> None:
        if self._no_room:
            return
        self._no_room = True
        log.error(
            "socket {name} cannot accept: {reason}; new connections wait in its queue until it can{advice}",
            name=self.name,
            reason=error.strerror,
            advice="; raise the limit on open files" if error.errno in NO_DESCRIPTORS else "",
        )

    async def _close(self, give_up: float) -> None:
        """Accept all completed connections, let no new handshake begin, and close.

        :param give_up: the clock's time at which to stop trying to accept without room for it.
        """
        listening = self.bound.socket
        own_tcp = listening.family != socket.AF_UNIX and not self.bound.shared
        wait = self._shut_out_new(listening) if own_tcp else 0.0
        if await self._accept_all(give_up) and wait:
            await self._handshakes_done(listening.getsockname()[1], self._clock.seconds() + wait)
            await self._accept_all(give_up)
        self._finish()

    def _shut_out_new(self, listening: socket.socket) -> float:
        """Let no new handshake begin; returns for how many seconds those under way are waited for."""
        refuses = refuse_new(listening)
        # The kernel chooses among the sockets of workers without looking at their interfaces, while one is left.
        if not refuses or listening.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            self._drops_handshakes = drop_new(listening)
        if refuses:
            return SENT_AGAIN_WAIT
        return HANDSHAKES_WAIT if self._drops_handshakes else 0.0

    async def _accept_all(self, give_up: float) -> bool:
        """Accept until the queue is empty.

        :param give_up: the clock's time at which to stop trying to accept without room for it.
        :returns: False if connections are left, or the socket has been closed meanwhile.
        """
        while not self.closed:
            queue = self._accept_some()
            if queue is _Queue.EMPTY:
                return True
            if queue is _Queue.MAY_HAVE_MORE:
                await deferLater(self._clock, 0)
            elif self._clock.seconds() + NO_ROOM_PAUSE <= give_up:
                await deferLater(self._clock, NO_ROOM_PAUSE)
            else:
                log.error(
                    "socket {name} closes with connections in its queue, which are reset: there was no room"
                    " to accept them; raise the limit on open files",
                    name=self.name,
                )
                return False
        return False

    async def _handshakes_done(self, port: int, give_up: float) -> None:
        """Wait for clients that have sent their SYN and are about to be connected, and accept them.

        :param give_up: the clock's time at which to stop waiting.
        """
        while not self.closed and self._clock.seconds() < give_up and self._half_open(port):
            await deferLater(self._clock, HANDSHAKES_LOOK)
            if not self.closed:
                self._accept_some()

    def _close_anyway(self, failure: Failure) -> None:
        log.failure("socket {name}: trouble while closing", failure, name=self.name)
        self._finish()

    def _finish(self) -> None:
        """Close the descriptor, log it, and fire the deferreds of `close`."""
        if self.closed:
            return
        self._readers.removeReader(self)
        self.closed = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self.bound.close()
        if not self._silent:
            log.info("socket {name} closed (pid {pid})", name=self.name, pid=os.getpid())
        self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done.callback(None)
