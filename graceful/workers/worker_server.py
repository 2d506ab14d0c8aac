"""What serves in a worker: the same server as anywhere, but for where its sockets come from and what they go back to.

It has no pid file, no path for its control socket and nobody to notify: all that is its supervisor's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import asdict, evolve
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from graceful.config.settings import Settings
from graceful.control.control_server import ControlServer
from graceful.drain import DrainResult, State
from graceful.process.own_process import OwnProcess
from graceful.process.systemd import SystemdNotifier
from graceful.server.app_server import AppServer
from graceful.server.engine import Root
from graceful.server.server_orders import ServerOrders
from graceful.sockets.binding import BoundSocket
from graceful.workers.parent import Parent

log = Logger(namespace="graceful")


class WorkerServer(AppServer):
    """Serves as a worker.

    :param root: makes the application, as for `AppServer`.
    :param settings: of the instance.
    :param process: our own.
    :param post: where it works.
    """

    def __init__(self, root: Callable[[], Root], settings: Settings, process: OwnProcess, post: Parent) -> None:
        super().__init__(root, evolve(settings, status_listen=(), control=""), process=process)
        self._post = post
        self._handed = False  # somebody else accepts: what is in the queues is for him

    def bind(self) -> None:
        """Get the sockets from the supervisor.

        :raises PostError: there are none.
        """
        self._bound = self._post.sockets()
        assert self._process is not None
        for bound in self._bound:
            self._process.startup.undo.callback(bound.close)

    def _bind_desk(self) -> None:
        self._desk = ControlServer(self.settings, self._status, None, SystemdNotifier({}))
        assert self._process is not None
        self._process.startup.undo.callback(self._desk.close)
        self._desk.serve(self._post.control)

    def _be_succeeded(self, desk: ControlServer, orders: ServerOrders) -> None:
        """A worker is succeeded by its supervisor's order."""

    def _accept(self) -> None:
        """Be ready to; the supervisor says when."""
        post, stopping = self._post, self._stopping
        post.on_accept, post.on_more, post.on_release = self._begin, self._accept_more, self._release
        post.on_succeeded, post.on_lost = self._succeeded, self._on_our_own
        stopping.before_closing, stopping.after_closing = self._before_closing, post.closed
        stopping.words = f"worker {post.number} stops", f"worker {post.number} has drained and is gone"
        stopping.on_gone = self._gone
        self._reactor.callWhenRunning(self._running)
        post.watch(self._reactor)

    def _begin(self) -> None:
        bound, self._bound = self._bound, []
        assert self._drain is not None
        if self._drain.state != State.SERVING:
            for one in bound:
                one.close()
            return
        self._engine.accept(bound, [], self._factory, silent=True)
        self._entered(State.SERVING)
        self._post.accepts()

    def _accept_more(self, bound: Sequence[BoundSocket]) -> None:
        """A sibling is gone, or not there yet."""
        self._engine.accept_more(bound)

    def _release(self, bound: Sequence[BoundSocket]) -> None:
        """It is there: what waits is for it."""
        self._engine.hand_sockets(bound, self._post.supervisor)

    def say_in_flight(self) -> None:
        """Log every exchange in flight, with its thread's stack."""
        log.info("worker {number}: {lines}", number=self._post.number, lines=self._engine.in_flight())

    # -- the way out --------------------------------------------------------------------------------------

    def _succeeded(self, pid: int, handed: Sequence[BoundSocket], alone: Sequence[BoundSocket]) -> None:
        """Another process accepts: let go of what it has, and drain; what it has not is closed with care."""
        assert self._drain is not None
        self._engine.hand_sockets(handed, pid)
        self._rebind(alone)
        self._handed = True
        self.limit()
        self._drain.succeeded()

    def _on_our_own(self) -> None:
        self._handed = True  # nobody is left to ask
        self.limit()
        self.stop(False)

    def _before_closing(self) -> Deferred[None]:
        """The supervisor holds the sockets, too: ask."""
        for bound in self._bound:  # it was told to stop before it was told to accept
            bound.close()
        if self._handed:
            return succeed(None)
        return self._post.may_close().addCallback(self._may_close)

    def _may_close(self, answer: tuple[int, list[BoundSocket]]) -> None:
        pid, alone = answer
        if pid:
            self._engine.hand_sockets(self._engine.open_sockets(), pid)
        self._rebind(alone)

    def _rebind(self, alone: Sequence[BoundSocket]) -> None:
        self._engine.rebind([evolve(bound, shared=False) for bound in alone])

    def _gone(self, ending: DrainResult) -> None:
        assert self._desk is not None
        picture = self._status.snapshot_with_counters(0)
        self._desk.end(ending)
        self._post.gone({**asdict(ending), "picture": picture})
