"""The listening sockets of a worker, which its supervisor binds, holds, and shares between all workers.

The supervisor says when to accept, and has to be asked before sockets are closed: another worker may accept from them
by then.  A worker has no pid file, no path for its control socket and no service manager to notify: its supervisor
has all that.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any

from attrs import asdict, evolve
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from graceful.drain.result import DrainResult
from graceful.drain.state import State
from graceful.process.own_process import OwnProcess
from graceful.server.socket_source import Acceptor
from graceful.sockets.binding import BoundSocket
from graceful.takeover.connection_links import Link
from graceful.takeover.predecessor import Predecessor
from graceful.web.broken_page import BrokenPage
from graceful.web.site import Interceptor
from graceful.web.transport_connection import EndpointFactory
from graceful.workers.parent import Parent

log = Logger(namespace="graceful")


class SupervisedSockets:
    """A :class:`graceful.server.socket_source.SocketSource`: the sockets come from a supervisor.

    :param process: the worker's own.
    :param parent: the supervisor, as the worker sees it.
    """

    def __init__(self, process: OwnProcess, parent: Parent) -> None:
        self._process = process
        self._parent = parent
        self.control: socket.socket | None = parent.control
        self.label = f"worker {parent.number}: "
        self.words = f"worker {parent.number} stops", f"worker {parent.number} has drained and is gone"
        self._bound: list[BoundSocket] = []
        self._server: Acceptor
        self._broken = BrokenPage() if process.reload else None
        self.interceptors: Sequence[Interceptor] = [self._broken] if self._broken is not None else ()
        self._since = time.time()  # before the application is imported
        self._handed = False  # another process accepts: what is in the queues is left to it

    def bind(self, reactor: Any, factory: EndpointFactory, predecessor: Predecessor | None) -> None:
        """Get the sockets from the supervisor.

        :raises ParentError: there are none.
        """
        self._bound = self._parent.sockets()
        for bound in self._bound:
            self._process.startup.undo.callback(bound.close)

    def names(self) -> list[str]:
        """Returns where the server will listen."""
        return [bound.name for bound in self._bound]

    def descriptors(self) -> list[int]:
        """Returns the descriptors of the sockets that do not accept yet, and of the channel to the supervisor."""
        return [*(bound.socket.fileno() for bound in self._bound), self._parent.fileno()]

    def accept(self, server: Acceptor, reactor: Any) -> None:
        """Be ready to accept; the supervisor says when."""
        self._server = server
        self._reactor = reactor
        self._parent.watch(reactor, self)

    def inherited(self) -> None:
        """A worker has no predecessor."""

    def close(self) -> Deferred[None]:
        """Close everything: the server stops before it was put together."""
        self._close_unused()
        return succeed(None)

    def _close_unused(self) -> None:
        for bound in self._bound:
            bound.close()

    # -- the supervisor's orders; a :class:`graceful.workers.parent.ParentListener` ------------------------

    def begin_to_accept(self) -> None:
        """Accept from the worker's own sockets."""
        bound, self._bound = self._bound, []
        server = self._server
        if server.drain.state != State.SERVING:
            for one in bound:
                one.close()
            return
        server.engine.accept(bound, [], server.factory, silent=True)
        server.accepting()
        self._parent.accepts()
        if self._broken is not None and self._parent.number == 1:
            self._watch_modules()

    def _watch_modules(self) -> None:
        from graceful.application.module_watch import ModuleWatch  # no other start has to wait for it

        def changed(files: list[str]) -> None:
            self._reactor.callFromThread(self._parent.changed, files)

        ModuleWatch(changed, self._since).start()

    def show_broken(self, text: str | None) -> None:
        """Show browsers why newer code cannot be imported; None if it can."""
        if self._broken is not None:
            self._broken.text = text

    def accept_more(self, bound: Sequence[BoundSocket]) -> None:
        """Accept from a sibling's sockets, too: it is gone, or not there yet."""
        self._server.engine.listening.accept_more(bound)

    def release(self, bound: Sequence[BoundSocket]) -> None:
        """Let go of a sibling's sockets: it accepts, and what is in the queues is left to it."""
        self._server.engine.listening.hand_sockets(bound, self._parent.supervisor)

    def give_connections(self, sock: socket.socket) -> None:
        """Give connections to the process at the other end of a socket, once another process accepts."""
        self._server.takers.give(sock)

    def take_connections(self, link: Link) -> None:
        """Take in the connections of a process that leaves."""
        self._server.arrivals.take([link])

    def succeeded(
        self,
        pid: int,
        handed: Sequence[BoundSocket],
        alone: Sequence[BoundSocket],
        served: Sequence[BoundSocket],
    ) -> None:
        """Drain, since another process accepts.

        :param pid: that process.
        :param handed: the sockets that it has; they are let go of at once.
        :param alone: the sockets that no other process has; they are closed with care.
        :param served: sockets that it does not have, and whose address it serves.
        """
        self._server.takers.begin([*handed, *served])
        self._server.engine.listening.hand_sockets(handed, pid)
        self._rebind(alone)
        self._handed = True
        self._server.orders.succeed()

    def supervisor_lost(self, ours: Sequence[BoundSocket]) -> None:
        """Stop: without a supervisor this worker would never be replaced.

        :param ours: the sockets that no process outside of this instance holds.  All its workers stop now, so these
            are closed with care.
        """
        if not self._handed:
            self._rebind(ours)
        self._handed = True  # there is nothing left to ask
        if self._server.orders.draining:
            self._server.orders.log_in_flight()
        self._server.orders.stop(False)

    # -- in a drain ---------------------------------------------------------------------------------------

    def before_closing(self) -> Deferred[None]:
        """Ask the supervisor, which holds the sockets, too."""
        self._close_unused()  # the order to stop came before the order to accept
        if self._handed:
            return succeed(None)
        return self._parent.may_close().addCallback(self._may_close)

    def _may_close(self, answer: tuple[int, list[BoundSocket]]) -> None:
        pid, alone = answer
        if pid:
            self._server.engine.listening.hand_sockets(self._server.engine.listening.open_sockets(), pid)
        self._rebind(alone)

    def _rebind(self, alone: Sequence[BoundSocket]) -> None:
        self._server.engine.listening.rebind([evolve(bound, shared=False) for bound in alone])

    def sockets_closed(self) -> None:
        """Tell the supervisor."""
        self._parent.closed()

    def drained(self, result: DrainResult, snapshot: dict[str, Any]) -> None:
        """Tell the supervisor how the drain ended, with the last counters."""
        self._parent.gone({**asdict(result), "picture": snapshot})
