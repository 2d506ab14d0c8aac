"""All plain connections in one epoll of our own, itself watched by Twisted's reactor.

A reactor wakes up for each connection, builds a transport around each, and may close a descriptor behind the
back of a thread that is sending on it.  The hub is one descriptor to the reactor: when it is ready, a batch of
connections is read in one go, and the worker threads are woken once, at the end of the batch.  Since `epoll_ctl`
is safe from any thread, a worker that has to leave the rest of an answer says so to the epoll itself.

TLS, other protocols, timers and everything else stay the reactor's.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from zope.interface import implementer

log = Logger(namespace="graceful")


IN: Final = select.EPOLLIN
OUT: Final = select.EPOLLOUT
#: Connections worked through in one go, before the reactor's timers and other descriptors have their turn.
BATCH: Final = 128


def _nothing() -> None:
    """The default of `before` and `after`: do nothing."""


class Pollable(Protocol):
    """What the hub asks of a connection.

    :ivar fd: its descriptor.
    :ivar reading: whether the hub calls `readable` for what comes.
    :ivar writing: whether the hub calls `writable` when the kernel takes more.
    """

    fd: int
    reading: bool
    writing: bool

    def readable(self) -> None:
        """There is something to read, or the client has closed."""

    def writable(self) -> None:
        """The kernel takes more."""

    def close(self) -> object:
        """Close the descriptor, and have the hub forget it first."""


@implementer(IReadDescriptor)
class Hub:
    """The epoll of one server.

    :ivar now: the time of the current batch, monotonic seconds; reactor thread.
    :ivar before, after: called around each batch: the thread pool collects its wake-ups here.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._epoll = select.epoll()
        self._connections: dict[int, Pollable] = {}
        self._thread = threading.get_ident()
        self.now = monotonic()
        self.before: Callable[[], None] = _nothing
        self.after: Callable[[], None] = _nothing

    def start(self) -> None:
        """Have the reactor watch the epoll.  Reactor thread."""
        self._thread = threading.get_ident()
        self._reactor.addReader(self)

    def stop(self) -> None:
        """Close what is still open, and the epoll."""
        for connection in list(self._connections.values()):
            connection.close()
        self._reactor.removeReader(self)
        self._epoll.close()

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function in the reactor thread, from any thread."""
        self._reactor.callFromThread(function, *args)

    def in_reactor_thread(self) -> bool:
        """Whether the caller is the thread that must never wait."""
        return threading.get_ident() == self._thread

    # -- connections --------------------------------------------------------------------------------------

    def add(self, connection: Pollable) -> None:
        """Begin to read from a connection.  Reactor thread."""
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, IN)

    def descriptors(self) -> list[int]:
        """The descriptors of all its connections, and its own.  Reactor thread."""
        return [self._epoll.fileno(), *self._connections]

    def interest(self, connection: Pollable) -> None:
        """Wait for what the connection now wants.  Any thread, under the connection's lock."""
        try:
            self._epoll.modify(connection.fd, (IN if connection.reading else 0) | (OUT if connection.writing else 0))
        except FileNotFoundError:
            pass  # it was forgotten: a close is under way, and waits for a sender

    def forget(self, connection: Pollable) -> None:
        """Stop looking at a connection, before its descriptor is closed.  Reactor thread."""
        if self._connections.pop(connection.fd, None) is not None:
            self._epoll.unregister(connection.fd)

    # -- IReadDescriptor ----------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The epoll's descriptor."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        """What the reactor calls it in its log."""
        return "hub"

    def connectionLost(self, reason: Any) -> None:
        """The reactor ends; :meth:`stop` closes what is open."""

    def doRead(self) -> None:
        """Work through what is ready now."""
        self.now = monotonic()
        self.before()
        try:
            connections = self._connections
            for fd, event in self._epoll.poll(0, BATCH):
                connection = connections.get(fd)
                if connection is None:
                    continue  # closed earlier in this batch
                try:
                    if event & OUT:
                        connection.writable()
                        if event == OUT:
                            continue
                    if connection.reading:
                        connection.readable()
                    elif event & ~(IN | OUT):
                        connection.close()
                except Exception:
                    log.failure("a connection failed and is closed")
                    connection.close()
        finally:
            self.after()
