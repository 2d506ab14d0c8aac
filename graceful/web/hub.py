"""All connections on sockets of the server's own in one epoll of our own, itself watched by Twisted's reactor.

A reactor wakes up for each connection, builds a transport around each, and may close a descriptor behind the
back of a thread that is sending on it.  The hub is one descriptor to the reactor: when it is ready, a batch of
connections is read in one go, and the worker threads are woken once, at the end of the batch.  Since `epoll_ctl`
is safe from any thread, a worker that has to leave the rest of an answer says so to the epoll itself.

That is so with TLS, too: :mod:`graceful.web.tls_connection` encrypts between the application and the socket.  The
sockets that the connections come from are watched here as well.  What Twisted's endpoints accept (`ssl:` and those of
plugins), timers and everything else stay the reactor's.
With a :class:`~graceful.web.hub_reactor.HubReactor` the epolls are nested the other way round.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Protocol

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from graceful.web.hub_reactor import HubReactor

log = Logger(namespace="graceful")


IN: Final = select.EPOLLIN
OUT: Final = select.EPOLLOUT
#: Connections worked through in one go, before the reactor's timers and other descriptors have their turn.
BATCH: Final = 16


class Batch(Protocol):
    """Told of each batch of reads: a set of threads wakes one of them at its end, instead of one for each request."""

    def hold(self) -> None:
        """A batch begins."""

    def kick(self) -> None:
        """The batch is over."""


class Pollable:
    """What the hub asks of a connection.

    It is a base class for the reason that :mod:`graceful.web.carrier` tells.

    :ivar fd: its descriptor.
    :ivar reading: whether the hub calls `readable` for what comes.
    :ivar writing: whether the hub calls `writable` when the kernel takes more.
    """

    __slots__ = ("fd", "reading", "writing")

    fd: int
    reading: bool
    writing: bool

    def readable(self) -> None:
        """There is something to read, or the client has closed."""
        raise NotImplementedError

    def writable(self) -> None:
        """The kernel takes more."""
        raise NotImplementedError

    def close(self) -> object:
        """Close the descriptor, and have the hub forget it first."""
        raise NotImplementedError


@implementer(IReadDescriptor)
class Hub:
    """The epoll of one server.

    :param reactor: watches the epoll.
    :param batch: told when a batch begins and ends; None for a hub whose connections need no thread.
    :ivar now: the time of the current batch, monotonic seconds; reactor thread.
    """

    def __init__(self, reactor: Any, batch: Batch | None = None) -> None:
        self._reactor = reactor
        self._epoll = select.epoll()
        self._connections: dict[int, Pollable] = {}
        self._readers: dict[int, IReadDescriptor] = {}
        self._thread = threading.get_ident()
        self.now = monotonic()
        self._batches: tuple[Batch, ...] = (batch,) if batch is not None else ()
        self._loop_threads: set[int] = set()
        # The descriptor of the reactor's epoll, if ours has that in it, and whether that has to be looked into.
        self._inner = -1
        self._turn = False

    def start(self, outer: bool = False) -> None:
        """Have the reactor watch the epoll.  Reactor thread.

        :param outer: or have the epoll watch the reactor's, if it can be done: most of what comes will come here.
        """
        self._thread = threading.get_ident()
        reactor = self._reactor
        if not (outer and isinstance(reactor, HubReactor) and reactor.attach(self)):
            reactor.addReader(self)

    def stop(self) -> None:
        """Close what is still open, and the epoll."""
        for reader in list(self._readers.values()):
            self._lose(reader, Failure(ConnectionDone()))
        for connection in list(self._connections.values()):
            connection.close()
        reactor = self._reactor
        if not (isinstance(reactor, HubReactor) and reactor.detach(self)):
            reactor.removeReader(self)
        self._epoll.close()

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function in the reactor thread, from any thread."""
        self._reactor.callFromThread(function, *args)

    def in_reactor_thread(self) -> bool:
        """Whether the caller is the reactor thread."""
        return threading.get_ident() == self._thread

    def in_loop_thread(self) -> bool:
        """Whether the caller is a thread that must never wait: the reactor's, or another event loop's."""
        caller = threading.get_ident()
        return caller == self._thread or caller in self._loop_threads

    def add_loop(self, thread: int, batch: Batch) -> None:
        """Know another event loop that answers exchanges.  Any thread.

        :param thread: its thread, as `threading.get_ident()` numbers it.
        :param batch: told when a batch begins and ends.
        """
        self._loop_threads.add(thread)
        self._batches = (*self._batches, batch)

    # -- connections --------------------------------------------------------------------------------------

    def add(self, connection: Pollable) -> None:
        """Begin to read from a connection.  Reactor thread.

        :raises OSError: the epoll has no room for another descriptor.
        """
        self._epoll.register(connection.fd, IN)
        self._connections[connection.fd] = connection

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

    # -- listening sockets: reactor thread ----------------------------------------------------------------

    def addReader(self, reader: IReadDescriptor) -> None:
        """Watch a listening socket, as a reactor does, unless that is done already.

        :raises OSError: the epoll has no room for another descriptor.
        """
        fd = reader.fileno()
        if fd not in self._readers:
            self._epoll.register(fd, IN)
            self._readers[fd] = reader

    def removeReader(self, reader: IReadDescriptor) -> None:
        """Watch it no more, before its descriptor is closed."""
        if self._readers.pop(reader.fileno(), None) is not None:
            self._epoll.unregister(reader.fileno())

    def _accept(self, reader: IReadDescriptor) -> None:
        try:
            reader.doRead()
        except Exception:
            log.failure("{socket} failed and is closed", socket=reader.logPrefix())
            self._lose(reader, Failure())

    def _lose(self, reader: IReadDescriptor, reason: Failure) -> None:
        self.removeReader(reader)
        reader.connectionLost(reason)

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
        """Work through what is ready now.  Raises nothing: the reactor would look at the epoll no more."""
        try:
            events = self._epoll.poll(0, BATCH)
        except OSError:
            log.failure("the connections cannot be polled")
            return
        self._work(events)

    # -- OuterPoll ----------------------------------------------------------------------------------------

    def enclose(self, inner: int) -> None:
        """Watch the reactor's epoll.  Reactor thread."""
        self._epoll.register(inner, IN)
        self._inner = inner

    def poll(self, timeout: float) -> bool:
        """Wait for what is ready, and work it through.  Returns whether the reactor's turn has come."""
        events = self._epoll.poll(timeout, BATCH)
        # The reactor's may be one that did not fit: it has its turn, as it has behind each batch of a reader.
        self._turn = len(events) == BATCH
        if events:
            self._work(events)
        return self._turn

    # -- batches ------------------------------------------------------------------------------------------

    def _work(self, events: list[tuple[int, int]]) -> None:
        """Work through what is ready.  Raises nothing."""
        self.now = monotonic()
        try:
            for batch in self._batches:
                batch.hold()
            self._read_batch(events)
        except Exception:
            log.failure("a batch of connections failed")
        finally:
            for batch in self._batches:
                try:
                    batch.kick()
                except Exception:
                    log.failure("the threads could not be woken for a batch of connections")

    def catch_up(self) -> None:
        """Work through all that has come by now, in as many batches as that needs.  Reactor thread."""
        for _ in range(len(self._connections) // BATCH + 1):
            self.doRead()

    def _read_batch(self, events: list[tuple[int, int]]) -> None:
        connections = self._connections
        for fd, event in events:
            try:
                connection = connections.get(fd)
                if connection is None:
                    reader = self._readers.get(fd)
                    if reader is not None:
                        self._accept(reader)
                    elif fd == self._inner:
                        self._turn = True
                    continue  # or it was closed earlier in this batch
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
                self._close(fd)

    def _close(self, fd: int) -> None:
        """Close a connection that has failed, whatever it raises now."""
        connection = self._connections.get(fd)
        if connection is None:
            return
        try:
            connection.close()
        except Exception:
            log.failure("a connection that has failed could not be closed")
            self.forget(connection)
