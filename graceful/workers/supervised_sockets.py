"""The listening sockets of a worker, which its supervisor binds, holds, and shares between all workers.

The supervisor says when to accept, and has to be asked before sockets are closed: another worker may accept from them
by then.  A worker has no pid file, no path for its control socket and no service manager to notify: its supervisor
has all that.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from attrs import asdict, evolve
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from graceful.drain import DrainResult, State
from graceful.process.own_process import OwnProcess
from graceful.server.socket_source import Acceptor
from graceful.sockets.binding import BoundSocket
from graceful.takeover.predecessor import Predecessor
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

    def accept(self, server: Acceptor, reactor: Any) -> None:
        """Be ready to accept; the supervisor says when."""
        self._server = server
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

    def accept_more(self, bound: Sequence[BoundSocket]) -> None:
        """Accept from a sibling's sockets, too: it is gone, or not there yet."""
        self._server.engine.accept_more(bound)

    def release(self, bound: Sequence[BoundSocket]) -> None:
        """Let go of a sibling's sockets: it accepts, and what is in the queues is left to it."""
        self._server.engine.hand_sockets(bound, self._parent.supervisor)

    def succeeded(self, pid: int, handed: Sequence[BoundSocket], alone: Sequence[BoundSocket]) -> None:
        """Drain, since another process accepts.

        :param pid: that process.
        :param handed: the sockets that it has; they are let go of at once.
        :param alone: the sockets that no other process has; they are closed with care.
        """
        self._server.engine.hand_sockets(handed, pid)
        self._rebind(alone)
        self._handed = True
        self._server.orders.succeed()

    def supervisor_lost(self) -> None:
        """Stop: without a supervisor this worker would never be replaced."""
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
            self._server.engine.hand_sockets(self._server.engine.open_sockets(), pid)
        self._rebind(alone)

    def _rebind(self, alone: Sequence[BoundSocket]) -> None:
        self._server.engine.rebind([evolve(bound, shared=False) for bound in alone])

    def sockets_closed(self) -> None:
        """Tell the supervisor."""
        self._parent.closed()

    def drained(self, result: DrainResult, snapshot: dict[str, Any]) -> None:
        """Tell the supervisor how the drain ended, with the last counters."""
        self._parent.gone({**asdict(result), "picture": snapshot})
